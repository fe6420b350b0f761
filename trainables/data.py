"""Training triples: a query, the passage that answers it, and passages that seem to."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.config import EMBEDDED_TRAIN_DATA, ConfigError

MAX_HELD_OUT = 100
MAX_FAULTS = 10  # that a message lists
_HELD_OUT_SEED = 0  # fixed: every trial of a study scores itself on the same pairs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Triple:
    """A query with one positive passage and its hard negatives, best first."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the triple."""
        return (self.query, self.positive, *self.negatives)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Triples to train on, and triples for a quick score that share no text with them."""

    train: tuple[Triple, ...]
    held_out: tuple[Triple, ...]


def load_triples(name: str, *, num_hard_negatives: int) -> TrainingData:
    """Load the columns query, positive and negatives, and hold 100 rows or a tenth out.

    `name` is the embedded "boolq", a .jsonl or .parquet file, a folder that `datasets` saved, or a
    hub id. `negatives` is a list or one text; without hard negatives the column may be missing.
    Training triples have exactly `num_hard_negatives`, held-out ones whatever train lacks.

    Raises:
        ConfigError: If there is no such data or rows are not as expected; it names the rows.
    """
    triples = _checked(name, _rows(name), num_hard_negatives)
    data = _held_out(triples, num_hard_negatives)
    left_out = len(triples) - len(data.train) - len(data.held_out)
    if left_out:
        # Known and meant for the embedded data; worth a look in anybody's own.
        level = logging.INFO if name == EMBEDDED_TRAIN_DATA else logging.WARNING
        _log.log(level, "%s: %d rows share a text with held-out rows: left out", name, left_out)
    if not data.train:
        raise ConfigError(
            f"training.data: expected rows that do not all share their texts, got {name!r}"
        )
    return data


def batch_at(data: TrainingData, step: int, *, batch_size: int, seed: int) -> list[Triple]:
    """Return the triples of a step, given by `seed` and `step` alone: a resume goes on exactly.

    Each epoch is a permutation, its incomplete last batch left out. Since the other rows of a
    batch are negatives, all its texts differ: a row that repeats one gives way to the next.

    Raises:
        ConfigError: If there are too few rows with different texts for one batch.
    """
    num_rows = len(data.train)
    epoch, place = divmod(step, max(num_rows // batch_size, 1))
    order = permutation(num_rows, seed, epoch)
    start = place * batch_size
    batch: list[Triple] = []
    seen: set[str] = set()
    for position in range(num_rows):  # the batch's own rows come first, then those after it
        triple = data.train[order[(start + position) % num_rows]]
        if len(set(triple.texts)) == len(triple.texts) and seen.isdisjoint(triple.texts):
            batch.append(triple)
            seen.update(triple.texts)
        if len(batch) == batch_size:
            return batch
    raise ConfigError(
        f"training.batch_size: expected at most {len(batch)}, the rows found whose texts all "
        f"differ, got {batch_size}"
    )


# Cached, since it is pure: a step then costs microseconds with any number of rows.
@functools.lru_cache(maxsize=2)
def permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's rows."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def _held_out(triples: Sequence[Triple], num_hard_negatives: int) -> TrainingData:
    """Choose the held-out rows; drop from either side what would give their passages away."""
    num = min(MAX_HELD_OUT, len(triples) // 10)
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(triples))
    chosen = {int(position) for position in order[:num]}
    held = [triples[position] for position in sorted(chosen)]
    hidden = {text for triple in held for text in (triple.query, triple.positive)}
    rest = (triple for position, triple in enumerate(triples) if position not in chosen)
    train = tuple(_without(rest, hidden, num_hard_negatives))
    shown = {text for triple in train for text in triple.texts}
    pruned = (
        Triple(t.query, t.positive, tuple(text for text in t.negatives if text not in shown))
        for t in held
    )
    return TrainingData(train=train, held_out=tuple(pruned))


def _without(
    triples: Iterable[Triple], hidden: set[str], num_hard_negatives: int
) -> Iterator[Triple]:
    """Yield the triples that can do without the hidden texts, with as many negatives as wanted."""
    for triple in triples:
        negatives = [text for text in triple.negatives if text not in hidden]
        if triple.query in hidden or triple.positive in hidden:
            continue
        if len(negatives) >= num_hard_negatives:
            yield Triple(triple.query, triple.positive, tuple(negatives[:num_hard_negatives]))


def _rows(name: str) -> Iterator[tuple[int, Any]]:
    """Yield each row with its number, counted from 1 as in an editor."""
    path = Path(name)
    if name == EMBEDDED_TRAIN_DATA:
        from trainables.boolq import load_training_rows  # scikit-learn takes a second to import

        return enumerate(load_training_rows(), start=1)
    if path.suffix in {".jsonl", ".parquet"} and not path.is_file():
        raise ConfigError(f"training.data: expected a file, got {name!r}")
    if path.suffix == ".jsonl":
        return _jsonl(path)
    return enumerate(_table(path), start=1)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, line


def _table(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[Mapping[str, Any]] = pq.read_table(path).to_pylist()
        return iter(rows)
    import datasets  # a second to import, and not needed for the other kinds

    try:
        table = datasets.load_from_disk(str(path)) if path.is_dir() else None
        table = datasets.load_dataset(str(path), split="train") if table is None else table
        return iter(table["train"] if isinstance(table, datasets.DatasetDict) else table)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"training.data: expected {EMBEDDED_TRAIN_DATA!r}, a .jsonl or .parquet file, a "
            f"folder saved by `datasets` or a hub id, got {str(path)!r} ({error})"
        ) from error


def _checked(name: str, rows: Iterable[tuple[int, Any]], num_hard_negatives: int) -> list[Triple]:
    triples: list[Triple] = []
    faults: list[str] = []
    for number, row in rows:
        fault = _row_fault(row, num_hard_negatives)
        if fault:
            faults.append(f"{Path(name).name}:{number}: {fault}")
        else:
            triples.append(Triple(row["query"], row["positive"], _negatives(row)))
    if faults:
        more = len(faults) - MAX_FAULTS
        raise ConfigError("\n".join(faults[:MAX_FAULTS] + [f"and {more} more rows"] * (more > 0)))
    if not triples:
        raise ConfigError(f"training.data: expected rows, got none in {name!r}")
    return triples


def _row_fault(row: Any, num_hard_negatives: int) -> str | None:
    if not isinstance(row, Mapping):
        return f"expected a JSON object, got {str(row).strip()[:60]!r}"
    for column in ("query", "positive"):
        if not _is_text(row.get(column)):
            return f"{column}: expected a text, got {row.get(column)!r}"
    negatives = row.get("negatives")
    texts = [] if negatives is None else negatives
    if not isinstance(texts, str | Sequence) or not all(map(_is_text, _as_list(texts))):
        return f"negatives: expected a list of texts, got {negatives!r}"
    if len(_as_list(texts)) < num_hard_negatives:
        return f"negatives: expected at least {num_hard_negatives}, got {len(_as_list(texts))}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _as_list(texts: str | Sequence[Any]) -> Sequence[Any]:
    return [texts] if isinstance(texts, str) else texts


def _negatives(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Keep each once, and never the positive itself."""
    texts = _as_list(row.get("negatives") or [])
    return tuple(text for text in dict.fromkeys(texts) if text != row["positive"])
