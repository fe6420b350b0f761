"""Scores an encoder on mteb tasks and keeps the score of every item.

mteb computes all numbers; this module gives each task a fresh start, encodes each distinct text
once, keeps quiet and leaves the random states and the disk as they were.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.rows import Triple
from trainables.encoding import Encode, encode_texts, unit
from trainables.mteb_guard import guarded
from trainables.suites import Split, parts
from trainables.tasks import MTEB_SEED, category, load_task

if TYPE_CHECKING:
    from mteb.results import TaskResult

    from trainables.mteb_adapter import Item

ITEM_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("category", pa.string()),
        ("kind", pa.string()),
        ("item", pa.string()),
        ("value", pa.float64()),
        ("gold", pa.float64()),
    ]
)
CUTOFF = 10  # ranks that nDCG looks at


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an encoder scored.

    `items` has one row for each item, whose `kind` says what `value` is: "query" (nDCG@10 or the
    task's own measure), "text" (share of the fits that classified it rightly), "set" (V-measure
    of one disjoint set) or "pair" (cosine; `gold` is the human score, NaN elsewhere). For
    information there are rows of the kind "fit": the score of one classifier or one clustering.
    """

    scores: dict[str, float]  # each task's main score
    categories: dict[str, str]  # of each task that has a score
    failures: dict[str, str]  # why a task has none
    items: pa.Table
    results: tuple[TaskResult, ...] = ()  # mteb's own

    @property
    def mean(self) -> float:
        """The mean over categories of their tasks' mean.

        Raises:
            ValueError: If a task has no score.
        """
        if self.failures or not self.scores:
            reasons = [f"{task}: {reason}" for task, reason in self.failures.items()]
            raise ValueError("; ".join(reasons) or "expected a task, got none")
        by_category: dict[str, list[float]] = {}
        for task, score in self.scores.items():
            by_category.setdefault(self.categories[task], []).append(score)
        return fmean(map(fmean, by_category.values()))

    @property
    def summary(self) -> Evaluation:
        """The same without items and mteb's results."""
        return replace(self, items=ITEM_SCHEMA.empty_table(), results=())

    def write_items(self, path: Path) -> None:
        """Write the items as a parquet file."""
        pq.write_table(self.items, path, compression="zstd")

    def write_results(self, folder: Path, model: str, revision: str) -> None:
        """Write mteb's results as it keeps them: `mteb.ResultCache(folder)` reads them back.

        Args:
            folder: Gets `results/MODEL/REVISION/TASK.json`.
            model: The name under which the results stand.
            revision: What tells this model from others of the name.
        """
        with guarded():
            from mteb import ResultCache
            from mteb.models.model_meta import ModelMeta

            meta = ModelMeta.create_empty({"name": model, "revision": revision})
            for result in self.results:
                ResultCache(folder).save_to_cache(result, meta)


def evaluate(
    encode: Encode,
    tasks: Sequence[str],
    *,
    split: Split,
    only: str | None = None,
    batch_size: int,
    seed: int = MTEB_SEED,
    alike: Callable[[str | None], Hashable] = lambda role: role,
    prompted: Callable[[str], Encode] | None = None,
) -> Evaluation:
    """Score `encode` on one split of suites and tasks; a task that raises fails alone.

    Args:
        encode: Receives each text once for all tasks, those of similar length together.
        tasks: Suites and tasks by name.
        split: What of them is scored; the other split is out of reach.
        only: That one of the tasks alone.
        batch_size: Texts that `encode` receives at a time, at the most.
        seed: Draws the texts that classifiers are fitted on: one seed for all designs.
        alike: From a role to what is equal for roles that `encode` treats alike.
        prompted: From mteb's words for a task to an `encode` that writes them before its texts;
            without it, and where mteb has no words, `encode` is taken.
    """
    results: list[TaskResult] = []
    failures: dict[str, str] = {}
    tables = [ITEM_SCHEMA.empty_table()]
    with guarded(), tempfile.TemporaryDirectory() as folder:
        from trainables.mteb_adapter import TaskEncoder, score_task

        encoder = TaskEncoder(encode, batch_size, alike=alike, prompted=prompted)
        for name, whole in parts(tasks, split):
            if only not in (None, name):
                continue
            try:
                task = load_task(name, split, whole=whole, seed=seed)
                result, items = score_task(encoder, task, Path(folder))
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
                continue
            results.append(result)
            tables.append(_table(name, items))
    scores = {result.task_name: float(result.get_score()) for result in results}
    categories = {name: category(name) for name in scores}
    return Evaluation(scores, categories, failures, pa.concat_tables(tables), tuple(results))


def task_names(tasks: Sequence[str], split: Split) -> list[str]:
    """Return the names of all tasks that a split scores."""
    return [part.task for part in parts(tasks, split)]


def by_lot(tasks: Sequence[str]) -> list[str]:
    """Return the tasks in an order by lot, which is the same for all designs and studies.

    >>> by_lot(["STS12", "ArguAna", "SciFact"]) == by_lot(["SciFact", "STS12", "ArguAna"])
    True
    """
    return sorted(tasks, key=lambda task: hashlib.sha256(task.encode()).digest())


def joined(some: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation of all tasks of which each has some."""
    return Evaluation(
        scores={t: score for each in some for t, score in each.scores.items()},
        categories={t: kind for each in some for t, kind in each.categories.items()},
        failures={t: reason for each in some for t, reason in each.failures.items()},
        items=pa.concat_tables([each.items for each in some]),
        results=tuple(result for each in some for result in each.results),
    )


def quick_score(encode: Encode, held_out: Sequence[Triple], *, batch_size: int = 32) -> float:
    """Return the mean nDCG@10 of the held-out queries among all held-out passages.

    Each query has one right passage. A passage that scores equal to it counts as better, so that
    equal embeddings score near 0.

    Raises:
        ValueError: If nothing is held out or an embedding is not finite.
    """
    if not held_out:
        raise ValueError("held_out: expected at least one triple, got none")
    queries = [triple.query for triple in held_out]
    passages = list(dict.fromkeys(text for triple in held_out for text in triple.texts[1:]))
    place = {text: number for number, text in enumerate(passages)}
    asked = unit(encode_texts(encode, queries, "query", batch_size))
    cosines = asked @ unit(encode_texts(encode, passages, "document", batch_size)).T
    right = cosines[np.arange(len(queries)), [place[triple.positive] for triple in held_out]]
    ranks = (cosines >= right[:, None]).sum(axis=1)
    return float(np.where(ranks <= CUTOFF, 1 / np.log2(ranks + 1), 0).mean())


def _table(task: str, items: Iterable[Item]) -> pa.Table:
    rows = [{"task": task, "category": category(task), **item._asdict()} for item in items]
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
