"""The median of a few numbers, some of which may be infinite, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with an interval that covers the true one in at least 95 % of cases."""

    middle: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """Return it in words, each number in a format."""
        return f"{self.middle:{form}} [{self.low:{form}}, {self.high:{form}}]"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and its interval by order statistics; of fewer than six the range.

    The number of values below the true median is binomial (n, 1/2), whatever the distribution.

    >>> spread([1, 2, 3, 4, 5, float("inf")])
    Spread(middle=3.5, low=1, high=inf)
    """
    ordered, cut = sorted(values), 0
    tail = 1 / 2 ** len(ordered)
    while (
        cut + 1 < len(ordered) / 2
        and 2 * (tail + comb(len(ordered), cut + 1) / 2 ** len(ordered)) <= 0.05
    ):
        cut += 1
        tail += comb(len(ordered), cut) / 2 ** len(ordered)
    return Spread(median(ordered), ordered[cut], ordered[-1 - cut])
