"""The embedded tasks as mteb tasks.

Importing mteb takes seconds and reseeds the global random states, so only `trainables.tasks`
imports this module, when a task is wanted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

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

from trainables.embedded import CONTENT
from trainables.embedded.content import Labelled, Pairs, Search, Sets
from trainables.suites import EMBEDDED_CATEGORIES, Split


class _Classification(AbsTaskClassification):
    samples_per_label = 16
    n_experiments = 10
    evaluator_model = LogisticRegression(max_iter=100)  # of its own: mteb changes the one it has


class _Retrieval(AbsTaskRetrieval):
    k_values = (1, 3, 5, 10, 100)


class _Similarity(AbsTaskSTS):
    min_score = 0
    max_score = 1


_ABOUT = {
    "Lee50STS": "Pairs of 25 news documents, human scores (Lee, Pincombe and Welsh 2005).",
    "SimLex999STS": "Pairs of words, human scores (Hill, Reichart and Korhonen 2015).",
    "WordSim353STS": "Pairs of words, human scores (Finkelstein et al. 2002).",
    "BoolQRetrieval": "Yes/no questions and encyclopedia paragraphs (Clark et al. 2019).",
    "PubMedQARetrieval": "Titles that are questions and their abstracts (Jin et al. 2019).",
    "DisflQARetrieval": "Questions with slips of the tongue and paragraphs (Gupta et al. 2021).",
    "TRECClassification": "Questions by the kind of their answer, of six (Li and Roth 2002).",
    "SMSSpamClassification": "Text messages, wanted or not (Almeida et al. 2011).",
    "MovieSentimentClassification": "Praise or blame in film reviews (Hutto and Gilbert 2014).",
    "NewsgroupSetsClustering": "Disjoint sets of messages of six newsgroups.",
    "ReutersSetsClustering": "Disjoint sets of news dispatches on six subjects.",
    "MedMCQASetsClustering": "Disjoint sets of medical questions, six subjects (Pal et al. 2022).",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How tasks of a category are made."""

    task_class: type[AbsTask]
    category: Any
    main_score: str
    fill: Callable[[Any, Split], Any]


def load_embedded(name: str, split: Split, seed: int) -> AbsTask:
    """Return a fresh task with its half loaded; its revision is the hash of what it holds."""
    kind = _KINDS[EMBEDDED_CATEGORIES[name]]
    # A class of its own: what is set on an instance, mteb drops with the data.
    task_class = type(name, (kind.task_class,), {"metadata": _metadata(name, kind, split)})
    task: AbsTask = task_class(seed=seed)
    task.dataset = kind.fill(CONTENT[name](split), split)
    task.data_loaded = True  # so mteb neither loads nor, afterwards, drops it
    return task


def _metadata(name: str, kind: _Kind, split: Split) -> TaskMetadata:
    columns = json.dumps(asdict(CONTENT[name](split)), sort_keys=True)
    digest = hashlib.sha256(columns.encode()).hexdigest()[:12]
    type_: Any = EMBEDDED_CATEGORIES[name]
    return TaskMetadata(
        name=name,
        description=_ABOUT[name],
        type=type_,
        category=kind.category,
        modalities=["text"],
        dataset={"path": f"embedded/{name}", "revision": f"{split}-{digest}"},
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score=kind.main_score,
    )


def _pairs(content: Pairs, split: Split) -> DatasetDict:
    columns = {"sentence1": content.first, "sentence2": content.second, "score": content.score}
    return DatasetDict({split: _dataset(columns)})


def _search(content: Search, split: Split) -> dict[str, Any]:
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


def _labelled(content: Labelled, split: Split) -> DatasetDict:
    parts = {"train": content.train, split: content.test}
    return DatasetDict(
        {
            part: _dataset({"text": [t for t, _ in rows], "label": [n for _, n in rows]})
            for part, rows in parts.items()
        }
    )


def _sets(content: Sets, split: Split) -> DatasetDict:
    columns = {"sentences": content.documents, "labels": content.groups}
    return DatasetDict({split: _dataset(columns)})


def _dataset(columns: dict[str, Any]) -> Dataset:
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


_KINDS = {
    "STS": _Kind(_Similarity, "t2t", "cosine_spearman", _pairs),
    "Retrieval": _Kind(_Retrieval, "t2t", "ndcg_at_10", _search),
    "Classification": _Kind(_Classification, "t2c", "accuracy", _labelled),
    # The legacy class scores each set on its own.
    "Clustering": _Kind(AbsTaskClusteringLegacy, "t2c", "v_measure", _sets),
}
