"""Simulations whose truth is known: false claims, coverage, power and bias, each with its error.

A score is base(task) + design effect + run(design, seed) + suits(design, task) + rest. Designs are
as in a study: `run` is the luck of a seed on all tasks, `suits` how a design fits a task. The
spreads are those of variants of one model: a run 0.3 points, a fit 0.8, a cell 0.5. The 95 %
interval of each share (Clopper and Pearson) is printed; "off" stands where it leaves out what is
promised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy import stats

from analysis.arrays import FloatArray
from analysis.contrasts import ALPHA, Contrast, compare
from analysis.inference.corrections import holm
from analysis.inference.effects import mean_difference
from analysis.inference.mixed import mixed_model
from analysis.inference.resampling import bootstrap_seeds_and_tasks, percentile_interval
from analysis.inference.signed_rank import signed_rank
from analysis.noise import Noise
from analysis.planning import Plan, power_over_tasks, variance_shares
from analysis.power import power

RUN = Noise(seed=0.003, task=0.008, rest=0.005)  # of one design's scores
SHAPES = ((3, 8), (5, 12), (5, 41))  # seeds, tasks
DESIGNS = 6  # the control first
STUDIES = 2000
FITS = 600  # of the mixed model, which is slower


def run(device: str) -> Iterator[str]:
    """Yield the lines of the table."""
    for seeds, tasks in SHAPES:
        yield f"{seeds} seeds x {tasks} tasks"
        yield from _false_claims(seeds, tasks)
        yield from _coverage(seeds, tasks)
        yield from _power(seeds, tasks)
        yield from _bias(seeds, tasks)


def draw(
    generator: np.random.Generator,
    seeds: int,
    tasks: int,
    effects: FloatArray,
    noise: Noise = RUN,
) -> FloatArray:
    """Scores (M, S, T) of designs with the given effects (M,)."""
    designs = len(effects)
    fits = noise.task * generator.normal(size=(designs, 1, tasks))
    runs = noise.seed * generator.normal(size=(designs, seeds, 1))
    rest = noise.rest * generator.normal(size=(designs, seeds, tasks))
    return np.asarray(effects[:, None, None] + fits + runs + rest)


def _against_control(scores: FloatArray) -> list[Contrast]:
    return [compare([design - scores[0]]) for design in scores[1:]]


def _false_claims(seeds: int, tasks: int) -> Iterator[str]:
    """The chance of any false claim in a family of five designs against the control."""
    calm, none = replace(RUN, seed=0.0), np.zeros(DESIGNS)
    one = np.array([0.0, 0.03, *np.zeros(DESIGNS - 2)])  # one design is better

    def crossed(generator: np.random.Generator, effects: FloatArray) -> bool:
        p = holm([c.p for c in _against_control(draw(generator, seeds, tasks, effects))])
        return bool((p[effects[1:] == 0] < ALPHA).any())

    def over_tasks(generator: np.random.Generator, noise: Noise) -> bool:
        means = draw(generator, seeds, tasks, none, noise).mean(axis=1)
        return bool((holm(signed_rank(means[1:] - means[0]).p) < ALPHA).any())

    yield _share("any false claim, seeds x tasks, Holm", lambda g: crossed(g, none), 0, ALPHA)
    yield _share("  the same, where one design is better", lambda g: crossed(g, one), 0, ALPHA)
    yield _share("any false claim, Wilcoxon, no run luck", lambda g: over_tasks(g, calm), 0, ALPHA)
    name = "  the same, with run luck (not promised)"
    yield _share(name, lambda g: over_tasks(g, RUN), 0, 1)


def _coverage(seeds: int, tasks: int) -> Iterator[str]:
    truth = np.array([0.0, 0.01])

    def apart(generator: np.random.Generator, noise: Noise = RUN) -> FloatArray:
        scores = draw(generator, seeds, tasks, truth, noise)
        return np.asarray(scores[1] - scores[0])

    def crossed(generator: np.random.Generator) -> bool:
        found = compare([apart(generator)])
        return found.low <= 0.01 <= found.high

    def student(generator: np.random.Generator) -> bool:
        rows = apart(generator, replace(RUN, seed=0.0)).mean(axis=0)[None, :]
        _, low, high = mean_difference(rows)
        return bool(low[0] <= 0.01 <= high[0])

    def bootstrap(generator: np.random.Generator) -> bool:
        draws = bootstrap_seeds_and_tasks(apart(generator)[None], 1000, generator)
        low, high = percentile_interval(draws, size=tasks)
        return bool(low[0] <= 0.01 <= high[0])

    def mixed(generator: np.random.Generator) -> bool:
        cells = apart(generator)
        there = generator.random(cells.shape) > 0.1
        at = np.nonzero(there)
        found = mixed_model(cells[there], *at)
        return found.low <= 0.01 <= found.high

    low, high = 0.93, 0.97
    yield _share("coverage, seeds x tasks", crossed, low, high)
    yield _share("coverage, Student over tasks, no run luck", student, low, high)
    yield _share("coverage, bootstrap of seeds and tasks", bootstrap, low, high)
    if seeds * tasks <= 60:
        yield _share("coverage, mixed model, a tenth missing", mixed, low, high, FITS)


def _power(seeds: int, tasks: int) -> Iterator[str]:
    noise = Noise(**{n: math.sqrt(2) * getattr(RUN, n) for n in ("seed", "task", "rest")})
    effect = 0.01

    def crossed(generator: np.random.Generator) -> bool:
        return (
            _against_control(draw(generator, seeds, tasks, np.array([0.0, effect])))[0].p < ALPHA
        )

    def over_tasks(generator: np.random.Generator) -> bool:
        means = draw(generator, seeds, tasks, np.array([0.0, effect])).mean(axis=1)
        return bool(signed_rank(means[1:] - means[:1]).p[0] <= ALPHA)

    plan = Plan(tasks=tasks, seeds=seeds, effect=effect)
    said = (
        power(variance_shares(seeds, tasks, noise), effect, ALPHA),
        power_over_tasks(plan, noise, effect, np.random.default_rng(1)),
    )
    for name, test, share in (
        ("power, seeds x tasks", crossed, said[0]),
        ("power, Wilcoxon over tasks", over_tasks, said[1]),
    ):
        predicted = f"{name}: {100 * share:.1f} % predicted"
        yield _share(predicted, test, share - 0.01, share + 0.01)


def _bias(seeds: int, tasks: int) -> Iterator[str]:
    """The best of a choosing half, and what it shows on the confirming half with fresh seeds."""
    generator = np.random.default_rng(7)
    chosen, confirmed = np.empty(STUDIES), np.empty(STUDIES)
    for study in range(STUDIES):
        effects = np.array([0.0, *generator.normal(0, 0.005, 11)])
        halves = [draw(generator, n, tasks, effects) for n in (1, seeds)]
        means = [half.mean(axis=(1, 2)) for half in halves]
        best = 1 + int(np.argmax(means[0][1:]))
        chosen[study], confirmed[study] = (m[best] - m[0] - effects[best] for m in means)
    for name, found in (("bias of the confirmed effect", confirmed), ("  of the chosen", chosen)):
        error = float(found.std(ddof=1)) / math.sqrt(STUDIES)
        off = "off" if abs(found.mean()) > 3 * error and found is confirmed else ""
        yield f"  {name:52} {100 * found.mean():+.3f} points +- {196 * error:.3f} {off}".rstrip()


def _share(
    name: str,
    happens: Callable[[np.random.Generator], bool],
    low: float,
    high: float,
    studies: int = STUDIES,
) -> str:
    """A line with how often something happens, and "off" if it surely leaves what is promised."""
    generator = np.random.default_rng(0)
    count = sum(happens(generator) for _ in range(studies))
    interval = stats.binomtest(count, studies).proportion_ci()
    fine = interval.low <= high and interval.high >= low
    return (
        f"  {name:52} {100 * count / studies:5.1f} % [{100 * interval.low:.1f}, "
        f"{100 * interval.high:.1f}]{'' if fine else '  off'}"
    )
