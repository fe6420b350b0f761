"""Disjoint sets of texts from several groups: news messages, dispatches, medical questions."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from trainables.assets import package_folder
from trainables.embedded.content import Sets, half, json_rows
from trainables.packages import BOOLQ, MEDICAL, NEWSGROUPS
from trainables.suites import Split
from trainables.texts import by_hash, near_duplicates

SETS = 10
GROUPS = 6  # in a set
NEWS_DOCUMENTS = 6  # of each group in a set
DOCUMENTS = 4  # of the other tasks
STRIDE = 7  # through the groups: six in a row differ, and seldom are kin
NEWS_WORDS = (20, 500)  # in a message
DISPATCH_WORDS = (10, 500)
DISPATCHES = (  # the subjects of Reuters that have enough of them
    *("acq", "coffee", "cpi", "crude", "earn", "gnp", "gold", "interest", "money-fx"),
    *("money-supply", "ship", "sugar", "trade"),
)
MEDICAL_WORDS = (5, 100)


@functools.cache
def newsgroups(split: Split) -> Sets:
    """Return sets of a half's newsgroup messages, of which there are twenty groups."""
    path = package_folder(NEWSGROUPS) / "20newsgroups-test.tab"
    return _sets(_tab_rows(path.read_text(encoding="utf-8")), NEWS_WORDS, NEWS_DOCUMENTS, split)


@functools.cache
def reuters(split: Split) -> Sets:
    """Return sets of a half's dispatches by subject (Reuters-21578, those with one subject)."""
    folder = package_folder(NEWSGROUPS)
    rows = [
        row
        for part in ("train", "test")
        for row in _tab_rows((folder / f"reuters-r52-{part}.tab").read_text(encoding="utf-8"))
        if row[0] in DISPATCHES
    ]
    return _sets(rows, DISPATCH_WORDS, DOCUMENTS, split)


@functools.cache
def medmcqa(split: Split) -> Sets:
    """Return sets of a half's examination questions by subject (Pal et al. 2022)."""
    folder = package_folder(BOOLQ)
    rows = [
        (subject, " ".join(row["question"].split()))
        for subject in MEDICAL
        for part in ("Test", "Validation")
        for row in json_rows(folder / f"medmcqa-{part}-{subject}.jsonl")
    ]
    return _sets(rows, MEDICAL_WORDS, DOCUMENTS, split)


def _tab_rows(content: str) -> list[tuple[str, str]]:
    rows = (line.split("\t") for line in content.splitlines()[3:])
    return [(row[0], row[1]) for row in rows if len(row) == 2]


def _sets(
    rows: Sequence[tuple[str, str]], words: tuple[int, int], num_documents: int, split: Split
) -> Sets:
    """Return disjoint sets of texts of so many words, each of six groups with so many texts.

    The sets share no text, so their scores are independent; all groups occur about equally often.
    """
    by_group = _grouped(rows, words)
    halved = {name: half(texts, split) for name, texts in by_group.items()}
    if split == "confirming":
        shown = _sets(rows, words, num_documents, "choosing").texts()
        halved = _unlike(halved, sorted(shown), num_documents)
    names = sorted(halved)
    remaining = {name: iter(texts) for name, texts in halved.items()}
    documents, groups = [], []
    for first in range(0, SETS * GROUPS, GROUPS):
        chosen = [names[STRIDE * n % len(names)] for n in range(first, first + GROUPS)]
        members = [name for name in chosen for _ in range(num_documents)]
        documents.append(tuple([next(remaining[name]) for name in members]))
        groups.append(tuple(members))
    return Sets(tuple(documents), tuple(groups))


def _unlike(
    by_group: Mapping[str, list[str]], shown: Sequence[str], num_documents: int
) -> dict[str, list[str]]:
    """Leave out texts that quote or repeat one of the other half."""
    most = 2 * num_documents * -(-SETS * GROUPS // len(by_group))
    offered = {name: texts[:most] for name, texts in by_group.items()}
    flat = [text for texts in offered.values() for text in texts]
    near = {flat[place] for place in near_duplicates(flat, shown)}
    return {name: [text for text in texts if text not in near] for name, texts in offered.items()}


def _grouped(rows: Iterable[tuple[str, str]], words: tuple[int, int]) -> dict[str, list[str]]:
    """Return texts by group in hash order; texts in several groups are left out."""
    groups: dict[str, set[str]] = {}
    for name, text in rows:
        if words[0] <= len(text.split()) <= words[1]:
            groups.setdefault(text, set()).add(name)
    texts = sorted(text for text, names in groups.items() if len(names) == 1)
    by_group: dict[str, list[str]] = {}
    for place in by_hash(texts):
        by_group.setdefault(next(iter(groups[texts[place]])), []).append(texts[place])
    return by_group
