"""The shapes of what a task holds, and how rows are halved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainables.suites import Split


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of texts with a human score in [0, 1]."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    score: tuple[float, ...]

    def texts(self) -> set[str]:
        """Return all that is encoded."""
        return {*self.first, *self.second}


@dataclass(frozen=True, slots=True)
class Search:
    """Passages, of which the first ones answer the queries in the same order."""

    queries: tuple[str, ...]
    passages: tuple[str, ...]

    def texts(self) -> set[str]:
        """Return all that is encoded."""
        return {*self.queries, *self.passages}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with the number of their class: to fit on, and to test."""

    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]

    def texts(self) -> set[str]:
        """Return all that is encoded."""
        return {text for text, _ in (*self.train, *self.test)}


@dataclass(frozen=True, slots=True)
class Sets:
    """Disjoint sets of documents, each with the groups that a clustering should find."""

    documents: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, ...], ...]

    def texts(self) -> set[str]:
        """Return all that is encoded."""
        return {text for documents in self.documents for text in documents}


Row = TypeVar("Row")

Content = Pairs | Search | Labelled | Sets


def half(rows: Sequence[Row], split: Split) -> list[Row]:
    """Return every other row, from the first on for choosing."""
    return list(rows[0 if split == "choosing" else 1 :: 2])


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
