"""What a confirmation can see: its power, the smallest detectable difference, seeds to see more.

    python -m analysis.power --tasks 8 --seeds 3 --noise outputs/first --effect 0.01 --family 4

says before any training what so many tasks and seeds can show (`planning.py`). After it, the
report asks the functions here. They take the variances of a finished contrast as if they were
true, so they are guides for the next confirmation ("about 2.4 points"), not results. The number of
seeds is the weaker one: it asks how far seeds alone can lower the error, so it trusts the split
between seeds and items.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from analysis.arrays import FloatArray
from analysis.contrasts import Contrast, Share, shares

POWER = 0.8
FEW_SEEDS = 10  # with fewer, an estimated standard deviation may be wrong by a factor of two
FEW_ITEMS = 30
MOST_SEEDS = 1000
GRID = (np.arange(128) + 0.5) / 128  # quantiles that stand for the chance in an estimated variance


def power(parts: Sequence[Share], difference: float, alpha: float) -> float:
    """The chance that the test at `alpha` sees a true `difference`; 0 without a test.

    >>> round(power([(1.0, 99)], 2.8, 0.05), 2), round(power([(1.0, 99)], 0.0, 0.05), 3)
    (0.79, 0.05)
    """
    if not parts:
        return 0.0
    error, needed = _needed(parts, alpha)
    return _seen(difference / error, needed)


def _seen(ratio: float, needed: FloatArray) -> float:
    return float(np.mean(special.ndtr(ratio - needed) + special.ndtr(-ratio - needed)))


def smallest_detectable(parts: Sequence[Share], alpha: float) -> float:
    """The true difference that the test at `alpha` sees with 80 % power; infinite without a test.

    >>> round(smallest_detectable([(1.0, 99)], 0.05), 1), round(
    ...     smallest_detectable([(1.0, 2)], 0.05), 1)
    (2.8, 5.7)
    """
    if not parts:
        return math.inf
    error, needed = _needed(parts, alpha)
    most = float(needed.max()) + 10
    return error * float(optimize.brentq(lambda r: _seen(r, needed) - POWER, 0.0, most))


def _needed(parts: Sequence[Share], alpha: float) -> tuple[float, FloatArray]:
    """The standard error, and how many of it reach significance, over the chance in its estimate.

    The seeds' share and the items' are estimated from few values each, so each is its true size
    times chi-square over its degrees of freedom, here at `GRID` quantiles of each.
    """
    (few, few_df), (rest, rest_df) = parts[0], _pool(parts[1:])
    few_seen = few * _chance(few_df)[:, None]
    rest_seen = rest * _chance(rest_df)[None, :]
    student = [-special.stdtrit(df, alpha / 2) for df in (few_df, rest_df)]
    total = few_seen + rest_seen
    critical = (few_seen * student[0] + rest_seen * student[1]) / total
    error = math.sqrt(few + rest)
    return error, critical * np.sqrt(total) / error


def _pool(parts: Sequence[Share]) -> tuple[float, float]:
    """Several shares as one, with Satterthwaite's degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    return total, total**2 / sum(v**2 / df for v, df in parts) if total else 1.0


def _chance(df: float) -> FloatArray:
    return np.asarray(special.chdtri(df, 1 - GRID) / df, dtype=np.float64)


def items_vanish(contrast: Contrast) -> bool:
    """Whether a task's items have no estimated variance of their own.

    Either there is one item, or MS_item came out below MS_error and the difference was clipped at
    0. Items do differ, so a number of seeds that takes the 0 for true would promise too much.
    """
    return min(contrast.variance_items) == 0


def is_rough(contrast: Contrast) -> bool:
    """Whether seeds or items are too few for their variances to be more than a rough guide."""
    return contrast.num_seeds < FEW_SEEDS or min(contrast.num_items) < FEW_ITEMS


def seeds_needed(contrast: Contrast, difference: float, alpha: float) -> int | None:
    """The fewest seeds with which `difference` could be detected; None if no number of them is.

    Each part of the seeds' variance shrinks with their number, the items' part stays, so a test
    of few items has a floor that seeds do not lower. None also for one seed, which says nothing
    about the spread of seeds.
    """
    if contrast.num_seeds < 2 or contrast.variance_seeds == 0:
        return None

    def detects(num_seeds: int) -> bool:
        seeds = contrast.variance_seeds * contrast.num_seeds / num_seeds
        parts = shares(seeds, num_seeds, contrast.variance_items, contrast.num_items)
        return smallest_detectable(parts, alpha) <= difference

    if not detects(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high


if __name__ == "__main__":
    from analysis.planning import main  # it needs this module's functions

    sys.exit(main())
