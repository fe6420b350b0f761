"""Our encoder as mteb wants it, and mteb's numbers as we want them: a main score and its items."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.models import SearchEncoderWrapper
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.results import TaskResult
from threadpoolctl import ThreadpoolController, threadpool_limits

from trainables.columns import columns_at_once
from trainables.encoding import Encode, Floats, encode_texts, unit
from trainables.texts import text_id

# mteb's name of a retrieval measure, and pytrec_eval's, under which it stands for each query
_TREC_NAMES = {
    "ndcg_at_": "ndcg_cut_",
    "map_at_": "map_cut_",
    "recall_at_": "recall_",
    "precision_at_": "P_",
    "hit_rate_at_": "success_",
}


REMEMBERED_BYTES = 1 << 30  # of vectors, for texts that come again in another task
SCORES_AT_ONCE = 1 << 26  # of queries and passages: 256 MB
CHUNK = 50_000  # passages that are encoded at once, at the most


class Item(NamedTuple):
    """One item's share in a score; see `trainables.evaluation.Evaluation`."""

    kind: str
    item: str
    value: float
    gold: float = math.nan


class TaskEncoder:
    """An encoder for one evaluation: each distinct text of any task is encoded once.

    It satisfies `mteb.EncoderProtocol`; similarity is the cosine.
    """

    def __init__(
        self,
        encode: Encode,
        batch_size: int,
        *,
        alike: Callable[[str | None], Hashable] = lambda role: role,
        prompted: Callable[[str], Encode] | None = None,
        **_: Any,
    ) -> None:
        """Wrap `encode`; `trainables.evaluation.evaluate` says what the others are."""
        self._encode = encode
        self._batch_size = batch_size
        self._alike = alike
        self._prompted = prompted
        # By pool and not by name: torch and scikit-learn may each bring an OpenMP of their own.
        self._threads = [(p, p.num_threads) for p in ThreadpoolController().lib_controllers]
        self._known: dict[tuple[Hashable, str], Floats] = {}
        self._known_bytes = 0
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": "poolsearch/trial", "similarity_fn_name": ScoringFunction.COSINE}
        )

    def encode(
        self, inputs: Any, *, task_metadata: Any = None, prompt_type: Any = None, **_: Any
    ) -> Floats:
        """Return the embeddings [texts, dim] of mteb's batches of rows, in their order."""
        role = None if prompt_type is None else str(prompt_type.value)
        prompt = None if self._prompted is None else prompt_of(task_metadata, role)
        key = (self._alike(role), prompt)
        texts = _texts_of(inputs)
        known = {text: self._known[key, text] for text in texts if (key, text) in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            encode = self._encode
            if self._prompted is not None and prompt is not None:
                encode = self._prompted(prompt)
            with self._own_threads():
                vectors = encode_texts(encode, missing, role, self._batch_size)
            known |= dict(zip(missing, vectors, strict=True))
            self._remember(key, missing, vectors)
        return np.stack([known[text] for text in texts])

    def _remember(self, key: Hashable, texts: list[str], vectors: Floats) -> None:
        """Keep vectors for other tasks while there is room; a large corpus would fill it."""
        if self._known_bytes + vectors.nbytes <= REMEMBERED_BYTES:
            self._known_bytes += vectors.nbytes
            self._known |= {(key, text): v for text, v in zip(texts, vectors, strict=True)}

    @contextlib.contextmanager
    def _own_threads(self) -> Iterator[None]:
        """Give each pool as many threads as it had when this encoder was made."""
        limits = [(pool, pool.num_threads) for pool, _ in self._threads]
        for pool, number in self._threads:
            pool.set_num_threads(number)
        try:
            yield
        finally:
            for pool, number in limits:
                pool.set_num_threads(number)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosines [n, m] of each with each, on a GPU where there is one."""
        if torch.cuda.is_available():
            first, second = (torch.from_numpy(unit(e)).cuda() for e in (embeddings1, embeddings2))
            return first @ second.T
        return unit(embeddings1) @ unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Floats:
        """Return the cosines [n] of corresponding rows."""
        cosines: Floats = (unit(embeddings1) * unit(embeddings2)).sum(axis=1)
        return cosines


def _texts_of(inputs: Any) -> list[str]:
    """Return the texts of mteb's batches; of one that only collects a data set's, the column."""
    rows = getattr(inputs, "dataset", None)
    if not isinstance(rows, Dataset):
        return [text for batch in inputs for text in batch["text"]]
    texts: list[str] = rows.select_columns(["text"])[:]["text"]
    if None in texts:
        raise ValueError("text: expected texts, got None among them")
    return texts


def prompt_of(metadata: Any, role: str | None) -> str | None:
    """Return what mteb has a model be told before a text of a task; None if it says nothing.

    It stands as models that follow instructions are trained to have it (Wang et al., arXiv
    2401.00368): before queries and the texts of symmetric tasks, and never before passages.
    """
    prompt = metadata.prompt
    words = prompt.get("query") if isinstance(prompt, dict) else prompt
    return f"Instruct: {words}\nQuery: " if words and role != "document" else None


def score_task(encoder: TaskEncoder, task: AbsTask, folder: Path) -> tuple[TaskResult, list[Item]]:
    """Return mteb's result of a task, and its items; `folder` takes what mteb has to write.

    Raises:
        ValueError: If the score is not a finite number.
    """
    task.load_data()  # by us, or mteb would drop the data that the items need
    queries = _record_queries(task)
    # Of retrieval mteb would write every ranking, and the queries' scores are recorded anyway.
    predictions = None if isinstance(task, AbsTaskRetrieval) else folder
    results: dict[str, dict[str, Any]] = {}
    start = time.perf_counter()
    # One thread, but for encoding: small fits are ten times slower if threads wait for busy cores.
    with threadpool_limits(1), columns_at_once():
        for split in task.eval_splits:
            results[split] = dict(
                task.evaluate(
                    _searching(encoder, task, split),
                    split,
                    encode_kwargs={"batch_size": 512, "show_progress_bar": False},
                    prediction_folder=predictions,
                )
            )
    seconds = time.perf_counter() - start
    result = TaskResult.from_task_results(task, results, evaluation_time=seconds)
    score = float(result.get_score())
    if not math.isfinite(score):
        raise ValueError(f"{task.metadata.main_score}: expected a finite number, got {score}")
    written = folder / task.prediction_file_name
    content = json.loads(written.read_text()) if written.is_file() else {}
    return result, [*queries, *_items(task, results, content)]


def _searching(encoder: TaskEncoder, task: AbsTask, split: str) -> Any:
    """Return the encoder, for a search with passages in blocks that leave room for all scores."""
    if not isinstance(task, AbsTaskRetrieval):
        return encoder
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    most = max(len(parts[split]["queries"]) for parts in task.dataset.values() if split in parts)
    return SearchEncoderWrapper(encoder, min(CHUNK, max(1, SCORES_AT_ONCE // most)))


def _record_queries(task: AbsTask) -> list[Item]:
    """Have a retrieval task put each query's score into the returned list when it is evaluated."""
    items: list[Item] = []
    if not isinstance(task, AbsTaskRetrieval):
        return items
    original = task.task_specific_scores
    measure = _trec_name(task.metadata.main_score)

    def record(scores: Any, *args: Any, **kwargs: Any) -> Any:
        items.extend(
            Item("query", query, float(values[measure]))
            for query, values in scores.items()
            if measure in values
        )
        return original(scores, *args, **kwargs)

    setattr(task, "task_specific_scores", record)  # noqa: B010 -- mteb's hook, on this one task
    return items


def _trec_name(main_score: str) -> str:
    """Return pytrec_eval's name of mteb's measure, or one that no query has."""
    for ours, theirs in _TREC_NAMES.items():
        if main_score.startswith(ours):
            return theirs + main_score.removeprefix(ours)
    return main_score


def _items(task: AbsTask, results: dict[str, Any], predictions: dict[str, Any]) -> Iterator[Item]:
    """Yield the items of all parts; several parts are told apart by a prefix."""
    parts = [(split, subset) for split, subsets in results.items() for subset in subsets]
    for split, subset in parts:
        prefix = f"{split}/{subset}/" if len(parts) > 1 else ""
        predicted = predictions.get(subset, {}).get(split)
        for each in _part_items(task, split, subset, results[split][subset], predicted):
            yield each._replace(item=prefix + each.item)


def _part_items(task: Any, split: str, subset: str, scores: Any, predicted: Any) -> Iterable[Item]:
    rows = (task.dataset[subset] if subset in task.dataset else task.dataset)[split]
    if isinstance(task, AbsTaskSTS):
        return _pairs(task, rows, predicted)
    if isinstance(task, AbsTaskClassification):
        fits = _fits([fit[task.metadata.main_score] for fit in scores["scores_per_experiment"]])
        texts = [] if task.is_cross_validation else _texts(task, rows, scores, predicted)
        return itertools.chain(texts, fits)
    if isinstance(task, AbsTaskClusteringLegacy):
        return [Item("set", f"set{n}", float(v)) for n, v in enumerate(scores["v_measures"])]
    if isinstance(task, AbsTaskClustering):
        # Its sets are drawn anew from the same documents: each is a fit, and none an item.
        levels = scores["v_measures"].items()
        return [fit for level, values in levels for fit in _fits(values, f"{level}/")]
    return []


def _fits(values: Iterable[float], prefix: str = "") -> list[Item]:
    return [Item("fit", f"{prefix}fit{n}", float(value)) for n, value in enumerate(values)]


def _pairs(task: Any, rows: Any, predicted: Any) -> Iterator[Item]:
    first, second = task.column_names
    columns = (rows[first], rows[second], predicted["cosine_scores"], rows["score"])
    for a, b, cosine, gold in zip(*columns, strict=True):
        yield Item("pair", f"{text_id(a)}|{text_id(b)}", float(cosine), float(gold))


def _texts(task: Any, rows: Any, scores: Any, predicted: Any) -> Iterator[Item]:
    labels = np.asarray(rows[task.label_column_name])
    right = np.asarray(predicted)[..., : len(labels)] == labels  # [fits, texts]
    if not math.isclose(right.mean(), scores.get("accuracy", math.nan), abs_tol=1e-9):
        return  # several labels a text, or numbers: no share of right fits
    for text, share in zip(rows[task.input_column_name], right.mean(axis=0), strict=True):
        yield Item("text", text_id(text), float(share))
