"""How large a difference is, with intervals: a p value says only that it is not zero.

Means and Hodges and Lehmann's estimate are in the units of the score and generalise over tasks.
The probability of improvement and the rank-biserial correlation are in no unit, so a task with
wide scores does not rule them.

Letters: P pairs of models, n tasks, S seeds, T tasks, B draws. NaN in (P, n) is a missing task.
"""

import numpy as np
from scipy import special

from analysis.arrays import FloatArray
from analysis.inference.resampling import bootstrap_counts
from analysis.inference.signed_rank import doubled_midranks, lower_tail


def mean_difference(
    differences: FloatArray, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean of each row of differences (P, n), and both ends of Student's interval; each (P,).

    One task gives an infinite interval, none gives NaN. Tasks are a sample; their differences need
    not be normal for some twenty tasks or more, but outliers widen it.
    """
    number = (~np.isnan(differences)).sum(axis=1)
    filled = np.nan_to_num(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=1) / number
        rest = np.nan_to_num(differences - mean[:, None])
        error = np.sqrt((rest**2).sum(axis=1) / (number - 1) / number)
    half = np.where(number > 1, error * -special.stdtrit(number - 1, (1 - level) / 2), np.inf)
    half = np.where(number > 0, half, np.nan)
    return mean, mean - half, mean + half


def hodges_lehmann(differences: FloatArray, level: float = 0.95) -> tuple[float, float, float]:
    """Median of the averages of all two of the differences (n,), and its exact interval.

    The interval inverts the signed-rank test without ties (Hollander, Wolfe and Chicken, 2014,
    section 3.3), so it covers at least `level`; it is infinite where that few tasks cannot.

    >>> hodges_lehmann(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    (3.5, 1.0, 6.0)
    """
    rows, columns = np.triu_indices(len(differences))
    averages = np.sort(differences[rows] + differences[columns]) / 2
    tail = lower_tail(np.arange(1, len(differences) + 1), len(averages) // 2)
    cut = int(np.searchsorted(tail, (1 - level) / 2, side="right"))
    middle = float(np.median(averages))
    if cut == 0:
        return middle, -np.inf, np.inf
    return middle, float(averages[cut - 1]), float(averages[-cut])


def bootstrap_rank_biserial(
    differences: FloatArray, draws: int, generator: np.random.Generator
) -> FloatArray:
    """The matched-pairs rank-biserial correlation (B,) of differences (n,) over tasks drawn again.

    A draw of zeros alone is 0: neither model is ahead.
    """
    chosen = generator.integers(0, len(differences), (draws, len(differences)))
    ranks, signs = doubled_midranks(differences[chosen], "wilcox")
    total = ranks.sum(axis=1)
    return np.asarray((ranks * signs).sum(axis=1) / np.maximum(total, 1), dtype=np.float64)


def improvement(left: FloatArray, right: FloatArray) -> float:
    """The probability that a run of `left` beats one of `right` on a task; (S, T) and (S', T).

    Ties count one half; the mean over tasks of Mann and Whitney's statistic over S S' (Agarwal et
    al., 2021, section 4.3). Seeds are not paired.

    >>> improvement(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0], [0.5, 3.0]]))
    0.625
    """
    return float(_beats(left, right).mean())


def bootstrap_improvement(
    left: FloatArray, right: FloatArray, draws: int, generator: np.random.Generator
) -> FloatArray:
    """The probability of improvement (B,) over the seeds of each and the tasks, drawn again."""
    ahead = _beats(left, right)
    first, second, tasks = (
        bootstrap_counts(generator, size, draws).astype(np.float64) for size in ahead.shape
    )
    by_task = np.einsum("abt,ax,bx->tx", ahead, first, second, optimize=True)
    return np.asarray((by_task * tasks).sum(axis=0) / ahead.size, dtype=np.float64)


def _beats(left: FloatArray, right: FloatArray) -> FloatArray:
    """1, one half or 0 for each seed, other seed and task."""
    sign = np.sign(left[:, None, :] - right[None, :, :])
    return np.asarray((sign + 1) / 2, dtype=np.float64)
