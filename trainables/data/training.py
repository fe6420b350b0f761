"""What a trial trains on: the batch of each step, the passages, and what is held out of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.config import InstructionConfig, TrialConfig
from trainables.data.making import DataSet, Recipe, held_out, open_store
from trainables.data.order import Schedule, permuted
from trainables.data.rows import Triple, text_hash
from trainables.data.sources import find
from trainables.data.store import Store
from trainables.faults import ConfigError
from trainables.mixture import instructions_of, shares

if TYPE_CHECKING:
    from trainables.tokenizer import Row, Tokenizer

MAX_NAMED = 16  # rows that a message lists

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step, all of one data set, as token ids; no two texts are the same."""

    source: str
    rows: tuple[int, ...]  # their numbers in the source
    queries: tuple[Row, ...]
    positives: tuple[Row, ...]
    negatives: tuple[Row, ...]  # equally many of each query, in the order of the queries

    @property
    def texts(self) -> tuple[Row, ...]:
        """All queries, then all positives, then all negatives."""
        return (*self.queries, *self.positives, *self.negatives)

    def share(self, rank: int, workers: int) -> Batch:
        """Return the part of one of several workers, to whom the rows are dealt in order."""
        first, last = (len(self.rows) * place // workers for place in (rank, rank + 1))
        each = len(self.negatives) // len(self.rows)
        return Batch(
            self.source,
            self.rows[first:last],
            self.queries[first:last],
            self.positives[first:last],
            self.negatives[first * each : last * each],
        )

    def __str__(self) -> str:
        """Return what a person looks the rows up by.

        >>> print(Batch("pairs.jsonl", (3, 17), (), (), ()))
        pairs.jsonl rows 3, 17
        """
        named = ", ".join(map(str, self.rows[:MAX_NAMED]))
        more = len(self.rows) - MAX_NAMED
        return f"{self.source} rows {named}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows of one data set that are not trained on, as texts."""

    source: str
    instructions: InstructionConfig
    triples: tuple[Triple, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A data set that is ready to be drawn from."""

    label: str
    share: float  # of the steps
    instructions: InstructionConfig
    store: Store


class Passages:
    """The distinct passages of the training rows, tokenised, without their labels."""

    def __init__(self, stores: Sequence[Store], hidden: set[int]) -> None:
        """Find each passage where it stands first, but for those with the hashes `hidden`.

        That needs some 50 bytes of memory for each passage, for a moment.
        """
        self._stores = stores
        hashes = [store.hashes[:, 1:].ravel() for store in stores]
        values, first = np.unique(np.concatenate(hashes), return_index=True)
        first = first[~np.isin(values, np.array(sorted(hidden), np.uint64))]
        first.sort()
        self._starts = np.cumsum([0, *map(len, hashes)])
        self._places: NDArray[np.int64] = first

    def __len__(self) -> int:
        """Return their number."""
        return len(self._places)

    def rows(self, numbers: NDArray[np.int64]) -> list[Row]:
        """Return some of them as token ids."""
        rows: list[Row] = []
        for place in self._places[numbers]:
            chosen = int(np.searchsorted(self._starts, place, side="right")) - 1
            store = self._stores[chosen]
            row, column = np.divmod(place - self._starts[chosen], store.width - 1)
            rows += store.texts(np.array([row * store.width + 1 + column]))
        return rows


class TrainingData:
    """A mix of data sets, in an order that is given by the seed and the step alone."""

    def __init__(self, sets: Sequence[Opened], *, batch_size: int, seed: int) -> None:
        """Take data sets whose shares sum to 1.

        Raises:
            ConfigError: If one of them cannot fill a batch.
        """
        self._sets = sets
        self._batch_size = batch_size
        self._seed = seed
        self._schedule = Schedule([opened.share for opened in sets])
        held_out = (triple for opened in sets for triple in opened.store.held_out)
        # A store hides its own held-out texts; those of the others are looked for at each step.
        self._hidden = {text_hash(text) for t in held_out for text in (t.query, t.positive)}
        _each(sets, lambda opened: self._draw(opened, 0))

    @property
    def held_out(self) -> tuple[HeldOut, ...]:
        """What is held out of each data set."""
        return tuple(HeldOut(s.label, s.instructions, s.store.held_out) for s in self._sets)

    def passages(self) -> Passages:
        """Return the distinct passages of all data sets, whatever their weights."""
        return Passages([opened.store for opened in self._sets], self._hidden)

    def batch_at(self, step: int) -> Batch:
        """Return the texts of a step, of one data set.

        Each epoch of a data set is a permutation of its rows, its incomplete last batch left out.
        Since the other rows of a batch are negatives, all its texts differ: a row that repeats
        one, or shows what another data set holds out, gives way to the next.

        Raises:
            ConfigError: If there are too few rows with different texts for one batch.
        """
        chosen, turn = self._schedule(step)
        opened = self._sets[chosen]
        store, size = opened.store, self._batch_size
        rows = self._draw(opened, turn)
        first = rows * store.width
        texts = store.texts(np.concatenate([first, first + 1, _negatives(first, store.width)]))
        return Batch(
            opened.label,
            tuple(store.numbers[rows].tolist()),
            tuple(texts[:size]),
            tuple(texts[size : 2 * size]),
            tuple(texts[2 * size :]),
        )

    def _draw(self, opened: Opened, turn: int) -> NDArray[np.int64]:
        """Return the rows of a data set's batch: its own first, then those after it."""
        number, size = len(opened.store), self._batch_size
        epoch, place = divmod(turn, max(number // size, 1))
        chosen: list[int] = []
        seen = self._hidden.copy()
        for start, end in _doubling(size, number):
            order = (place * size + np.arange(start, end)) % number
            rows = permuted(order, number, (self._seed, epoch))
            hashes = opened.store.hashes[rows].tolist()
            for row, texts in zip(rows.tolist(), hashes, strict=True):
                if len(set(texts)) == len(texts) and seen.isdisjoint(texts):
                    chosen.append(row)
                    seen.update(texts)
                if len(chosen) == size:
                    return np.array(chosen)
        raise ConfigError(
            f"training.batch_size: expected at most {len(chosen)}, the rows of {opened.label} "
            f"found whose texts all differ, got {size}"
        )


def open_data(config: TrialConfig, tokenizer: Tokenizer) -> TrainingData:
    """Return the training data of a trial; what is not yet in the cache is tokenised first.

    Raises:
        ConfigError: With the faults of all data sets.
        AssetError: If the cache cannot be written.
    """
    given, parts = config.training.data, shares(config.training.data)

    def opened(place: int) -> Opened:
        data = _data_set(config, place)
        return Opened(
            label=data.label,
            share=parts[place],
            instructions=instructions_of(given[place], config.instructions),
            store=open_store(data, tokenizer),
        )

    # By name, so that a mix is the same in whichever order it was written down.
    places = sorted(range(len(given)), key=lambda place: given[place].name)
    training = config.training
    return TrainingData(_each(places, opened), batch_size=training.batch_size, seed=config.seed)


def check_data(config: TrialConfig) -> None:
    """Read all rows without tokenising any.

    Raises:
        ConfigError: With the faults of all data sets.
    """
    _each(range(len(config.training.data)), lambda place: held_out(_data_set(config, place)))


def _data_set(config: TrialConfig, place: int) -> DataSet:
    training, field = config.training, f"training.data.{place}.name"
    given = training.data[place]
    instructions = instructions_of(given, config.instructions)
    return DataSet(
        name=given.name,
        label=_label(given.name, [each.name for each in training.data]),
        field=field,
        source=find(given.name, field),
        recipe=Recipe(
            query_instruction=instructions.query,
            document_instruction=instructions.document,
            max_query_tokens=training.max_query_tokens,
            max_passage_tokens=training.max_passage_tokens,
            num_hard_negatives=training.num_hard_negatives,
        ),
    )


def _label(name: str, names: Sequence[str]) -> str:
    """Return the file's own name, where no other data set has the same; a hub id is whole."""
    short = Path(name).name
    alone = [Path(other).name for other in names].count(short) == 1
    return short if alone and Path(name).exists() else name


def _doubling(size: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that make up `range(number)`, each after the first as long as all before it.

    >>> list(_doubling(2, 9))
    [(0, 2), (2, 4), (4, 8), (8, 9)]
    """
    start, end = 0, size
    while start < number:
        yield start, min(end, number)
        start, end = end, 2 * end


def _negatives(first: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the places of the hard negatives of rows whose queries are at `first`."""
    return (first[:, None] + np.arange(2, width)).ravel()


def _each(things: Iterable[T], use: Callable[[T], R]) -> list[R]:
    """Return what `use` makes of each; the faults of all are raised together."""
    results: list[R] = []
    faults: list[str] = []
    for thing in things:
        try:
            results.append(use(thing))
        except ConfigError as error:
            faults += str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(faults))
    return results
