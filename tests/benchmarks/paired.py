"""Two ways to do the same work, timed in turn, so that a drifting machine hits both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ratio:
    """How much longer `theirs` takes than `ours`; above 1 is in our favour."""

    name: str
    peer: str
    ours_s: float
    theirs_s: float
    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return one line of the table."""
        return (
            f"{self.name:34} {self.peer:34} {self.ours_s * 1e3:9.1f} ms {self.theirs_s * 1e3:9.1f}"
            f" ms  {self.middle:5.2f}x  ({self.low:.2f}-{self.high:.2f})"
        )


def compare(
    name: str,
    peer: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    pairs: int = 7,
) -> Ratio:
    """Time `ours` and `theirs` in turn after a warm-up; medians and the pairs' ratios."""
    timed(ours), timed(theirs)
    rows = [(timed(ours), timed(theirs)) for _ in range(pairs)]
    ratios = sorted(b / a for a, b in rows)
    return Ratio(
        name,
        peer,
        median(a for a, _ in rows),
        median(b for _, b in rows),
        median(ratios),
        ratios[0],
        ratios[-1],
    )


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes, its GPU work included."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
