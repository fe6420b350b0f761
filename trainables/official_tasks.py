"""mteb's own tasks, from the hub or a local mirror, cut into a choosing and a confirming half.

A text belongs to one half by its hash, so the halves share no query, pair, test text or document.
For retrieval only the queries are halved: both halves search the whole corpus.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskRetrieval,
    AbsTaskSTS,
)

from trainables.assets import cache_folder
from trainables.config import ConfigError, Split
from trainables.texts import text_id

Keep = Callable[[str], bool]

_MIRROR = "mirror-"

SUPPORTED = (
    AbsTaskSTS,
    AbsTaskRetrieval,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
)


def official_fault(name: str, others: Sequence[str], *, whole: bool = False) -> str | None:
    """Return why mteb's task cannot be used; `others` are further names to suggest."""
    try:
        task = mteb.get_task(name)
    except KeyError:
        known = [*others, *(each.metadata.name for each in mteb.get_tasks())]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"expected a suite, an embedded task or one of mteb's, got {name!r}{hint}"
    if task.metadata.modalities != ["text"] or not (whole or isinstance(task, SUPPORTED)):
        types = "STS, Retrieval, Reranking, Classification or Clustering of text"
        return f"expected a task of type {types}, got {name!r} of type {task.metadata.type}"
    return None


def load_official(name: str, split: Split | None, seed: int) -> AbsTask:
    """Return a fresh task of mteb that loads its data, and keeps one half, when it is asked to.

    Without a split it keeps all.

    Multilingual tasks keep their English part. With `$POOLSEARCH_TASKS` set, data comes from the
    folder of the task's name therein (parquet files and a README.md with `configs:`).

    Raises:
        ConfigError: If there is no such task, or none of its parts is English.
    """
    fault = official_fault(name, (), whole=split is None)
    if fault:
        raise ConfigError(f"evaluation.tasks: {fault}")
    published = type(mteb.get_task(name))

    # A subclass, since mteb resets what is set on an instance when it drops its data.
    class Half(published):  # type: ignore[misc, valid-type]
        metadata = located(published.metadata)

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            if not self.data_loaded:
                with _own_cache(self.metadata.dataset["revision"]):
                    super().load_data(*args, **kwargs)
                if split is not None:
                    _keep_half(self, split)

    task: AbsTask = Half(seed=seed)
    if not task.metadata.is_multilingual:
        return task
    try:
        return task.filter_languages(["eng"], exclusive_language_filter=True)
    except ValueError:
        raise ConfigError(f"evaluation.tasks: expected a task in English, got {name!r}") from None


def half_of(text: str) -> Split:
    """Return the half to which a text belongs, on every machine and in every task."""
    return "choosing" if int(text_id(text), 16) % 2 == 0 else "confirming"


def located(metadata: Any) -> Any:
    """Point to the mirror if there is one; the hub's revision would not be true of it."""
    mirror = os.environ.get("POOLSEARCH_TASKS")
    folder = Path(mirror) / metadata.name if mirror else None
    if folder is None or not folder.is_dir():
        return metadata
    local = {**metadata.dataset, "path": str(folder), "revision": _mirror_revision(folder)}
    return metadata.model_copy(update={"dataset": local})


def _mirror_revision(folder: Path) -> str:
    """Name the state of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return _MIRROR + hashlib.sha256(repr(state).encode()).hexdigest()[:12]


@contextmanager
def _own_cache(revision: str) -> Iterator[None]:
    """Have each state of a mirror its own cache.

    `datasets` knows a folder by its last name alone, whatever it holds and wherever it is, and
    would go on with what it read first.
    """
    if not revision.startswith(_MIRROR):
        yield
        return
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = str(cache_folder() / revision)
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def _keep_half(task: Any, split: Split) -> None:
    """Replace the loaded data by one half of it.

    Raises:
        ValueError: If a half holds nothing.
    """

    def keep(text: str) -> bool:
        return half_of(text) == split

    if isinstance(task, AbsTaskRetrieval):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        for parts in task.dataset.values():
            for part in parts.values():
                _halve_queries(part, keep)
    elif isinstance(task.dataset, DatasetDict):
        task.dataset = _halved(task, task.dataset, keep)
    else:
        task.dataset = {name: _halved(task, parts, keep) for name, parts in task.dataset.items()}


def _halve_queries(part: Any, keep: Keep) -> None:
    queries = part["queries"]
    texts = [text if isinstance(text, str) else str(text) for text in queries["text"]]
    places = [place for place, text in enumerate(texts) if keep(text)]
    part["queries"] = _chosen(queries, places)
    kept = set(part["queries"]["id"])
    part["relevant_docs"] = {q: docs for q, docs in part["relevant_docs"].items() if q in kept}
    if part.get("top_ranked"):
        part["top_ranked"] = {q: docs for q, docs in part["top_ranked"].items() if q in kept}


def _halved(task: Any, parts: Any, keep: Keep) -> DatasetDict:
    """Halve each split of a subset, a classification's training texts included."""
    used = set(task.eval_splits) | {getattr(task, "train_split", None)}
    return DatasetDict(
        {name: _halved_rows(task, rows, keep) for name, rows in parts.items() if name in used}
    )


def _halved_rows(task: Any, rows: Dataset, keep: Keep) -> Dataset:
    if isinstance(task, AbsTaskSTS):
        first, second = task.column_names
        return _chosen(rows, _halved_pairs(list(rows[first]), list(rows[second]), keep))
    texts = list(rows[task.input_column_name])
    if not isinstance(texts[0], list):
        return _chosen(rows, [place for place, text in enumerate(texts) if keep(text)])
    columns: dict[str, list[Any]] = {task.input_column_name: [], task.label_column_name: []}
    for inner, labels in zip(texts, rows[task.label_column_name], strict=True):
        kept = [(t, n) for t, n in zip(inner, labels, strict=True) if keep(t)]
        columns[task.input_column_name].append([text for text, _ in kept])
        columns[task.label_column_name].append([label for _, label in kept])
    return Dataset.from_dict(columns)


def _halved_pairs(first: Sequence[str], second: Sequence[str], keep: Keep) -> list[int]:
    """Keep pairs that share a text, directly or through others, together in one half."""
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while leader.setdefault(text, text) != text:
            leader[text] = leader[leader[text]]
            text = leader[text]
        return text

    for a, b in zip(first, second, strict=True):
        low, high = sorted((lead(a), lead(b)))
        leader[high] = low
    return [place for place, text in enumerate(first) if keep(lead(text))]


def _chosen(rows: Dataset, places: Iterable[int]) -> Dataset:
    kept = rows.select(list(places))
    if len(kept) == 0:
        raise ValueError(
            f"halves: expected rows in each, got none of {len(rows)} in one; "
            "its texts are too few or too entangled to be halved"
        )
    return kept
