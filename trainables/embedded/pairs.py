"""Pairs of texts with human scores: news documents, and words."""

from __future__ import annotations

import functools

import numpy as np

from trainables.assets import package_folder
from trainables.embedded.content import Pairs
from trainables.packages import LEE
from trainables.suites import Split
from trainables.texts import by_hash

LEE_DOCUMENTS = 25  # in a half: 300 pairs
HALVINGS = 500  # tried, to find the best
WORD_SCORES = 10  # people scored words from 0 to this


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
    orders = [by_hash(documents, salt=str(trial)) for trial in range(HALVINGS)]

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
def simlex(split: Split) -> Pairs:
    """Return a half's pairs of words by how alike they are (Hill, Reichart and Korhonen 2015)."""
    return _words("simlex999.txt", split)


@functools.cache
def wordsim(split: Split) -> Pairs:
    """Return a half's pairs of words by how related they are (Finkelstein et al. 2002)."""
    return _words("wordsim353.tsv", split)


def _words(name: str, split: Split) -> Pairs:
    """Return the pairs within one half of the words; pairs across the halves are lost.

    Of many halvings the one is taken whose smaller half keeps the most pairs.
    """
    lines = (package_folder(LEE) / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    pairs = {(a.lower(), b.lower()): float(score) / WORD_SCORES for a, b, score in rows}
    pairs = {(a, b): score for (a, b), score in pairs.items() if a != b}
    words = sorted({word for pair in pairs for word in pair})
    halvings = [_halved(words, str(trial)) for trial in range(HALVINGS)]

    def fewest(chosen: frozenset[str]) -> int:
        inside = [(a in chosen) + (b in chosen) for a, b in pairs]
        return min(inside.count(0), inside.count(2))

    chosen = max(halvings, key=fewest)
    half = chosen if split == "choosing" else frozenset(words) - chosen
    kept = {(a, b): score for (a, b), score in pairs.items() if a in half and b in half}
    return Pairs(tuple(a for a, _ in kept), tuple(b for _, b in kept), tuple(kept.values()))


def _halved(words: list[str], salt: str) -> frozenset[str]:
    order = by_hash(words, salt=salt)
    return frozenset(words[place] for place in order[: len(order) // 2])
