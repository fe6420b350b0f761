"""Questions, and among many passages the one that answers each."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from trainables.assets import package_folder
from trainables.boolq import held_out_rows
from trainables.embedded.content import Search, half, json_rows
from trainables.packages import BOOLQ
from trainables.suites import Split
from trainables.texts import by_hash, distinct, near_duplicates, normal, text_id

BOOLQ_QUERIES = {"choosing": 200, "confirming": 300}
BOOLQ_PASSAGES = {"choosing": 300, "confirming": 400}
BOOLQ_PART = {"choosing": "dev", "confirming": "test"}
QUERIES, PASSAGES = 100, 150  # of the other tasks, in each half
TRAINED_ON = {"9ab42c435ea7"}  # passages of DisflQA that are nearly among BoolQ's for training


@functools.cache
def boolq(split: Split) -> Search:
    """Return questions, their passages and further passages of the half's part of BoolQ.

    Passages that are revisions of one another count as one: otherwise a right answer would score
    as a wrong one.
    """
    rows = held_out_rows(BOOLQ_PART[split])
    rows = list({normal(row.passage): row for row in rows}.values())
    rows = [rows[place] for place in by_hash([row.question for row in rows])]
    candidates = rows[: 2 * BOOLQ_PASSAGES[split]]
    if split == "confirming":
        passages = [row.passage for row in candidates]
        near = near_duplicates(passages, boolq("choosing").passages)
        candidates = [row for place, row in enumerate(candidates) if place not in near]
    kept = [candidates[place] for place in distinct([row.passage for row in candidates])]
    return Search(
        tuple(row.question for row in kept[: BOOLQ_QUERIES[split]]),
        tuple(row.passage for row in kept[: BOOLQ_PASSAGES[split]]),
    )


@functools.cache
def pubmedqa(split: Split) -> Search:
    """Return titles that are questions, and their abstracts (Jin et al. 2019)."""
    rows = [
        (row["question"], re.sub(r"\s*Context \(\d+\): ", " ", row["passage"]).strip())
        for name in ("pqaa", "pqal")
        for row in json_rows(package_folder(BOOLQ) / f"pubmedqa-{name}.jsonl")
    ]
    return _halved(rows, split)


@functools.cache
def disflqa(split: Split) -> Search:
    """Return questions as people say them, with slips, and paragraphs (Gupta et al. 2021)."""
    rows = json_rows(package_folder(BOOLQ) / "disflqa.jsonl")
    by_passage = {row["passage"]: row["question"] for row in rows}  # one question of each
    kept = {passage: q for passage, q in by_passage.items() if text_id(passage) not in TRAINED_ON}
    return _halved([(question, passage.strip()) for passage, question in kept.items()], split)


def _halved(rows: Sequence[tuple[str, str]], split: Split) -> Search:
    """Return a half of questions and passages, each of which answers one question."""
    ordered = [rows[place] for place in by_hash([passage for _, passage in rows])]
    kept = half(ordered, split)
    if split == "confirming":
        near = near_duplicates(
            [passage for _, passage in kept], _halved(rows, "choosing").passages
        )
        kept = [row for place, row in enumerate(kept) if place not in near]
    kept = [kept[place] for place in distinct([passage for _, passage in kept])][:PASSAGES]
    return Search(tuple(q for q, _ in kept[:QUERIES]), tuple(passage for _, passage in kept))
