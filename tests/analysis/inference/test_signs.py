"""The sign test and sign flips against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.arrays import FloatArray
from analysis.inference.signs import sign_flip, sign_test


@pytest.mark.parametrize("number", [3, 10, 41, 60])
def test_the_sign_test_is_the_exact_binomial_test(number: int) -> None:
    rows = np.random.default_rng(number).integers(-2, 4, (50, number)).astype(float)
    rows[:, 0] = 1
    for row, p in zip(rows, sign_test(rows), strict=True):
        wins, losses = int((row > 0).sum()), int((row < 0).sum())
        assert p == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-12)


def test_nothing_but_zeros_and_gaps_is_no_evidence() -> None:
    assert sign_test(np.array([[0.0, 0.0, np.nan], [np.nan] * 3])).tolist() == [1.0, 1.0]


def mean(values: FloatArray, axis: int = -1) -> FloatArray:
    return np.asarray(values.mean(axis=axis))


@pytest.mark.parametrize("number", [3, 6, 10])
def test_few_items_are_scipys_permutations(number: int) -> None:
    generator = np.random.default_rng(number)
    rows = np.round(generator.normal(0.4, 1, (6, number)), 1)
    got = sign_flip(rows, 2**number, generator)
    for row, p in zip(rows, got, strict=True):
        expected = stats.permutation_test(
            (row,), mean, permutation_type="samples", n_resamples=2**number, vectorized=True
        )
        one_sided = (expected.null_distribution >= abs(row.mean()) - 1e-12).mean()
        assert p == pytest.approx(min(2 * one_sided, 1.0), rel=1e-12)


def test_many_items_are_right_within_the_error_of_the_draws() -> None:
    rows = np.random.default_rng(1).normal(0.25, 1, (5, 16))
    exact = sign_flip(rows, 2**16, np.random.default_rng(2))
    drawn = sign_flip(rows, 20_000, np.random.default_rng(2))
    error = np.sqrt(exact * (1 - exact) / 20_000)
    assert (np.abs(drawn - exact) < 4 * error + 1e-4).all()


def test_no_p_is_zero_and_equal_generators_agree() -> None:
    rows = np.ones((1, 200))
    assert sign_flip(rows, 999, np.random.default_rng(0)).tolist() == [0.001]
    assert sign_flip(np.zeros((1, 200)), 999, np.random.default_rng(0)).tolist() == [1.0]
    noise = np.random.default_rng(5).normal(0, 1, (3, 100))
    first, second = (sign_flip(noise, 500, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
