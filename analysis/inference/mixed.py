"""The mixed model of differences over seeds and tasks, for layouts with missing cells.

difference = effect + seed + task + rest, where seeds (training runs), tasks and the rest are
random and crossed: the claim is about other seeds *and* other tasks. The variances are REML
estimates (Patterson and Thompson, 1971), which may be 0: a bounded search finds the edge, where
statsmodels' MixedLM stops short of it. Wald's z takes the variances for known, which errs too
often with few seeds, so the critical value weighs Student's for seeds, tasks and the rest by their
shares of the variance (Cochran and Cox, 1957). Estimate and error on a complete layout without
zeros are those of `contrasts.compare`, whose interval is a little wider: it has the rest among the
seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize

from analysis.arrays import FloatArray
from analysis.contrasts import ALPHA, critical_value, p_value, shares

MOST = 1000.0  # a standard deviation of seeds or tasks over that of the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedEffect:
    """The effect in the units of the score, its interval, and the variances of one cell."""

    effect: float
    low: float
    high: float
    p: float
    standard_error: float
    variance_seeds: float
    variance_tasks: float
    variance_rest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The differences (N,), and which of them share a seed or a task, (N, N) of 0 and 1."""

    values: FloatArray
    same_seed: FloatArray
    same_task: FloatArray


def mixed_model(
    differences: FloatArray, seeds: npt.ArrayLike, tasks: npt.ArrayLike
) -> MixedEffect:
    """Fit the differences (N,), with the seed and the task of each.

    Raises:
        ValueError: If there are fewer than two seeds or tasks, or nothing varies.
    """
    _, seed = np.unique(np.asarray(seeds), return_inverse=True)
    _, task = np.unique(np.asarray(tasks), return_inverse=True)
    if seed.max() < 1 or task.max() < 1:
        raise ValueError(
            f"differences: expected two or more seeds and tasks, got {seed.max() + 1} and "
            f"{task.max() + 1}"
        )
    if np.ptp(differences) == 0:
        raise ValueError("differences: expected some that differ, got the same everywhere")
    layout = Layout(
        values=np.asarray(differences, dtype=np.float64),
        same_seed=(seed[:, None] == seed).astype(np.float64),
        same_task=(task[:, None] == task).astype(np.float64),
    )
    variances = _reml(layout)
    parts = _parts(layout, variances)
    weights = np.linalg.solve(np.sum(parts, axis=0), np.ones(len(seed)))
    weights /= weights.sum()
    effect = float(weights @ differences)
    by_seed, by_task, rest = (float(weights @ part @ weights) for part in parts)
    num_seeds, num_tasks = int(seed.max()) + 1, int(task.max()) + 1
    num_rest = max(len(seed) - num_seeds - num_tasks + 1, 1) + 1  # one above its freedom
    split = shares(by_seed, num_seeds, [by_task, rest], [num_tasks, num_rest])
    error = math.sqrt(by_seed + by_task + rest)
    half = error * critical_value(ALPHA, split)
    return MixedEffect(
        effect=effect,
        low=effect - half,
        high=effect + half,
        p=p_value(abs(effect) / error, split),
        standard_error=error,
        variance_seeds=variances[0],
        variance_tasks=variances[1],
        variance_rest=variances[2],
    )


def _parts(
    layout: Layout, variances: tuple[float, float, float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The covariance (N, N) that seeds, tasks and the rest make."""
    rest = np.eye(len(layout.values))
    return (
        variances[0] * layout.same_seed,
        variances[1] * layout.same_task,
        variances[2] * rest,
    )


def _reml(layout: Layout) -> tuple[float, float, float]:
    """The variances of seeds, tasks and the rest; the better of two starts."""

    def loss(roots: FloatArray) -> float:
        return _deviance(layout, roots)[0]

    fits = [
        optimize.minimize(loss, start, bounds=[(0, MOST)] * 2, options={"ftol": 1e-13})
        for start in ([1.0, 1.0], [0.1, 0.1])
    ]
    roots = min(fits, key=lambda fit: float(fit.fun)).x
    rest = _deviance(layout, roots)[1]
    return float(roots[0] ** 2) * rest, float(roots[1] ** 2) * rest, rest


def _deviance(layout: Layout, roots: FloatArray) -> tuple[float, float]:
    """The restricted deviance, and the variance of the rest that is best under it.

    `roots` are the standard deviations of seeds and tasks over that of the rest.
    """
    num_values = len(layout.values)
    shape = _parts(layout, (float(roots[0] ** 2), float(roots[1] ** 2), 1.0))
    factor = linalg.cholesky(np.sum(shape, axis=0), lower=True)
    both = np.stack([np.ones(num_values), layout.values], axis=1)
    solved: FloatArray = linalg.solve_triangular(factor, both, lower=True)
    ones, values = solved[:, 0], solved[:, 1]
    information = float(ones @ ones)
    rest = values - ones * float(ones @ values) / information
    variance = float(rest @ rest) / (num_values - 1)
    logs = 2 * float(np.log(np.diag(factor)).sum()) + math.log(information)
    return logs + (num_values - 1) * math.log(variance), variance
