"""Where rows come from. Every source is read row by row, as often as wanted, and known by content.

A row is what the source holds, unchecked, with its number, counted from 1 as in an editor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.assets import LARGE_BYTES, cache_folder
from trainables.faults import ConfigError
from trainables.mixture import EMBEDDED_TRAIN_DATA

COLUMNS = ("query", "positive", "negatives")
_CHUNK = 1024  # rows of a table that are in memory at once
_BUFFER_BYTES = 2**20  # of each column; else a whole row group of a file would be in memory

Rows = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that can be read."""

    content: Callable[[], str]  # what differs where rows do
    rows: Callable[[], Rows]


def find(name: str, field: str) -> Source:
    """Return the data set `name`; faults are told of the configuration's `field`.

    `name` is the embedded "boolq", a .jsonl or .parquet file, a folder that `datasets` saved, or a
    hub id. Reading a source raises `ConfigError` too, where it turns out not to be what it seems.

    Raises:
        ConfigError: If there is no such data, or a column is missing.
    """
    if name == EMBEDDED_TRAIN_DATA:
        return _embedded()
    path = Path(name)
    if path.suffix not in {".jsonl", ".parquet"}:
        return _table(name, field)
    if not path.is_file():
        raise ConfigError(f"{field}: expected a file, got {name!r}")
    return _file(path, field)


def _embedded() -> Source:
    from trainables import boolq, packages  # scikit-learn takes a second to import

    return Source(
        lambda: f"boolq {boolq.VERSION} {packages.BOOLQ.sha256}",
        lambda: enumerate(boolq.load_training_rows(), start=1),
    )


def _file(path: Path, field: str) -> Source:
    def content() -> str:
        with _reading(path, field):
            return _file_content(path)

    def rows() -> Rows:
        with _reading(path, field):
            yield from _jsonl(path) if path.suffix == ".jsonl" else _parquet(path, field)

    return Source(content, rows)


@contextlib.contextmanager
def _reading(path: Path, field: str) -> Iterator[None]:
    """Tell what the system or the format has against a file in one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{field}: expected a file that can be read, got {str(path)!r} ({reason})"
        ) from error


def _jsonl(path: Path) -> Rows:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, line.decode(errors="replace")


def _parquet(path: Path, field: str) -> Rows:
    with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        columns = _columns(file.schema_arrow.names, field, str(path))
        batches = file.iter_batches(batch_size=_CHUNK, columns=columns)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _table(name: str, field: str) -> Source:
    table = _load(name, field)
    table = table.select_columns(_columns(table.column_names, field, name)).with_format(None)

    def rows() -> Rows:
        chunks: Iterator[Mapping[str, Sequence[Any]]] = table.iter(batch_size=_CHUNK)
        values = (zip(*chunk.values(), strict=True) for chunk in chunks)
        names = table.column_names
        return enumerate(
            (dict(zip(names, row, strict=True)) for chunk in values for row in chunk), start=1
        )

    return Source(lambda: f"datasets {table._fingerprint}", rows)


def _load(name: str, field: str) -> Any:
    import datasets  # a second to import, and not needed for the other kinds

    try:
        table = datasets.load_from_disk(name) if Path(name).is_dir() else None
        table = datasets.load_dataset(name, split="train") if table is None else table
        return table["train"] if isinstance(table, datasets.DatasetDict) else table
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{field}: expected {EMBEDDED_TRAIN_DATA!r}, a .jsonl or .parquet file, a folder "
            f"saved by `datasets` or a hub id, got {name!r} ({reason})"
        ) from error


def _columns(names: Sequence[str], field: str, name: str) -> list[str]:
    """Return the columns to read; negatives may be missing."""
    missing = [column for column in COLUMNS[:2] if column not in names]
    if missing:
        raise ConfigError(
            f"{field}: expected the columns query, positive and negatives, got "
            f"{', '.join(names)} in {name!r}"
        )
    return [column for column in COLUMNS if column in names]


def _file_content(path: Path) -> str:
    """Return a file's SHA-256; for a large one its time is proof that it is as it was hashed."""
    state = path.stat()
    if state.st_size <= LARGE_BYTES:
        return _sha256(path)
    known = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    note = cache_folder() / "data" / f"{hashlib.sha256(known.encode()).hexdigest()[:24]}.sha256"
    if not note.is_file():
        note.parent.mkdir(parents=True, exist_ok=True)
        begun = note.with_suffix(f".{os.getpid()}")
        begun.write_text(_sha256(path))
        begun.replace(note)
    return note.read_text()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
