"""Bootstraps: over the items of a task, and over seeds and tasks at once.

What is resampled, and why: a claim should hold for other items, other seeds or other tasks, so
whatever the claim generalises over is drawn again with replacement. Models are never resampled,
and all models get the same draws, so differences between them stay paired.

Seeds and tasks are crossed: a training run is scored on every task, so its luck reaches all of
them. Resampling cells, or runs within each task (as stratified bootstraps do), would break that
tie and give intervals that are too narrow. Here each draw takes S seeds and T tasks, and the cells
where they cross (Owen, 2007, "The pigeonhole bootstrap"). No bootstrap is exact for crossed data
(McCullagh, 2000): this one counts the noise of single cells up to three times, which widens, and a
percentile interval of S seeds sees (S - 1) / S of their variance, which narrows where seeds rule.
With few seeds the intervals of `contrasts.compare` are the ones to trust.

Letters: B draws, P pairs, I items, M models, S seeds, T tasks.
"""

from typing import Literal

import numpy as np
from scipy import special

from analysis.arrays import FloatArray, IntArray

Statistic = Literal["mean", "iqm"]
CHUNK = 4096  # draws that are worked on at once: their cells fit a processor's cache
TRIM = 0.25  # of each side, of the interquartile mean


def bootstrap_means(
    differences: FloatArray, draws: int, generator: np.random.Generator
) -> FloatArray:
    """Means (P, B) of the rows of differences (P, I) over items drawn with replacement."""
    num_items = differences.shape[1]
    means = [
        differences @ bootstrap_counts(generator, num_items, count).astype(np.float64)
        for count in _chunks(draws)
    ]
    return np.asarray(np.concatenate(means, axis=1) / num_items, dtype=np.float64)


def bootstrap_seeds_and_tasks(
    scores: FloatArray,
    draws: int,
    generator: np.random.Generator,
    statistic: Statistic = "mean",
) -> FloatArray:
    """The statistic (M, B) of scores (M, S, T) over seeds and tasks drawn with replacement.

    "iqm" is the interquartile mean of all S x T cells of a model (Agarwal et al., 2021, who
    resample runs only), with a quarter of the cells, rounded down, cut off at each end.
    """
    num_models, num_seeds, num_tasks = scores.shape
    result = np.empty((num_models, draws))
    start = 0
    for count in _chunks(draws):
        seeds = bootstrap_counts(generator, num_seeds, count)
        tasks = bootstrap_counts(generator, num_tasks, count)
        for model in range(num_models):
            reduce = _mean if statistic == "mean" else _iqm
            result[model, start : start + count] = reduce(scores[model], seeds, tasks)
        start += count
    return result


def percentile_interval(
    draws: FloatArray, level: float = 0.95, size: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """The percentile interval over the last axis of draws (..., B).

    With `size`, the number of units that were resampled and rule the spread (tasks, as a rule),
    the percentiles lie further out, as Student's t with n - 1 in the place of n has it
    (Hesterberg, 2015, "expanded percentile"): without, a few units are covered too seldom.
    """
    outside = (1 - level) / 2
    if size is not None:
        student = special.stdtrit(size - 1, outside)
        outside = float(special.ndtr(student * np.sqrt(size / (size - 1))))
    low, high = np.quantile(draws, [outside, 1 - outside], axis=-1)
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def interquartile_mean(values: FloatArray) -> FloatArray:
    """The mean of the middle half over the last axis of values (..., N), as scipy's trim_mean.

    >>> interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0]))
    array(2.5)
    """
    cut = int(TRIM * values.shape[-1])
    middle = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1), dtype=np.float64)


def _chunks(draws: int) -> list[int]:
    return [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]


def bootstrap_counts(generator: np.random.Generator, size: int, draws: int) -> IntArray:
    """How often each of `size` is drawn in `size` draws with replacement: (size, draws)."""
    chosen = generator.integers(0, size, (draws, size), dtype=np.int32)
    flat = (chosen + np.arange(draws, dtype=np.int32)[:, None] * size).ravel()
    counts = np.bincount(flat, minlength=draws * size).reshape(draws, size)
    return np.ascontiguousarray(counts.T)


def _mean(scores: FloatArray, seeds: IntArray, tasks: IntArray) -> FloatArray:
    """Means (B,) of scores (S, T) under counts (S, B) and (T, B)."""
    weighted = (scores @ tasks.astype(np.float64)) * seeds
    return np.asarray(weighted.sum(axis=0) / scores.size, dtype=np.float64)


def _iqm(scores: FloatArray, seeds: IntArray, tasks: IntArray) -> FloatArray:
    """Interquartile means (B,), without sorting any draw.

    The cells are sorted once; a draw only changes how often each counts. The running number of
    cells, clipped to the middle half, says how much of each is kept; summed by parts, the mean is
    the largest value less the gaps between neighbours, each times what is kept below it.
    """
    order = np.argsort(scores, axis=None, kind="stable")
    ordered = scores.ravel()[order]
    row, column = np.unravel_index(order, scores.shape)
    small = "int16" if scores.size < 2**15 else "int64"
    running: IntArray = seeds.astype(small)[row] * tasks.astype(small)[column]
    for at in range(1, len(running)):
        running[at] += running[at - 1]
    cut = int(TRIM * scores.size)
    kept = np.clip(running, cut, scores.size - cut, out=running)[:-1]
    below = np.diff(ordered) @ (kept.astype(np.float64) - cut)
    return np.asarray(ordered[-1] - below / (scores.size - 2 * cut), dtype=np.float64)
