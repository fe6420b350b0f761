"""Rows of training data: what a usable one is, and how an unusable one is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.faults import ConfigError

MAX_FAULTS = 10  # that a message lists
MAX_SHOWN = 60  # characters of a bad value


@dataclass(frozen=True, slots=True)
class Triple:
    """A query with one positive passage and its hard negatives, best first."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the triple."""
        return (self.query, self.positive, *self.negatives)


def checked(
    rows: Iterable[tuple[int, Any]], label: str, num_hard_negatives: int
) -> Iterator[tuple[int, Triple]]:
    """Yield each usable row with its number; what is wrong with the others comes at the end.

    Raises:
        ConfigError: If a row is not as expected; the first few are named.
    """
    faults: list[str] = []
    num_bad = 0
    for number, row in rows:
        fault = _fault(row, num_hard_negatives)
        if fault is None:
            yield number, Triple(row["query"], row["positive"], _negatives(row))
            continue
        num_bad += 1
        if num_bad <= MAX_FAULTS:
            faults.append(f"{label}:{number}: {fault}")
    if faults:
        more = num_bad - len(faults)
        raise ConfigError("\n".join(faults + [f"and {more} more rows"] * (more > 0)))


def text_hash(text: str) -> int:
    """Return 64 bits that tell a text from others.

    >>> text_hash("a") == text_hash("a") != text_hash("b")
    True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _fault(row: Any, num_hard_negatives: int) -> str | None:
    if not isinstance(row, Mapping):
        return f"expected a JSON object, got {_shown(str(row).strip())}"
    for column in ("query", "positive"):
        if not _is_text(row.get(column)):
            return f"{column}: expected a text, got {_shown(row.get(column))}"
    negatives = row.get("negatives")
    texts = [] if negatives is None else negatives
    if not isinstance(texts, str | Sequence) or not all(map(_is_text, _as_list(texts))):
        return f"negatives: expected a list of texts, got {_shown(negatives)}"
    if len(_negatives(row)) < num_hard_negatives:
        return (
            f"negatives: expected at least {num_hard_negatives} that differ from each other and "
            f"from the positive, got {len(_negatives(row))}"
        )
    return None


def _shown(value: Any) -> str:
    """Return a value as Python writes it, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]} …"


def _is_text(value: Any) -> bool:
    """Return whether a value has letters; half a surrogate pair, which JSON can hold, is none."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_list(texts: str | Sequence[Any]) -> Sequence[Any]:
    return [texts] if isinstance(texts, str) else texts


def _negatives(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Keep each once, and never the positive itself."""
    texts = _as_list(row.get("negatives") or [])
    return tuple(text for text in dict.fromkeys(texts) if text != row["positive"])
