"""Effects and their intervals against scipy, R's published numbers and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.inference.effects import (
    bootstrap_improvement,
    bootstrap_rank_biserial,
    hodges_lehmann,
    improvement,
    mean_difference,
)
from analysis.inference.signed_rank import signed_rank


@pytest.mark.parametrize("number", [2, 5, 41])
def test_the_mean_has_students_interval(number: int) -> None:
    rows = np.random.default_rng(number).normal(0.2, 1, (7, number))
    mean, low, high = mean_difference(rows)
    for at, row in enumerate(rows):
        expected = stats.ttest_1samp(row, 0).confidence_interval()
        got = (mean[at], low[at], high[at])
        assert got == pytest.approx((row.mean(), expected.low, expected.high), rel=1e-12)


def test_gaps_lower_the_number_of_tasks() -> None:
    rows = np.array([[0.1, np.nan, 0.3, 0.4], [np.nan, np.nan, 0.2, np.nan], [np.nan] * 4])
    mean, low, high = mean_difference(rows)
    alone = mean_difference(np.array([[0.1, 0.3, 0.4]]))
    assert (mean[0], low[0], high[0]) == pytest.approx([part[0] for part in alone])
    assert (mean[1], low[1], high[1]) == (0.2, -np.inf, np.inf)
    assert np.isnan([mean[2], low[2], high[2]]).all()


def test_hodges_and_lehmann_on_the_depression_data() -> None:
    """R: wilcox.test(depression$x, depression$y, paired = TRUE, conf.int = TRUE)."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    got = hodges_lehmann(before - after)
    assert got == pytest.approx((0.46, 0.01, 0.786), abs=5e-4)


@pytest.mark.parametrize("number", [3, 6, 12, 30])
def test_the_interval_inverts_the_signed_rank_test(number: int) -> None:
    values = np.random.default_rng(number).normal(1, 1, number)
    _, low, high = hodges_lehmann(values)
    if number < 6:
        assert (low, high) == (-np.inf, np.inf)
        return
    for end, inward in ((low, 1e-9), (high, -1e-9)):
        inside, outside = (
            signed_rank((values - end - s)[None, :]).p[0] for s in (inward, -inward)
        )
        assert inside > 0.05 >= outside


def test_improvement_is_mann_and_whitneys_share() -> None:
    generator = np.random.default_rng(0)
    left = np.round(generator.normal(0.3, 1, (5, 6)), 1)
    right = np.round(generator.normal(0, 1, (4, 6)), 1)
    each = [stats.mannwhitneyu(left[:, t], right[:, t]).statistic / 20 for t in range(6)]
    assert improvement(left, right) == pytest.approx(np.mean(each))
    assert improvement(right, left) == pytest.approx(1 - np.mean(each))
    draws = bootstrap_improvement(left, right, 20_000, generator)
    assert draws.mean() == pytest.approx(np.mean(each), abs=0.005)
    assert ((draws >= 0) & (draws <= 1)).all()


def test_the_bootstrap_of_the_rank_biserial_is_that_of_each_draw() -> None:
    differences = np.round(np.random.default_rng(1).normal(0.5, 1, 12), 1)
    got = bootstrap_rank_biserial(differences, 300, np.random.default_rng(2))
    chosen = np.random.default_rng(2).integers(0, 12, (300, 12))
    np.testing.assert_allclose(got, signed_rank(differences[chosen]).rank_biserial)
