"""When weak trials stop: Optuna's pruners by name, and successive halving that can promote.

All count in the steps that trials report.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Collection, Mapping

import optuna
from optuna.pruners import BasePruner

HELP = (
    "when weak trials stop: percentile, median, halving, hyperband, wilcoxon or none (default: "
    "percentile, the lowest quarter; none with several objectives). halving pauses what is not "
    "in the best 1/ETA of its rung and goes on with it when it comes to be; the others stop for "
    "good. wilcoxon takes the steps for paired samples rather than for a curve"
)
NONE = "none"
NAMES = ("percentile", "median", "halving", "hyperband", "wilcoxon", NONE)
WITH_STARTUP, STARTUP = ("percentile", "median"), 3  # trials that end before one is stopped
WITH_RUNGS, FACTOR = ("halving", "hyperband"), 3  # eta


def rungs(first: int, factor: int, steps: int, every: int = 1) -> tuple[int, ...]:
    """Return the steps at which trials are compared, before the last; all are reporting steps.

    >>> rungs(8, 3, 100), rungs(2, 2, 20, every=3)
    ((8, 24, 72), (3, 6, 9, 18))
    """
    found: list[int] = []
    while first < steps:
        found.append(-(-first // every) * every)
        first *= factor
    return tuple(step for step in dict.fromkeys(found) if step < steps)


def make_pruner(
    name: str,
    *,
    first: int = 1,
    factor: int = FACTOR,
    steps: int = 1,
    startup: int = STARTUP,
) -> BasePruner:
    """Return the pruner: `startup` trials end before percentile and median stop any.

    `percentile` stops a trial when a report is in the lowest quarter of finished trials'. It is
    this lenient because the report is a quick retrieval score: a design that disturbs the
    backbone, as bidirectional attention does, starts low in it and catches up. `halving` is
    `Halving`, not one of these.
    """
    if name == "percentile":
        return optuna.pruners.PercentilePruner(75.0, n_startup_trials=startup)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=max(steps, first), reduction_factor=factor
        )
    if name == "wilcoxon":
        return optuna.pruners.WilcoxonPruner()
    return optuna.pruners.NopPruner()


class Halving:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934) in which no step is lost.

    A trial goes on from a rung if it is in the best `1 / factor` of those that have reached it,
    the best one always; otherwise it is paused, and promoted when it comes to be among them. The
    rule is that of Optuna's `SuccessiveHalvingPruner`, which stops where this pauses.
    """

    def __init__(self, steps: Collection[int], factor: int) -> None:
        """Compare at `steps`."""
        self._steps = sorted(steps)
        self._factor = factor
        self._rungs: list[list[float]] = [[] for _ in self._steps]  # scores, ascending
        self._reached: dict[int, list[float]] = {}  # a trial's scores at its rungs

    def note(self, number: int, values: Mapping[int, float]) -> None:
        """Enter the scores by step of a trial into the rungs that it has come to."""
        for step in sorted(values):
            self.goes_on(number, step, values[step])

    def goes_on(self, number: int, step: int, value: float) -> bool:
        """Enter a trial's report into the rung that it comes to, if any; may it go on there?"""
        reached = self._reached.setdefault(number, [])
        rung = len(reached)
        if rung == len(self._steps) or step < self._steps[rung]:
            return True
        reached.append(-math.inf if math.isnan(value) else value)
        insort(self._rungs[rung], reached[-1])
        return self._is_among_best(rung, value)

    def promotable(self, paused: Collection[int]) -> int | None:
        """Return the paused trial to go on with: of the highest rung that has one, the best."""
        ranks = {
            number: (len(self._reached[number]) - 1, self._reached[number][-1])
            for number in paused
        }
        among_best = [n for n, (rung, value) in ranks.items() if self._is_among_best(rung, value)]
        return max(among_best, key=lambda n: (*ranks[n], -n), default=None)

    def _is_among_best(self, rung: int, value: float) -> bool:
        scores = self._rungs[rung]
        return value >= scores[-max(1, len(scores) // self._factor)]
