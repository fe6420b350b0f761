"""Friedman, Nemenyi and Conover against scipy, scikit-posthocs and Demšar's example."""

from __future__ import annotations

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from analysis.inference.rank_tests import conover, friedman, nemenyi

# Demšar (2006), table 6: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets
# (he ranks before rounding, so voting's last two are no tie)
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9752, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_demsars_example() -> None:
    """Section 3.2.3: mean ranks 3.143, 2.000, 2.893, 1.964; F = 3.69; +m+cf differs at 0.10."""
    got = friedman(DEMSAR)
    np.testing.assert_allclose(5 - got.mean_ranks, [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    # he leaves the ties out of chi-square (9.28); with them it is scipy's
    assert got.chi_square == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).statistic, rel=1e-12)
    p = nemenyi(DEMSAR)
    assert p[0, 3] < 0.10 < p[0, 2]
    assert p.min() > 0.05


@pytest.mark.parametrize(("tasks", "models"), [(3, 3), (12, 4), (41, 9), (60, 15)])
def test_friedman_is_scipys(tasks: int, models: int) -> None:
    scores = np.round(np.random.default_rng(tasks).normal(0, 1, (tasks, models)), 1)
    got, expected = friedman(scores), stats.friedmanchisquare(*scores.T)
    assert got.chi_square == pytest.approx(expected.statistic, rel=1e-12)
    assert got.p_chi_square == pytest.approx(expected.pvalue, rel=1e-12)


@pytest.mark.parametrize(("tasks", "models"), [(5, 3), (41, 9)])
def test_pairs_are_those_of_scikit_posthocs(tasks: int, models: int) -> None:
    generator = np.random.default_rng(tasks)
    scores = np.round(generator.normal(0.3 * np.arange(models), 1, (tasks, models)), 1)
    expected = scikit_posthocs.posthoc_conover_friedman(scores).to_numpy()
    np.testing.assert_allclose(conover(scores), expected, rtol=1e-9, atol=1e-15)
    expected = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    np.testing.assert_allclose(nemenyi(scores), expected, rtol=1e-9, atol=1e-12)


def test_perfect_order_and_perfect_equality() -> None:
    ordered = np.tile(np.arange(4.0), (6, 1))
    equal = np.ones((6, 4))
    assert friedman(equal).p_chi_square == friedman(equal).p_f == 1.0
    for test in (nemenyi, conover):
        np.testing.assert_array_equal(test(equal), np.ones((4, 4)))
        p = test(ordered)
        assert ((p > 0) & (p <= 1)).all()
        np.testing.assert_array_equal(np.diag(p), np.ones(4))
    assert 0 < friedman(ordered).p_f < 1e-10
