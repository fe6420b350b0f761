"""Texts with a class: questions, short messages, and sentences from reviews."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping

from trainables.assets import package_folder
from trainables.embedded.content import Labelled, half
from trainables.packages import TREC
from trainables.suites import Split
from trainables.texts import by_hash, near_duplicates, normal

POOL_PER_LABEL = 64  # texts to fit on, from which each fit draws 16 a label
TREC_TEST = 400
TEST_PER_LABEL = 100  # of two
FEELING = 1.0  # mean of the raters, on either side of 0, from which a sentence has one


@functools.cache
def trec(split: Split) -> Labelled:
    """Return a half's questions with one of six kinds of answer (Li and Roth 2002)."""
    path = package_folder(TREC) / "question_labels.txt"
    lines = path.read_text(encoding="latin-1").splitlines()
    labels = {text: label.split(":")[0] for label, text in (line.split(" ", 1) for line in lines)}
    unique = list({normal(text): text for text in labels}.values())
    members = half([unique[place] for place in by_hash(unique)], split)
    number = {name: place for place, name in enumerate(sorted(set(labels.values())))}
    # The test keeps the kinds' own frequencies.
    test, rest = members[:TREC_TEST], members[TREC_TEST:]
    pool: list[str] = []
    for name in number:
        pool += [text for text in rest if labels[text] == name][:POOL_PER_LABEL]
    return Labelled(
        tuple((text, number[labels[text]]) for text in pool),
        tuple((text, number[labels[text]]) for text in test),
    )


@functools.cache
def sms(split: Split) -> Labelled:
    """Return a half's text messages, wanted or not (Almeida, Hidalgo and Yamakami 2011)."""
    path = package_folder(TREC) / "sms-spam.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        spam = {row["text"]: int(row["spam"]) for row in csv.DictReader(lines)}
    return _two_classes(spam, split)


@functools.cache
def movies(split: Split) -> Labelled:
    """Return a half's sentences on films that praise or blame (Hutto and Gilbert 2014)."""
    path = package_folder(TREC) / "movie-snippets.txt"
    rows = [line.split("\t") for line in path.read_text(encoding="latin-1").splitlines()[1:]]
    felt = {row[2]: float(row[1]) for row in rows if len(row) == 3}
    return _two_classes({t: int(v > 0) for t, v in felt.items() if abs(v) >= FEELING}, split)


def _two_classes(labels: Mapping[str, int], split: Split) -> Labelled:
    """Return a half of which both classes are equally many."""
    unique = list({normal(text): text for text in labels}.values())
    order = [unique[place] for place in by_hash(unique)]
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    for label in (0, 1):
        members = half([text for text in order if labels[text] == label], split)
        members = members[: 2 * (TEST_PER_LABEL + POOL_PER_LABEL)]
        if split == "confirming":
            near = near_duplicates(members, sorted(_two_classes(labels, "choosing").texts()))
            members = [text for place, text in enumerate(members) if place not in near]
        test += [(text, label) for text in members[:TEST_PER_LABEL]]
        rest = members[TEST_PER_LABEL : TEST_PER_LABEL + POOL_PER_LABEL]
        train += [(text, label) for text in rest]
    return Labelled(tuple(train), tuple(test))
