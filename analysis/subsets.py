"""Which few tasks say of a model what all of them say: a search over sets of tasks.

A set predicts the full mean by a weighted sum of its scores. A rule says how the weights come
about: all tasks alike, all categories alike, or fitted, by least squares with a penalty on what
sets the weights apart:

    minimise |y - X w|^2 + s v |w - mean(w)|^2        v the mean sum of squares of a task

over n models, X their centred scores on the k tasks and y their centred full mean. The strength s
leads from free weights (0) to weights that are all alike (infinity).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import FloatArray, IntArray

MOST_SETS = 5_000_000  # that an exhaustive search takes; half a minute on one core
CHUNK = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a set of tasks may be: how many, how long, and which categories must be in it."""

    num_tasks: int
    costs: FloatArray | None = None  # seconds of each task
    budget: float = math.inf  # seconds
    cover: tuple[IntArray, ...] = ()  # the tasks of each category that must be there

    def allow(self, subset: Sequence[int]) -> bool:
        """Whether a set meets all of it."""
        return self._fits(subset) and not self._uncovered(subset)

    def lead_on(self, subset: Sequence[int]) -> bool:
        """Whether a set can be completed to one that is allowed."""
        missing = self._uncovered(subset)
        if len(subset) + len(missing) > self.num_tasks or not self._fits(subset):
            return False
        if self.costs is None:
            return True
        left = sum(float(self.costs[tasks].min()) for tasks in missing)
        return self.seconds(subset) + left <= self.budget

    def seconds(self, subset: Sequence[int]) -> float:
        """What a set takes; 0 where no costs are known."""
        return 0.0 if self.costs is None else float(self.costs[list(subset)].sum())

    def _fits(self, subset: Sequence[int]) -> bool:
        return len(subset) <= self.num_tasks and self.seconds(subset) <= self.budget

    def _uncovered(self, subset: Sequence[int]) -> list[IntArray]:
        chosen = set(subset)
        return [tasks for tasks in self.cover if chosen.isdisjoint(tasks.tolist())]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How the scores of a set become one number: a mean times a slope, or a fitted sum."""

    name: str
    strength: float = math.inf
    kinds: IntArray | None = (
        None  # each task's category, where categories count alike and not tasks
    )


@dataclass(frozen=True, slots=True)
class Moments:
    """All that least squares needs of the models' scores on p tasks and their full mean."""

    gram: FloatArray  # [p, p] of the centred scores
    cross: FloatArray  # [p] of the centred scores with the centred full mean
    total: float  # sum of squares of the centred full mean

    @classmethod
    def of(cls, scores: FloatArray, target: FloatArray) -> "Moments":
        """Take the moments of `scores` [n, p] and `target` [n]."""
        centred, aim = scores - scores.mean(axis=0), target - target.mean()
        return cls(centred.T @ centred, centred.T @ aim, float(aim @ aim))

    def weights(self, subsets: IntArray, rule: Rule) -> FloatArray:
        """Return the weights [m, k] that a rule gives to sets [m, k]."""
        cross = self.cross[subsets]
        gram = self.gram[subsets[:, :, None], subsets[:, None, :]]
        size = subsets.shape[1]
        if math.isfinite(rule.strength) and size > 1:
            penalty = rule.strength * np.trace(self.gram) / len(self.gram)
            apart = np.eye(size) - 1 / size
            solved: FloatArray = np.linalg.solve(gram + penalty * apart, cross[..., None])[..., 0]
            return solved
        share = shares(subsets, rule.kinds)
        spread = np.einsum("mi,mij,mj->m", share, gram, share)
        slope = (share * cross).sum(axis=1) / np.where(spread > 0, spread, np.inf)
        scaled: FloatArray = share * np.maximum(slope, 0)[:, None]  # a mean that falls is no proxy
        return scaled

    def explained(self, subsets: IntArray, rule: Rule) -> FloatArray:
        """Return what each set explains of the full mean's variance, less its penalty."""
        share = (self.cross[subsets] * self.weights(subsets, rule)).sum(axis=1)
        explained: FloatArray = share / self.total
        return explained


def shares(subsets: IntArray, kinds: IntArray | None) -> FloatArray:
    """Return the weights [m, k] of a mean over tasks, or over categories of their tasks' mean.

    >>> shares(np.array([[0, 1, 2]]), np.array([7, 7, 8])).tolist()
    [[0.25, 0.25, 0.5]]
    """
    if kinds is None:
        return np.full(subsets.shape, 1 / subsets.shape[1])
    own = kinds[subsets]
    alike = 1 / (own[:, :, None] == own[:, None, :]).sum(axis=2)
    scaled: FloatArray = alike / alike.sum(axis=1, keepdims=True)
    return scaled


Score = Callable[[IntArray], FloatArray]
"""From sets of one size [m, k] to how good each is [m]."""


def beam(score: Score, num_all: int, limits: Limits, width: int) -> tuple[int, ...]:
    """Return the best set found when the best `width` of each size grow by one task.

    With costs, half of those that grow are the best for their time. Width 1 is the greedy search.

    Raises:
        ValueError: If no set is allowed, or none was found.
    """
    best: tuple[float, tuple[int, ...]] = (-math.inf, ())
    front: list[tuple[int, ...]] = [()]
    while front:
        grown = {tuple(sorted((*s, t))) for s in front for t in range(num_all) if t not in s}
        sets = sorted(each for each in grown if limits.lead_on(each))
        if not sets:
            break
        values = score(np.array(sets))
        for place in np.argsort(-values, kind="stable").tolist():
            if values[place] <= best[0]:
                break
            if limits.allow(sets[place]):
                best = (float(values[place]), sets[place])
        front = [sets[place] for place in _kept(values, sets, limits, width)]
    if not best[1]:
        raise ValueError("tasks: expected a set within the limits, got none")
    return best[1]


def _kept(
    values: FloatArray, sets: list[tuple[int, ...]], limits: Limits, width: int
) -> list[int]:
    """Return the places of the sets that grow on."""
    by_value: list[int] = np.argsort(-values, kind="stable").tolist()
    if limits.costs is None:
        return by_value[:width]
    seconds = np.array([limits.seconds(each) for each in sets])
    by_time: list[int] = np.argsort((1 - values) * seconds, kind="stable").tolist()
    mixed = itertools.chain.from_iterable(zip(by_value, by_time, strict=True))
    return list(dict.fromkeys(mixed))[:width]


def exhaustive(score: Score, num_all: int, limits: Limits) -> tuple[int, ...]:
    """Return the best of all sets that are allowed.

    Raises:
        ValueError: If there are too many sets, or none is allowed.
    """
    sizes = range(1, min(limits.num_tasks, num_all) + 1)
    number = sum(math.comb(num_all, size) for size in sizes)
    if number > MOST_SETS:
        raise ValueError(f"tasks: expected at most {MOST_SETS:,} sets to try, got {number:,}")
    best: tuple[float, tuple[int, ...]] = (-math.inf, ())
    for size in sizes:
        for sets in _chunks(num_all, size, limits):
            values = score(sets)
            place = int(values.argmax())
            if values[place] > best[0]:
                best = (float(values[place]), tuple(sets[place].tolist()))
    if not best[1]:
        raise ValueError("tasks: expected a set within the limits, got none")
    return best[1]


def _chunks(num_all: int, size: int, limits: Limits) -> Iterator[IntArray]:
    every: Iterator[tuple[int, ...]] = itertools.combinations(range(num_all), size)
    if limits.costs is not None or limits.cover:
        every = (each for each in every if limits.allow(each))
    while chunk := list(itertools.islice(every, CHUNK)):
        yield np.array(chunk)
