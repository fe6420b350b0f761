"""How a store is made: rows checked, some held out, the others tokenised, in chunks.

The source is read twice, first to check its rows and to choose those that are held out, then to
write the others. Memory holds a chunk and the held-out rows, whatever the number of rows.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import logging
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from trainables.assets import AssetError, cache_folder
from trainables.data.rows import Triple, checked, text_hash
from trainables.data.sources import Source
from trainables.data.store import Store, Writer, describe, is_whole, mapped
from trainables.faults import ConfigError
from trainables.mixture import EMBEDDED_TRAIN_DATA

if TYPE_CHECKING:
    from trainables.tokenizer import Row, Tokenizer

VERSION = 1  # of the files and of the rules below: another version gets other folders
MAX_HELD_OUT = 100  # rows, or a tenth of them
MIN_ROWS = 10  # of which one is held out
_HELD_OUT_SEED = 0  # fixed: every trial of a study scores itself on the same pairs
_CHUNK_TEXTS = 4096  # tokenised at once
_CHUNK_HASHES = 2**20

_log = logging.getLogger(__name__)

Numbered = tuple[int, Triple]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides a data set's tokens beside its rows and the tokenizer."""

    query_instruction: str
    document_instruction: str
    max_query_tokens: int
    max_passage_tokens: int
    num_hard_negatives: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Rows that can be read, and how they are to be tokenised."""

    name: str
    label: str  # what messages about its rows call it
    field: str  # of the configuration that names it
    source: Source
    recipe: Recipe

    def rows(self) -> Iterator[Numbered]:
        """Yield the rows; see `checked`."""
        return checked(self.source.rows(), self.label, self.recipe.num_hard_negatives)


def open_store(data: DataSet, tokenizer: Tokenizer) -> Store:
    """Return the store of a data set, made when absent; other processes wait for it.

    Raises:
        ConfigError: If rows are not as expected; it names them.
        AssetError: If the cache cannot be written.
    """
    folder = cache_folder() / "data" / _key(data, tokenizer)
    try:
        if not is_whole(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not is_whole(folder):  # again: another process may have made it meanwhile
                    _log.info("tokenising %s", data.name)
                    _make(folder, data, tokenizer)
        return Store(folder)
    except OSError as error:
        raise AssetError(
            f"{folder}: {error}; free some space or set POOLSEARCH_CACHE to a folder to write to"
        ) from error


def held_out(data: DataSet) -> dict[int, Triple]:
    """Return the hundred or the tenth of the rows that is held out, by number.

    Raises:
        ConfigError: If rows are not as expected or there are too few of them.
    """
    draw = random.Random(_HELD_OUT_SEED)
    lowest: list[tuple[float, int, Triple]] = []  # a heap of the rows that drew the lowest numbers
    count = 0
    for number, triple in data.rows():
        count += 1
        heapq.heappush(lowest, (-draw.random(), number, triple))
        if len(lowest) > MAX_HELD_OUT:
            heapq.heappop(lowest)
    if count < MIN_ROWS:
        raise ConfigError(
            f"{data.field}: expected at least {MIN_ROWS} rows, so that one can be held out, "
            f"got {count or 'none'} in {data.name!r}"
        )
    chosen = sorted(lowest, reverse=True)[: count // 10]
    return {number: triple for _, number, triple in sorted(chosen, key=lambda row: row[1])}


def _key(data: DataSet, tokenizer: Tokenizer) -> str:
    """Return a name that is another one wherever a token may be."""
    parts = {
        "version": VERSION,
        "content": data.source.content(),
        "tokenizer": tokenizer.fingerprint(),
        **asdict(data.recipe),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _make(folder: Path, data: DataSet, tokenizer: Tokenizer) -> None:
    """Write into a folder beside it and move that into place, whole."""
    begun = folder.with_suffix(".begun")  # under the lock nobody else is at work on it
    for stale in (begun, folder):
        shutil.rmtree(stale, ignore_errors=True)
    begun.mkdir()
    try:
        _write(begun, data, tokenizer)
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _write(folder: Path, data: DataSet, tokenizer: Tokenizer) -> None:
    held = held_out(data)
    hidden = {text for triple in held.values() for text in (triple.query, triple.positive)}
    width, num_others, num_written = 2 + data.recipe.num_hard_negatives, 0, 0
    others = (row for row in data.rows() if row[0] not in held)
    with Writer(folder) as writer:
        for chunk in _chunks(others, max(1, _CHUNK_TEXTS // width)):
            kept = list(_without(chunk, hidden, data.recipe.num_hard_negatives))
            num_others += len(chunk)
            num_written += len(kept)
            if kept:
                numbers, triples = zip(*kept, strict=True)
                writer.write(numbers, triples, _tokenised(triples, data.recipe, tokenizer))
    _check_left(data, num_others, num_written)
    describe(folder, width, list(_unseen(held.values(), folder)))


def _without(rows: Iterable[Numbered], hidden: set[str], num: int) -> Iterator[Numbered]:
    """Yield rows that can do without the hidden texts, with as many negatives as wanted."""
    for number, triple in rows:
        negatives = [text for text in triple.negatives if text not in hidden]
        shows = triple.query in hidden or triple.positive in hidden
        if not shows and len(negatives) >= num:
            yield number, replace(triple, negatives=tuple(negatives[:num]))


def _tokenised(triples: Sequence[Triple], recipe: Recipe, tokenizer: Tokenizer) -> list[Row]:
    """Return the tokens of all texts, row by row."""
    queries = tokenizer.rows(
        [triple.query for triple in triples], recipe.max_query_tokens, recipe.query_instruction
    )
    passages = iter(
        tokenizer.rows(
            [text for triple in triples for text in triple.texts[1:]],
            recipe.max_passage_tokens,
            recipe.document_instruction,
        )
    )
    num = 1 + recipe.num_hard_negatives
    return [row for query in queries for row in (query, *itertools.islice(passages, num))]


def _check_left(data: DataSet, num_others: int, num_written: int) -> None:
    """Refuse a store without rows; say how many rows were left out."""
    if not num_written:
        raise ConfigError(
            f"{data.field}: expected rows that do not all share their texts, got {data.name!r}"
        )
    if num_written < num_others:
        # Known and meant for the embedded data; worth a look in anybody's own.
        level = logging.INFO if data.name == EMBEDDED_TRAIN_DATA else logging.WARNING
        num, reason = num_others - num_written, "share a text with held-out rows: left out"
        _log.log(level, "%s: %d rows %s", data.name, num, reason)


def _unseen(held: Iterable[Triple], folder: Path) -> Iterator[Triple]:
    """Yield the held-out rows without those negatives that a training row shows."""
    rows = list(held)
    texts = {text_hash(text): text for triple in rows for text in triple.negatives}
    candidates = np.array(sorted(texts), np.uint64)
    hashes = mapped(folder, "hashes")
    shown: set[str] = set()
    for start in range(0, len(hashes), _CHUNK_HASHES):
        found = np.intersect1d(candidates, hashes[start : start + _CHUNK_HASHES])
        shown |= {texts[value] for value in found.tolist()}
    for triple in rows:
        yield replace(triple, negatives=tuple(t for t in triple.negatives if t not in shown))


def _chunks(rows: Iterator[Numbered], size: int) -> Iterator[list[Numbered]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
