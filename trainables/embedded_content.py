"""What the embedded tasks hold: each half of each, as plain columns, chosen by hash.

No text of a choosing half is, or nearly is, in the confirming half, and BoolQ's training passages
are in neither. The functions are pure and cached, because every evaluation takes fresh tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.assets import package_folder
from trainables.boolq import held_out_rows
from trainables.config import Split
from trainables.packages import LEE, NEWSGROUPS, TREC
from trainables.texts import by_hash, distinct, near_duplicates, normal

LEE_DOCUMENTS = 25  # in a half: 300 pairs
LEE_HALVINGS = 500  # tried, to find two halves alike
BOOLQ_QUERIES = {"choosing": 200, "confirming": 300}
BOOLQ_PASSAGES = {"choosing": 300, "confirming": 400}
BOOLQ_PART = {"choosing": "dev", "confirming": "test"}
TREC_POOL_PER_LABEL = 64  # questions to fit on, from which each fit draws 16 a label
TREC_TEST = 400
NEWS_SETS = 10
NEWS_GROUPS = 6  # in a set
NEWS_DOCUMENTS = 6  # of each group in a set
NEWS_WORDS = (20, 500)  # in a document


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of texts with a human score in [0, 1]."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    score: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """Passages, of which the first ones answer the queries in the same order."""

    queries: tuple[str, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with the number of their class: to fit on, and to test."""

    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Sets:
    """Disjoint sets of documents, each with the groups that a clustering should find."""

    documents: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, ...], ...]


@functools.cache
def lee(split: Split) -> Pairs:
    """Return all pairs of a half's 25 news documents with their mean human similarity.

    Pairs across the halves are lost. Of many halvings the one is taken in which the two spreads
    of similarity are most alike: a random one may put most similar pairs on one side.
    """
    folder = package_folder(LEE)
    lines = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    documents = [line.strip() for line in lines if line.strip()]
    gold = np.loadtxt(folder / "similarities0-1.txt")  # [50, 50], upper triangle
    orders = [by_hash(documents, salt=str(trial)) for trial in range(LEE_HALVINGS)]

    def unlikeness(order: list[int]) -> float:
        left, right = order[:LEE_DOCUMENTS], order[LEE_DOCUMENTS:]
        return float(np.abs(_spread(gold, left) - _spread(gold, right)).mean())

    order = min(orders, key=unlikeness)
    half = sorted(order[:LEE_DOCUMENTS] if split == "choosing" else order[LEE_DOCUMENTS:])
    pairs = [(a, b) for a in half for b in half if a < b]
    return Pairs(
        tuple(documents[a] for a, _ in pairs),
        tuple(documents[b] for _, b in pairs),
        tuple(float(gold[pair]) for pair in pairs),
    )


def _spread(gold: np.ndarray, half: list[int]) -> np.ndarray:
    members = sorted(half)
    return np.sort(gold[np.ix_(members, members)][np.triu_indices(len(members), 1)])


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
def trec(split: Split) -> Labelled:
    """Return a half's questions with one of six kinds of answer (Li and Roth 2002)."""
    path = package_folder(TREC) / "question_labels.txt"
    lines = path.read_text(encoding="latin-1").splitlines()
    labels = {text: label.split(":")[0] for label, text in (line.split(" ", 1) for line in lines)}
    unique = list({normal(text): text for text in labels}.values())
    half = _half([unique[place] for place in by_hash(unique)], split)
    number = {name: place for place, name in enumerate(sorted(set(labels.values())))}
    test, rest = half[:TREC_TEST], half[TREC_TEST:]  # the test keeps the kinds' own frequencies
    pool: list[str] = []
    for name in number:
        pool += [text for text in rest if labels[text] == name][:TREC_POOL_PER_LABEL]
    return Labelled(
        tuple((text, number[labels[text]]) for text in pool),
        tuple((text, number[labels[text]]) for text in test),
    )


@functools.cache
def newsgroups(split: Split) -> Sets:
    """Return disjoint sets of a half's messages, each from six of the twenty groups.

    The sets share no message, so their scores are independent; every group occurs equally often.
    """
    by_group = _messages(split)
    if split == "confirming":
        by_group = _unlike(by_group, newsgroups("choosing"))
    names = sorted(by_group)
    remaining = {name: iter(texts) for name, texts in by_group.items()}
    documents, groups = [], []
    for number in range(NEWS_SETS):
        # Stride 7 has no factor in common with 20 groups: six in a row differ, and seldom are kin.
        first = number * NEWS_GROUPS
        chosen = [names[7 * place % len(names)] for place in range(first, first + NEWS_GROUPS)]
        members = [name for name in chosen for _ in range(NEWS_DOCUMENTS)]
        documents.append(tuple(next(remaining[name]) for name in members))
        groups.append(tuple(members))
    return Sets(tuple(documents), tuple(groups))


def _unlike(by_group: dict[str, list[str]], other: Sets) -> dict[str, list[str]]:
    """Leave out messages that quote or repeat one of the other half."""
    shown = [text for texts in other.documents for text in texts]
    offered = {name: texts[: 6 * NEWS_DOCUMENTS] for name, texts in by_group.items()}
    flat = [text for texts in offered.values() for text in texts]
    near = {flat[place] for place in near_duplicates(flat, shown)}
    return {name: [text for text in texts if text not in near] for name, texts in offered.items()}


def _messages(split: Split) -> dict[str, list[str]]:
    """Return a half's messages by group in hash order; messages in several groups are left out."""
    path = package_folder(NEWSGROUPS) / "20newsgroups-test.tab"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[3:]]
    groups: dict[str, set[str]] = {}
    for row in rows:
        if len(row) == 2 and NEWS_WORDS[0] <= len(row[1].split()) <= NEWS_WORDS[1]:
            groups.setdefault(row[1], set()).add(row[0])
    texts = sorted(text for text, names in groups.items() if len(names) == 1)
    by_group: dict[str, list[str]] = {}
    for place in by_hash(texts):
        by_group.setdefault(next(iter(groups[texts[place]])), []).append(texts[place])
    return {name: _half(members, split) for name, members in by_group.items()}


def _half(texts: Sequence[str], split: Split) -> list[str]:
    return list(texts[0 if split == "choosing" else 1 :: 2])


def scored_texts(name: str, split: Split) -> set[str]:
    """Return the texts that are encoded to score a design on one half of an embedded task."""
    if name == "Lee50STS":
        return {*lee(split).first, *lee(split).second}
    if name == "BoolQRetrieval":
        return {*boolq(split).queries, *boolq(split).passages}
    if name == "TRECClassification":
        return {text for text, _ in (*trec(split).train, *trec(split).test)}
    return {text for documents in newsgroups(split).documents for text in documents}
