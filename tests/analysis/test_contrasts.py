import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.arrays import FloatArray
from analysis.contrasts import (
    SMALLEST_P,
    compare,
    critical_value,
    mean_squares,
    p_value,
    pair,
)
from analysis.pseudovalues import SeedsByItems


def draw(
    generator: np.random.Generator,
    seeds: int,
    items: int,
    seed_spread: float,
    item_spread: float,
    error: float = 1.0,
) -> FloatArray:
    runs = generator.normal(0, seed_spread, (seeds, 1))
    return (
        runs
        + generator.normal(0, item_spread, (1, items))
        + generator.normal(0, error, (seeds, items))
    )


def arm(
    given: Any, seeds: list[int] | None = None, items: list[str] | None = None
) -> SeedsByItems:
    values = np.asarray(given, dtype=float)
    return SeedsByItems(
        seeds=tuple(seeds or range(len(values))),
        items=tuple(items or [f"i{n}" for n in range(values.shape[1])]),
        values=values,
    )


def test_mean_squares_against_statsmodels() -> None:
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    differences = draw(np.random.default_rng(0), 4, 15, 0.5, 1.0)
    seed, item = np.indices(differences.shape)
    long = pd.DataFrame({"d": differences.ravel(), "s": seed.ravel(), "i": item.ravel()})
    expected = anova.anova_lm(formula.ols("d ~ C(s) + C(i)", long).fit())["mean_sq"]
    got = mean_squares(differences)
    np.testing.assert_allclose((got.seed, got.item, got.error), expected.to_numpy())


def test_one_seed_is_the_paired_t_test_over_items() -> None:
    differences = draw(np.random.default_rng(1), 1, 40, 0, 1.0) + 0.3
    expected = stats.ttest_1samp(differences[0], 0)
    got = compare([differences])
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert got.notes == ("one seed: the variation between training runs is not covered",)


def test_seeds_that_never_differ_are_the_paired_t_test_over_items() -> None:
    differences = np.tile(draw(np.random.default_rng(1), 1, 40, 0, 1.0) + 0.3, (3, 1))
    got = compare([differences])
    assert got.p == pytest.approx(stats.ttest_1samp(differences[0], 0).pvalue)
    assert got.notes == ()


def test_one_item_is_the_paired_t_test_over_seeds() -> None:
    differences = draw(np.random.default_rng(2), 5, 1, 1.0, 0) + 0.5
    got = compare([differences])
    assert got.p == pytest.approx(stats.ttest_1samp(differences[:, 0], 0).pvalue)
    assert got.notes == ("one item: the variation between items is not covered",)


def test_the_variance_is_that_of_dorfman_berbaum_and_metz() -> None:
    differences = draw(np.random.default_rng(3), 3, 50, 0.4, 1.0)
    squares = mean_squares(differences)
    expected = (squares.seed + squares.item - squares.error) / differences.size
    assert squares.item > squares.error
    assert compare([differences]).standard_error == pytest.approx(math.sqrt(expected))


def test_where_the_seeds_rule_the_test_is_that_of_hillis() -> None:
    differences = np.random.default_rng(4).normal(0, 1, (3, 1)) + np.zeros((3, 20))
    got = compare([differences])  # no item component: both have S - 1 degrees of freedom
    assert got.p == pytest.approx(stats.ttest_1samp(differences[:, 0], 0).pvalue)


def test_p_and_interval_agree() -> None:
    generator = np.random.default_rng(5)
    for _ in range(50):
        got = compare([draw(generator, 3, 30, 0.2, 0.5) + 0.5])
        assert (got.p < 0.05) == (got.low > 0 or got.high < 0)
        assert p_value(critical_value(0.05, got.shares), got.shares) == pytest.approx(0.05)


def test_sign_scale_and_order() -> None:
    differences = draw(np.random.default_rng(6), 3, 30, 0.2, 0.5) + 0.2
    one, other = compare([differences]), compare([-10 * differences[::-1, ::-1]])
    assert other.effect == pytest.approx(-10 * one.effect)
    assert (other.low, other.high) == pytest.approx((-10 * one.high, -10 * one.low))
    assert other.p == pytest.approx(one.p)


def test_identical_arms() -> None:
    got = compare([np.zeros((3, 10))])
    assert (got.effect, got.low, got.high, got.p, got.identical) == (0, 0, 0, 1, True)
    assert got.notes == ("the arms are identical: every difference is zero",)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 9), (3, 9)])
def test_without_any_spread_there_is_no_test(shape: tuple[int, int]) -> None:
    got = compare([np.full(shape, 0.1)])
    assert got.effect == pytest.approx(0.1)
    assert (got.low, got.high, got.p, got.identical) == (-math.inf, math.inf, 1, False)
    assert got.notes == ("nothing varies, so there is no error to test against",)


def test_equal_means_of_seeds_and_items_leave_the_interaction_as_error() -> None:
    checkers = 0.1 + np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
    got = compare([checkers])
    assert got.effect == pytest.approx(0.1)
    assert 0 < got.standard_error < math.inf
    assert got.p > 0.5


