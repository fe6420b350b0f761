"""BoolQ (Clark et al. 2019) from the embedded package: training rows and the two held-out parts.

The package's files overlap: a passage often serves several questions, on both sides of the
official split, and as two revisions of one paragraph. Training rows with a passage that is or
nearly is in a held-out part are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from sklearn.feature_extraction.text import CountVectorizer

from trainables.assets import cache_folder, package_folder
from trainables.packages import BOOLQ
from trainables.texts import NEAR, near_duplicates, normal, tfidf

VERSION = 1  # of the rules below: another version gets another file
NUM_NEGATIVES = 8  # at most, kept for each question, best first
_TITLE_END = " -- "
_K1, _B = 1.2, 0.75  # BM25's usual constants
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Row:
    """A question, the passage that answers it and the title of the passage's article."""

    question: str
    title: str
    passage: str


def held_out_rows(part: str) -> list[Row]:
    """Return the rows of the part "dev" or "test", passages without their title."""
    return [_row(values) for values in _read(f"{part}.jsonl")]


def training_rows() -> list[Row]:
    """Return the training rows that share no question and no passage with a held-out part."""
    held = held_out_rows("dev") + held_out_rows("test")
    questions = {normal(row.question) for row in held}
    rows = [_row(values) for values in _read("combined.jsonl")]
    rows = [row for row in rows if normal(row.question) not in questions]
    passages = sorted({row.passage for row in rows})
    near = near_duplicates(passages, sorted({row.passage for row in held}))
    leaked = {passages[position] for position in near}
    unique = {normal(row.question): row for row in rows if row.passage not in leaked}
    return list(unique.values())


def load_training_rows() -> list[dict[str, Any]]:
    """Return rows `query`, `positive`, `negatives` from the cache, where they are made once."""
    path = cache_folder() / f"boolq-triples-{VERSION}-{BOOLQ.sha256[:12]}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _write(path, _with_negatives(training_rows()))
    content = json.loads(path.read_text(encoding="utf-8"))
    passages = content["passages"]
    return [
        {"query": query, "positive": passages[answer], "negatives": [passages[n] for n in others]}
        for query, answer, others in content["rows"]
    ]


def hard_negatives(
    questions: Sequence[str], answers: Sequence[int], passages: Sequence[str]
) -> list[list[int]]:
    """Return for each question the passages of highest BM25 score, its own answer excluded.

    `answers[i]` is the position in `passages` of the answer to `questions[i]`.
    """
    counter = CountVectorizer(max_df=0.2, dtype=np.float32)
    counts = counter.fit_transform(passages).tocsr()
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    present = counts.getnnz(axis=0)
    rarity = np.log1p((len(passages) - present + 0.5) / (present + 0.5))
    penalty = _K1 * (1 - _B + _B * lengths / lengths.mean())
    row_of = np.repeat(np.arange(len(passages)), np.diff(counts.indptr))
    counts.data = (
        counts.data * (_K1 + 1) / (counts.data + penalty[row_of]) * rarity[counts.indices]
    )
    asked = counter.transform(questions).sign()
    best: list[list[int]] = []
    for start in range(0, len(questions), _CHUNK):
        scores = (asked[start : start + _CHUNK] @ counts.T).toarray()
        scores[np.arange(len(scores)), answers[start : start + _CHUNK]] = -1.0
        order = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * NUM_NEGATIVES]
        best += order.tolist()
    return best


def _with_negatives(rows: Sequence[Row]) -> dict[str, Any]:
    """Put passages of the same article first: on the subject, but answers to other questions."""
    passages = list(dict.fromkeys(row.passage for row in rows))
    position = {passage: place for place, passage in enumerate(passages)}
    answers = [position[row.passage] for row in rows]
    same_title: dict[str, list[int]] = {}
    for row, answer in zip(rows, answers, strict=True):
        same_title.setdefault(row.title, []).append(answer)
    nearest = hard_negatives([row.question for row in rows], answers, passages)
    candidates = [
        list(dict.fromkeys((*same_title[row.title], *near)))
        for row, near in zip(rows, nearest, strict=True)
    ]
    kept = _without_revisions(answers, candidates, passages)
    questions = [row.question for row in rows]
    return {"passages": passages, "rows": list(zip(questions, answers, kept, strict=True))}


def _without_revisions(
    answers: Sequence[int], candidates: Sequence[Sequence[int]], passages: Sequence[str]
) -> list[list[int]]:
    """Drop candidates that are, or nearly are, the answer itself: false negatives."""
    vectors = tfidf(passages)
    kept = []
    for answer, others in zip(answers, candidates, strict=True):
        cosines = (vectors[list(others)] @ vectors[answer].T).toarray().ravel()
        fine = [n for n, cosine in zip(others, cosines, strict=True) if cosine <= NEAR]
        kept.append([n for n in fine if n != answer][:NUM_NEGATIVES])
    return kept


def _read(name: str) -> list[dict[str, Any]]:
    with (package_folder(BOOLQ) / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _row(values: dict[str, Any]) -> Row:
    """Cut the title off; dev alone has it as a field and may hold " -- " inside a passage."""
    if "title" in values:
        return Row(values["question"], values["title"], values["passage"])
    title, passage = values["passage"].split(_TITLE_END, 1)
    return Row(values["question"], title, passage)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Move the whole file into place, so that a killed process leaves no half of one."""
    temporary = path.with_suffix(".preparing")
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
