import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from analysis.subsets import Limits, Moments, Rule, beam, exhaustive
from tests.analysis.scores import drawn

KINDS = np.arange(9) % 3
SCORES = drawn(40, 9)
TARGET = SCORES.mean(axis=1)
MOMENTS = Moments.of(SCORES, TARGET)


def test_a_mean_explains_its_squared_correlation() -> None:
    subset = np.array([[1, 4, 7]])
    expected = np.corrcoef(SCORES[:, [1, 4, 7]].mean(axis=1), TARGET)[0, 1] ** 2
    assert MOMENTS.explained(subset, Rule(name="mean"))[0] == pytest.approx(expected)


def test_categories_count_alike_in_their_mean() -> None:
    rule = Rule(name="category_mean", kinds=KINDS)
    subset = [0, 3, 6, 1]  # three of the first category, one of the second
    mean = (SCORES[:, [0, 3, 6]].mean(axis=1) + SCORES[:, 1]) / 2
    expected = np.corrcoef(mean, TARGET)[0, 1] ** 2
    assert MOMENTS.explained(np.array([subset]), rule)[0] == pytest.approx(expected)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_fitted_weights_minimise_the_penalised_error(strength: float) -> None:
    subset = [0, 2, 5, 8]
    some, aim = SCORES[:, subset] - SCORES[:, subset].mean(axis=0), TARGET - TARGET.mean()
    size = ((SCORES - SCORES.mean(axis=0)) ** 2).sum(axis=0).mean()

    def error(w: np.ndarray) -> float:
        return float(((aim - some @ w) ** 2).sum() + strength * size * ((w - w.mean()) ** 2).sum())

    found = minimize(error, np.zeros(4), tol=1e-14)
    rule = Rule(name="fitted", strength=strength)
    np.testing.assert_allclose(MOMENTS.weights(np.array([subset]), rule)[0], found.x, atol=1e-5)
    explained = 1 - found.fun / (aim @ aim)
    assert MOMENTS.explained(np.array([subset]), rule)[0] == pytest.approx(explained, abs=1e-8)


def test_strong_shrinkage_leads_to_the_plain_mean() -> None:
    subset = np.array([[0, 2, 5]])
    strong = MOMENTS.weights(subset, Rule(name="fitted", strength=1e9))
    np.testing.assert_allclose(strong, MOMENTS.weights(subset, Rule(name="mean")), rtol=1e-6)


def test_a_mean_that_falls_with_the_full_mean_explains_nothing() -> None:
    moments = Moments.of(np.column_stack([-TARGET, TARGET]), TARGET)
    assert moments.explained(np.array([[0], [1]]), Rule(name="mean")).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("rule", [Rule(name="mean"), Rule(name="fitted", strength=0.1)])
def test_searches_against_a_slow_loop(rule: Rule) -> None:
    limits = Limits(num_tasks=3)
    sets = [s for k in (1, 2, 3) for s in itertools.combinations(range(9), k)]
    values = [MOMENTS.explained(np.array([each]), rule)[0] for each in sets]
    best = sets[int(np.argmax(values))]
    assert exhaustive(lambda s: MOMENTS.explained(s, rule), 9, limits) == best
    assert beam(lambda s: MOMENTS.explained(s, rule), 9, limits, 1000) == best


def test_limits_hold_in_every_search() -> None:
    costs = np.array([5.0, 1, 4, 2, 2, 9, 1, 1, 3])
    cover = (np.flatnonzero(KINDS == 2), np.flatnonzero(KINDS == 0))
    limits = Limits(num_tasks=4, costs=costs, budget=6.0, cover=cover)
    rule = Rule(name="mean")
    sets = [s for k in (1, 2, 3, 4) for s in itertools.combinations(range(9), k)]
    allowed = [
        s for s in sets if costs[list(s)].sum() <= 6 and {0, 2} <= set(KINDS[list(s)].tolist())
    ]
    best = max(allowed, key=lambda s: MOMENTS.explained(np.array([s]), rule)[0])
    assert exhaustive(lambda s: MOMENTS.explained(s, rule), 9, limits) == best
    assert beam(lambda s: MOMENTS.explained(s, rule), 9, limits, 1000) == best
    assert beam(lambda s: MOMENTS.explained(s, rule), 9, limits, 1) in allowed


def test_half_of_a_beam_grows_for_its_time() -> None:
    """A dear task that is best alone does not push out the cheap ones that are better together."""
    generator = np.random.default_rng(3)
    parts = generator.normal(size=(60, 6))
    target = parts.sum(axis=1)
    scores = np.column_stack([target + 1.5 * generator.normal(size=60), parts])
    moments = Moments.of(scores, target)
    limits = Limits(num_tasks=7, costs=np.array([6.0, 1, 1, 1, 1, 1, 1]), budget=6.0)
    found = beam(lambda s: moments.explained(s, Rule(name="mean")), 7, limits, 2)
    assert found == (1, 2, 3, 4, 5, 6)


def test_too_many_sets_and_none_are_refused() -> None:
    rule = Rule(name="mean")
    with pytest.raises(ValueError, match="at most 5,000,000 sets to try, got 5,358,577"):
        exhaustive(lambda s: MOMENTS.explained(s, rule), 41, Limits(num_tasks=6))
    limits = Limits(num_tasks=2, costs=np.full(9, 3.0), budget=2.0)
    with pytest.raises(ValueError, match="a set within the limits, got none"):
        exhaustive(lambda s: MOMENTS.explained(s, rule), 9, limits)
    with pytest.raises(ValueError, match="a set within the limits, got none"):
        beam(lambda s: MOMENTS.explained(s, rule), 9, limits, 3)