def test_p_is_never_zero_and_quantiles_hold_down_to_the_smallest() -> None:
    tiny = compare([1e3 + draw(np.random.default_rng(7), 3, 400, 0, 0, error=1e-3)])
    assert 0 < tiny.p < 1e-10
    assert p_value(1e200, [(1.0, 99)]) == SMALLEST_P
    for freedom in (1, 2, 3, 4, 7, 20, 99, 1000):
        values = [critical_value(10.0**-k, [(1.0, freedom)]) for k in range(1, 101)]
        assert all(np.diff(values) > 0)


def rejects(
    generator: np.random.Generator,
    seeds: int,
    items: int,
    seed_spread: float,
    item_spread: float,
    count: int = 500,
) -> float:
    tests = [
        compare([draw(generator, seeds, items, seed_spread, item_spread)]) for _ in range(count)
    ]
    return float(np.mean([test.p < 0.05 for test in tests]))


@pytest.mark.parametrize(
    ("items", "seed_spread", "item_spread"),
    [
        (100, 0.0, 0.0),
        (100, 0.3, 1.0),
        (300, 0.1, 0.3),
        (300, 0.3, 1.0),
        (300, 0.0, 1.0),
        (5, 0.0, 1.0),
    ],
)
def test_false_positives_with_three_seeds(
    items: int, seed_spread: float, item_spread: float
) -> None:
    """At a nominal 5 %: at most 7.5 %, which is 5 % and 2.5 standard errors of 500 draws."""
    generator = np.random.default_rng([items, int(10 * seed_spread)])
    rate = rejects(generator, 3, items, seed_spread, item_spread)
    assert 0.01 <= rate <= 0.075


def test_false_positives_over_tasks_that_share_their_seeds() -> None:
    """Adding a variance for each task would lose the covariance and reject far too often."""
    generator = np.random.default_rng(8)
    shared, added = [], []
    for _ in range(500):
        seeds = generator.normal(0, 0.5, (3, 1))
        tasks = [seeds + generator.normal(0, 1, (3, 100)) for _ in range(4)]
        shared.append(compare(tasks).p < 0.05)
        parts = [compare([task]) for task in tasks]
        error = math.sqrt(sum(part.standard_error**2 for part in parts)) / 4
        effect = np.mean([part.effect for part in parts])
        added.append(abs(effect) > critical_value(0.05, [(1.0, 8)]) * error)
    assert 0.01 <= np.mean(shared) <= 0.075
    assert np.mean(added) > 0.15


def test_a_real_effect_is_found_and_covered() -> None:
    generator = np.random.default_rng(9)
    tests = [compare([draw(generator, 5, 200, 0.1, 0.5) + 0.5]) for _ in range(200)]
    assert np.mean([test.low <= 0.5 <= test.high for test in tests]) > 0.92
    assert np.mean([test.p < 0.05 for test in tests]) > 0.95


def test_tasks_count_equally() -> None:
    generator = np.random.default_rng(10)
    few, many = generator.normal(1, 1, (3, 5)), generator.normal(0, 1, (3, 500))
    got = compare([few, many])
    assert got.effect == pytest.approx((few.mean() + many.mean()) / 2)
    assert got.num_items == (5, 500)


def test_pairing_by_seed_and_item() -> None:
    left = arm([[1, 2, 3], [4, 5, 6]], seeds=[7, 8], items=["a", "b", "c"])
    right = arm([[10, 20], [30, 40]], seeds=[8, 9], items=["c", "a"])
    got = pair(left, right)
    assert (got.seeds, got.items) == ((8,), ("a", "c"))
    np.testing.assert_array_equal(got.values, [[4 - 20, 6 - 10]])
    assert got.dropped == (
        "seed 7: not in both arms",
        "seed 9: not in both arms",
        "1 items: not in both arms",
    )


def test_a_fixed_control_stands_against_each_seed() -> None:
    got = pair(arm([[1, 2], [3, 4]], seeds=[7, 8]), arm([[1, 1]], seeds=[0]), fixed_control=True)
    np.testing.assert_array_equal(got.values, [[0, 1], [2, 3]])
    assert (got.seeds, got.dropped) == ((7, 8), ())


def test_missing_cells_are_dropped_and_listed() -> None:
    values = [[1, np.nan, 3], [np.nan, np.nan, np.nan], [1, 2, 3]]
    got = pair(arm(values), arm(np.zeros((3, 3))))
    np.testing.assert_array_equal(got.values, [[1, 3], [1, 3]])
    assert got.dropped == ("seed 1: no values", "1 items: no value in one of the runs")
    assert pair(arm(np.full((2, 3), np.nan)), arm(np.zeros((2, 3)))).values.size == 0


def test_errors() -> None:
    with pytest.raises(ValueError, match="tasks: expected at least one, got none"):
        compare([])
    with pytest.raises(ValueError, match=r"arrays of seeds by items, got the shapes \[\(3, 0\)\]"):
        compare([np.zeros((3, 0))])
    with pytest.raises(ValueError, match=r"same seeds in each, got the shapes \[\(3, 2\), \(2, 2"):
        compare([np.zeros((3, 2)), np.zeros((2, 2))])
    with pytest.raises(ValueError, match="expected complete cells, got NaN"):
        compare([np.array([[0.0, np.nan]])])
