"""The embedded tasks as mteb tasks, one for each category.

Importing mteb takes seconds and reseeds the global random states, so only `trainables.tasks`
imports this module, when a task is wanted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata
from sklearn.linear_model import LogisticRegression

from trainables import embedded_content
from trainables.config import Split


def _metadata(name: str, type_: Any, category: Any, main_score: str, text: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=text,
        type=type_,
        category=category,
        modalities=["text"],
        dataset={"path": f"embedded/{name}", "revision": "unloaded"},
        eval_splits=["choosing"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )


class Lee50STS(AbsTaskSTS):
    """Pairs of news documents with mean human similarity (Lee, Pincombe and Welsh 2005)."""

    metadata = _metadata(
        "Lee50STS", "STS", "t2t", "cosine_spearman", "Pairs of 25 news documents, human scores."
    )
    min_score = 0
    max_score = 1


class BoolQRetrieval(AbsTaskRetrieval):
    """Questions and the encyclopedia paragraphs that answer them (Clark et al. 2019)."""

    metadata = _metadata(
        "BoolQRetrieval", "Retrieval", "t2t", "ndcg_at_10", "Yes/no questions and paragraphs."
    )
    k_values = (1, 3, 5, 10, 100)


class TRECClassification(AbsTaskClassification):
    """Questions by the kind of their answer (Li and Roth 2002)."""

    metadata = _metadata(
        "TRECClassification", "Classification", "t2c", "accuracy", "Questions of six kinds."
    )
    samples_per_label = 16
    n_experiments = 10
    evaluator_model = LogisticRegression(max_iter=100)  # of its own: mteb changes the one it has

    def _calculate_scores(self, y_test: Any, y_pred: Any) -> Any:
        """Read the labels once: mteb would read them from Arrow for every measure of every fit."""
        return super()._calculate_scores(np.asarray(y_test), y_pred)


class NewsgroupSetsClustering(AbsTaskClusteringLegacy):
    """Disjoint sets of newsgroup messages; the legacy class scores each set on its own."""

    metadata = _metadata(
        "NewsgroupSetsClustering", "Clustering", "t2c", "v_measure", "Messages of six groups."
    )


def load_embedded(name: str, split: Split, seed: int) -> AbsTask:
    """Return a fresh task with its half loaded; its revision is the hash of what it holds."""
    task_class, content, fill = _TASKS[name]
    task: AbsTask = task_class(seed=seed)
    task.metadata = task_class.metadata.model_copy(
        update={
            "dataset": {"path": f"embedded/{name}", "revision": f"{split}-{_digest(name, split)}"},
            "eval_splits": [split],
        }
    )
    task.dataset = fill(content(split), split)
    task.data_loaded = True  # so mteb neither loads nor, afterwards, drops it
    return task


@functools.cache
def _digest(name: str, split: Split) -> str:
    columns = json.dumps(asdict(_TASKS[name][1](split)), sort_keys=True)
    return hashlib.sha256(columns.encode()).hexdigest()[:12]


def _pairs(content: embedded_content.Pairs, split: Split) -> DatasetDict:
    columns = {"sentence1": content.first, "sentence2": content.second, "score": content.score}
    return DatasetDict({split: _dataset(columns)})


def _search(content: embedded_content.Search, split: Split) -> dict[str, Any]:
    queries = [f"q{place}" for place in range(len(content.queries))]
    passages = [f"p{place}" for place in range(len(content.passages))]
    texts = {"id": passages, "title": [""] * len(passages), "text": content.passages}
    half = {
        "corpus": _dataset(texts),
        "queries": _dataset({"id": queries, "text": content.queries}),
        "relevant_docs": {q: {p: 1} for q, p in zip(queries, passages, strict=False)},
        "top_ranked": None,
    }
    return {"default": {split: half}}


def _labelled(content: embedded_content.Labelled, split: Split) -> DatasetDict:
    parts = {"train": content.train, split: content.test}
    return DatasetDict(
        {
            part: _dataset({"text": [t for t, _ in rows], "label": [n for _, n in rows]})
            for part, rows in parts.items()
        }
    )


def _sets(content: embedded_content.Sets, split: Split) -> DatasetDict:
    columns = {"sentences": content.documents, "labels": content.groups}
    return DatasetDict({split: _dataset(columns)})


def _dataset(columns: dict[str, Any]) -> Dataset:
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


_TASKS: dict[str, tuple[type[AbsTask], Callable[[Split], Any], Callable[[Any, Split], Any]]] = {
    "Lee50STS": (Lee50STS, embedded_content.lee, _pairs),
    "BoolQRetrieval": (BoolQRetrieval, embedded_content.boolq, _search),
    "TRECClassification": (TRECClassification, embedded_content.trec, _labelled),
    "NewsgroupSetsClustering": (
        NewsgroupSetsClustering,
        embedded_content.newsgroups,
        _sets,
    ),
}
