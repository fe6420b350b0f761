"""When a design loses a race: a paired test over tasks, before all of them are scored.

Tasks are scored in an order by lot, the same for all designs. At some numbers of tasks, the looks,
a design is compared with its rival on the tasks that both have, by Wilcoxon's signed-rank test of
one side: that its scores are lower. The levels of all looks sum to alpha at the most, so a design
whose differences are as often up as down, by as much, is dropped at any look with a probability of
alpha or less (the union bound; the test is exact, given the sizes of the differences).

What that does not cover, measured at 0.05: a rival that was picked as the best of many is best
partly by luck, and an equal design is dropped in 4 % of races against one rival, 10 % against the
best of 10 equal ones, 20 % against the best of 40. And where the differences are skewed, a design
of the same mean that is far better on few tasks and a little worse on most in 11 to 18 %; tasks
count alike here, also where a score is a mean over categories of different sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.inference.signed_rank import doubled_midranks, lower_tail

MOST_LOOKS = 3
SCORES = "scores"  # a user attribute of a finished trial: its score on each task


class Race:
    """What designs are raced against: the best of those that have all their scores."""

    def __init__(self, alpha: float) -> None:
        """Drop an equal design with a probability of `alpha` at the most."""
        self._alpha = alpha
        self._rivals: dict[int, tuple[float, Mapping[str, float]]] = {}

    def note(self, number: int, score: float, scores: Mapping[str, float]) -> None:
        """Take in a design that has `score` in all, and `scores` on its tasks."""
        self._rivals[number] = score, scores

    def lost(self, scores: Mapping[str, float], num_tasks: int) -> str | None:
        """Return why a design is dropped that has `scores` on the first of its tasks, or None."""
        if not self._rivals:
            return None
        best = max(self._rivals, key=lambda number: (self._rivals[number][0], -number))
        reason = lost(scores, self._rivals[best][1], num_tasks, self._alpha)
        return reason and f"lost to trial {best} on {reason}"


def lost(
    scores: Mapping[str, float], rival: Mapping[str, float], num_tasks: int, alpha: float
) -> str | None:
    """Return why a design is dropped that has `scores` on the first of its tasks, or None.

    Tasks that the rival has no score on do not count.
    """
    shared = [task for task in scores if task in rival]
    level = levels(num_tasks, alpha).get(len(shared))
    p = lower([scores[task] - rival[task] for task in shared])
    if level is None or p > level:
        return None
    return f"{len(shared)} of {num_tasks} tasks, Wilcoxon p {p:.2g} of {level:.2g} allowed"


def fault(num_tasks: int, alpha: float) -> str | None:
    """Return why a race over so many tasks cannot be lost.

    >>> fault(4, 0.05)
    'expected at least 7 tasks with 0.05, got 4; take a larger suite, or 0'
    """
    if looks(num_tasks, alpha):
        return None
    return (
        f"expected at least {_first(alpha) + 1} tasks with {alpha:g}, got {num_tasks}; "
        "take a larger suite, or 0"
    )


@functools.cache
def levels(num_tasks: int, alpha: float) -> dict[int, float]:
    """Return the level of the test at each look.

    Each look has an equal share of alpha, and what those before it could not use: with n tasks p
    is a multiple of 2**-n, so a look at few tasks leaves some of its share over.

    >>> levels(16, 0.05)
    {6: 0.015625, 9: 0.013671875, 12: 0.01708984375}
    """
    at = looks(num_tasks, alpha)
    found, left = {}, 0.0
    for look in at:
        left += alpha / len(at)
        found[look] = attained(look, left)
        left -= found[look]
    return found


def looks(num_tasks: int, alpha: float) -> tuple[int, ...]:
    """Return the numbers of tasks to look at, equal distances apart, before all are scored.

    The first is the fewest tasks on which its share of alpha can be reached at all.

    >>> looks(16, 0.05), looks(8, 0.05), looks(6, 0.05)
    ((6, 9, 12), (6, 7), ())
    """
    first = _first(alpha)
    step = max(1, (num_tasks - first) // MOST_LOOKS)
    return tuple(range(first, num_tasks, step))[:MOST_LOOKS]


def _first(alpha: float) -> int:
    return max(1, math.ceil(math.log2(MOST_LOOKS / alpha)))


def lower(differences: Sequence[float]) -> float:
    """Return Wilcoxon's p of one side: how likely so low a sum of positive ranks, or a lower, is.

    Each sign is the toss of a coin, the sizes are as they are. Zeros are left out, and equal sizes
    have the mean of their ranks.

    >>> lower([-0.3, -0.1, 0.0, -0.2])
    0.125
    """
    ranks, signs = doubled_midranks(np.array([differences], dtype=np.float64), "wilcox")
    positive = int(ranks[signs > 0].sum())
    return float(lower_tail(ranks[0], positive)[positive])


def attained(num_tasks: int, level: float) -> float:
    """Return the highest p of so many differences of distinct sizes that is at most `level`."""
    ranks = np.arange(1, num_tasks + 1)
    p = lower_tail(ranks, int(ranks.sum()))
    return float(p[p <= level].max(initial=0.0))
