"""Wilcoxon's test against scipy, against all signs in turn, and against textbooks."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.arrays import FloatArray
from analysis.inference.signed_rank import Zeros, lower_tail, signed_rank

NASTY = (
    [0.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.3],
    [0.2, 0.2, 0.2, 0.2, 0.2],
    [0.1, -0.1, 0.1, -0.1, 0.1, -0.1],
    [1e-300, 1.0, -1e300, 2.0],
    [1, 1, 2, 2, 3, 3, -3, -3, 0, 0, 5],
)


def slow(row: FloatArray, zeros: Zeros) -> float:
    """Every sum of signed midranks with its exact chance, in whole numbers."""
    kept = row[~np.isnan(row)]
    kept = kept[kept != 0] if zeros == "wilcox" else kept
    ranks = [int(2 * r) for r in stats.rankdata(np.abs(kept))] if len(kept) else []
    sums = Counter({0: 1})
    positive = negative = 0
    for rank, value in zip(ranks, kept, strict=True):
        if value:
            shifted = Counter({total + rank: ways for total, ways in sums.items()})
            sums = sums + shifted
            positive += rank * (value > 0)
            negative += rank * (value < 0)
    ways = sum(count for total, count in sums.items() if total <= min(positive, negative))
    return float(min(Fraction(2 * ways, sum(sums.values())), Fraction(1)))


@pytest.mark.parametrize("number", [3, 4, 5, 8, 13, 25, 41, 50, 60])
def test_without_ties_it_is_scipys_exact_test(number: int) -> None:
    generator = np.random.default_rng(number)
    rows = generator.normal(generator.normal(0, 0.5, (40, 1)), 1, (40, number))
    got = signed_rank(rows)
    expected: Any = stats.wilcoxon(rows, axis=1, method="exact")
    np.testing.assert_allclose(got.p, expected.pvalue, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(got.statistic, expected.statistic)


@pytest.mark.parametrize("zeros", ["wilcox", "pratt"])
@pytest.mark.parametrize("number", [3, 6, 9])
def test_ties_and_zeros_are_scipys_permutation_over_all_signs(number: int, zeros: Zeros) -> None:
    rows = np.random.default_rng(number).integers(-3, 5, (8, number)).astype(float)
    rows[:, 0] = 1  # a row of zeros alone has no permutation test in scipy
    got = signed_rank(rows, zeros)
    every = stats.PermutationMethod(n_resamples=2**number)
    for row, p, statistic in zip(rows, got.p, got.statistic, strict=True):
        expected: Any = stats.wilcoxon(row, zero_method=zeros, method=every)
        assert p == pytest.approx(expected.pvalue, rel=1e-12)
        assert statistic == expected.statistic


@pytest.mark.parametrize("zeros", ["wilcox", "pratt"])
@pytest.mark.parametrize("number", [3, 11, 30, 60])
def test_ties_zeros_and_gaps_against_whole_numbers(number: int, zeros: Zeros) -> None:
    generator = np.random.default_rng(number)
    rows = np.round(generator.normal(0.3, 2, (30, number)))
    rows[generator.random(rows.shape) < 0.1] = np.nan
    expected = [slow(row, zeros) for row in rows]
    np.testing.assert_allclose(signed_rank(rows, zeros).p, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("zeros", ["wilcox", "pratt"])
@pytest.mark.parametrize("row", NASTY)
def test_nasty_rows(row: list[float], zeros: Zeros) -> None:
    values = np.array([row])
    got = signed_rank(values, zeros)
    assert got.p[0] == pytest.approx(slow(values[0], zeros), rel=1e-12)
    assert 0 < got.p[0] <= 1


def test_the_depression_data_of_hollander_and_wolfe() -> None:
    """Nonparametric Statistical Methods, example 3.1: T+ = 40, one-sided p = .019."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    got = signed_rank((before - after)[None, :])
    assert (got.positive[0], got.negative[0]) == (40, 5)
    assert got.p[0] == pytest.approx(0.0390625, rel=1e-12)
    assert got.rank_biserial[0] == pytest.approx(35 / 45)


def test_darwins_maize() -> None:
    """Fifteen pairs of crossed and self-fertilised plants (Fisher, 1935): T = 24."""
    heights = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    got = signed_rank(np.array([heights], dtype=float))
    assert (got.statistic[0], got.p[0]) == (24, 0.041259765625)


def test_the_smallest_p_of_few_tasks() -> None:
    for number in range(1, 12):
        assert signed_rank(np.arange(1.0, number + 1)[None, :]).p[0] == 2.0 ** (1 - number)


def test_rows_order_and_sign_do_not_matter() -> None:
    generator = np.random.default_rng(3)
    rows = np.round(generator.normal(0, 2, (20, 15)))
    got = signed_rank(rows)
    np.testing.assert_array_equal(signed_rank(-rows[:, ::-1]).p, got.p)
    np.testing.assert_array_equal(signed_rank(rows[::-1]).p, got.p[::-1])
    np.testing.assert_array_equal(signed_rank(-rows).rank_biserial, -got.rank_biserial)


def test_a_tail_of_a_thousand_tasks_is_a_number() -> None:
    tail = lower_tail(np.arange(1, 1001), 0)
    assert tail[0] == 2.0**-1000
    with pytest.raises(ValueError, match="expected at most 1000 tasks, got 1001"):
        signed_rank(np.ones((1, 1001)))
