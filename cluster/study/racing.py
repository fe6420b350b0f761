"""When a design loses a race: a paired test over tasks, before all of them are scored.

Tasks are scored in an order by lot, the same for all designs. At some numbers of tasks, the looks,
a design is compared with its rival on the tasks that both have, by Wilcoxon's signed-rank test of
one side: that its scores are lower. The levels of all looks sum to alpha at the most, so a design
whose differences are as often up as down, by as much, is dropped at any look with a probability of
alpha or less (the union bound; the test is exact, given the sizes of the differences).

What that does not cover: a rival that was picked as the best of many is best partly by luck, and
against it an equal design is dropped more often; and a design that is far better on few tasks and a
little worse on most may be dropped although its mean is higher.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_LOOKS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """The rules: how likely an equal design is dropped, and at how many tasks one looks."""

    alpha: float
    looks: tuple[int, ...]  # numbers of tasks, ascending

    def levels(self) -> dict[int, float]:
        """Return the level of the test at each look.

        Each look has an equal share of alpha, and what those before it could not use: with n tasks
        p is a multiple of 2**-n, so a look at few tasks leaves some of its share over.

        >>> Race(alpha=0.05, looks=(5, 10)).levels()
        {5: 0.0, 10: 0.0419921875}
        """
        found, left = {}, 0.0
        for look in self.looks:
            left += self.alpha / len(self.looks)
            found[look] = attained(look, left)
            left -= found[look]
        return found

    def loses(self, scores: Mapping[str, float], rival: Mapping[str, float]) -> str | None:
        """Return why a design is dropped at the tasks that it has scores on, or None.

        Tasks that the rival has no score on do not count, nor does what is no look.
        """
        shared = [task for task in scores if task in rival]
        level = self.levels().get(len(shared), 0.0)
        p = lower(signed_rank([scores[task] - rival[task] for task in shared]))
        if p > level:
            return None
        return f"behind the best design on {len(shared)} tasks (Wilcoxon p {p:.2g} <= {level:.2g})"


def looks(num_tasks: int, alpha: float, most: int = MOST_LOOKS) -> tuple[int, ...]:
    """Return at most `most` looks at equal distances before all tasks are scored.

    The first is at the fewest tasks on which its share of alpha can be reached at all.

    >>> looks(16, 0.05), looks(8, 0.05), looks(6, 0.05)
    ((6, 9, 12), (6, 7), ())
    """
    first = math.ceil(math.log2(most / alpha))
    step = max(1, (num_tasks - first) // most)
    return tuple(range(first, num_tasks, step))[:most]


def order(tasks: Sequence[str], seed: int) -> list[str]:
    """Return the tasks in an order by lot that is the same wherever the seed is.

    >>> order(["a", "b", "c"], 0) == order(["c", "b", "a"], 0)
    True
    """
    shuffled = sorted(tasks)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def signed_rank(differences: Sequence[float]) -> tuple[int, tuple[int, ...]]:
    """Return twice the rank sum of the positive differences, and twice all ranks.

    Zeros are left out, as Wilcoxon does; equal sizes have the mean of their ranks.
    """
    kept = sorted((abs(d), d > 0) for d in differences if d)
    sizes = [size for size, _ in kept]
    ranks = [sizes.index(size) + _last(sizes, size) + 2 for size in sizes]
    return sum(rank for rank, (_, up) in zip(ranks, kept, strict=True) if up), tuple(ranks)


def _last(sizes: Sequence[float], size: float) -> int:
    return len(sizes) - 1 - sizes[::-1].index(size)


def lower(ranked: tuple[int, tuple[int, ...]]) -> float:
    """Return the probability of so low a rank sum or a lower one if signs are tosses of a coin."""
    total, ranks = ranked
    counts = _counts(ranks)
    return float(sum(counts[: total + 1])) / 2.0 ** len(ranks)


def attained(num_tasks: int, level: float) -> float:
    """Return the highest p-value of so many distinct differences that is at most `level`."""
    best, total = 0.0, 0
    for count in _counts(tuple(range(2, 2 * num_tasks + 1, 2))):
        total += count
        if total / 2.0**num_tasks > level:
            break
        best = total / 2.0**num_tasks
    return best


def _counts(ranks: tuple[int, ...]) -> list[int]:
    """Return how many of all choices of signs have each sum of the positive ranks."""
    counts = [1] + [0] * sum(ranks)
    for rank in ranks:
        counts = [c + (counts[s - rank] if s >= rank else 0) for s, c in enumerate(counts)]
    return counts


def best(rows: Mapping[Any, Mapping[str, float]], tasks: Sequence[str]) -> Any | None:
    """Return the key of the row with the highest mean among those with scores on all `tasks`."""
    means = {
        key: math.fsum(scores[task] for task in tasks)
        for key, scores in rows.items()
        if all(task in scores for task in tasks)
    }
    return max(means, key=lambda key: means[key], default=None)
