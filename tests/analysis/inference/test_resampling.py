"""The bootstraps against slow loops, and against what theory says of their spread."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.arrays import FloatArray, IntArray
from analysis.inference import resampling
from analysis.inference.resampling import (
    Statistic,
    bootstrap_means,
    bootstrap_seeds_and_tasks,
    interquartile_mean,
    percentile_interval,
)


def again(scores: FloatArray, seeds: IntArray, tasks: IntArray, draw: int) -> FloatArray:
    """The cells (S T,) of one draw, one by one."""
    rows = np.repeat(np.arange(len(scores)), seeds[:, draw])
    columns = np.repeat(np.arange(scores.shape[1]), tasks[:, draw])
    return scores[np.ix_(rows, columns)].ravel()


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (3, 11), (5, 41)])
def test_each_draw_is_that_of_a_slow_loop(shape: tuple[int, int], statistic: Statistic) -> None:
    generator = np.random.default_rng(0)
    scores = np.round(generator.normal(0, 1, (2, *shape)), 1)
    got = bootstrap_seeds_and_tasks(scores, 50, np.random.default_rng(4), statistic)
    same = np.random.default_rng(4)
    seeds, tasks = (resampling.bootstrap_counts(same, size, 50) for size in shape)
    for model in range(2):
        for draw in range(50):
            cells = again(scores[model], seeds, tasks, draw)
            expected = cells.mean() if statistic == "mean" else stats.trim_mean(cells, 0.25)
            assert got[model, draw] == pytest.approx(expected, abs=1e-12)


def test_means_spread_as_the_formula_says() -> None:
    values = np.random.default_rng(1).normal(0, 1, (3, 25))
    draws = bootstrap_means(values, 40_000, np.random.default_rng(2))
    np.testing.assert_allclose(draws.std(axis=1), values.std(axis=1) / 5, rtol=0.02)
    np.testing.assert_allclose(draws.mean(axis=1), values.mean(axis=1), atol=0.005)


def test_the_interval_agrees_with_scipys() -> None:
    values = np.random.default_rng(3).gamma(2, 1, 30)
    low, high = percentile_interval(
        bootstrap_means(values[None, :], 40_000, np.random.default_rng(0))
    )
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_an_expanded_interval_of_a_normal_mean_is_students() -> None:
    values = stats.norm.ppf((np.arange(30) + 0.5) / 30)
    draws = bootstrap_means(values[None, :], 60_000, np.random.default_rng(0))
    low, high = percentile_interval(draws, size=30)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_models_get_the_same_draws() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (1, 4, 9))
    shifted = np.concatenate([scores, scores + 0.5])
    for statistic in ("mean", "iqm"):
        draws = bootstrap_seeds_and_tasks(shifted, 9000, np.random.default_rng(1), statistic)
        np.testing.assert_allclose(draws[1] - draws[0], 0.5, atol=1e-12)


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    values = np.random.default_rng(0).normal(0, 1, (6, 23))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=1))
