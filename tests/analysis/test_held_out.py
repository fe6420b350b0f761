import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis import held_out
from analysis.arrays import FloatArray, IntArray
from analysis.held_out import CHOSEN, HeldOut, Search, correlate, hold_out, spearman, split
from analysis.subsets import Limits, Moments, Rule, Score, beam
from tests.analysis.scores import drawn

KINDS = np.arange(12) % 3
NUM_MODELS = 40


def search(num_tasks: int) -> Search:
    def find(score: Score) -> tuple[int, ...]:
        return beam(score, len(KINDS), Limits(num_tasks=num_tasks), 5)

    return find


def held(
    scores: FloatArray, target: FloatArray, groups: IntArray, num_tasks: int = 3
) -> dict[str, HeldOut]:
    return hold_out(
        scores,
        target,
        groups,
        search(num_tasks),
        held_out.rules(KINDS),
        repeats=2,
        num_folds=4,
        seed=0,
    )


def test_nothing_of_a_held_out_model_reaches_what_is_said_of_it() -> None:
    scores, groups = drawn(NUM_MODELS, 12), np.arange(NUM_MODELS)
    target = scores.mean(axis=1)
    before = held(scores, target, groups)
    other = target.copy()
    other[7] += 0.4
    after = held(scores, other, groups)
    for name in before:
        assert np.array_equal(before[name].predicted[:, 7], after[name].predicted[:, 7])
        assert not np.array_equal(before[name].predicted, after[name].predicted)


def test_what_is_learned_of_noise_is_worth_nothing_held_out() -> None:
    generator = np.random.default_rng(4)
    scores, target = drawn(NUM_MODELS, 12, seed=9), generator.normal(size=NUM_MODELS)
    rule = Rule(name="fitted", strength=0.01)
    suite = held_out.fit(scores, target, search(6), rule)
    assert spearman(suite.predict(scores), target) > 0.4
    found = hold_out(
        scores,
        target,
        np.arange(NUM_MODELS),
        search(6),
        {"fitted": (rule,)},
        repeats=4,
        num_folds=5,
        seed=1,
    )["fitted"]
    assert np.mean([spearman(row, target) for row in found.predicted]) < 0.2


def test_groups_are_never_split_and_folds_are_alike() -> None:
    groups = np.array([0, 0, 0, 3, 4, 5, 3, 7, 8, 9, 10, 11])
    for seed in range(20):
        fold = split(groups, 4, np.random.default_rng(seed))
        assert all(len(set(fold[groups == g].tolist())) == 1 for g in groups)
        assert sorted(np.bincount(fold).tolist()) == [3, 3, 3, 3]


def test_the_chosen_rule_is_one_of_the_rules() -> None:
    scores = drawn(NUM_MODELS, 12)
    found = held(scores, scores.mean(axis=1), np.arange(NUM_MODELS))
    rules = {suite.rule.name for suite in found[CHOSEN].suites}
    assert rules <= {"mean", "category_mean", "fitted"}
    assert found["mean"].chosen_share(12).sum() == pytest.approx(3)
    assert 0 < found["mean"].overlap() <= 1


def test_a_suite_predicts_the_full_mean_itself() -> None:
    scores = drawn(NUM_MODELS, 12, noise=0.0)
    target = scores.mean(axis=1)
    suite = held_out.fit(scores, target, search(3), Rule(name="fitted", strength=1e-9))
    np.testing.assert_allclose(suite.predict(scores), target, atol=1e-6)


def test_spearman_against_scipy() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 9, 30).astype(float), generator.normal(size=30)
    assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic)
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0


@pytest.mark.parametrize(("number", "rho"), [(60, 0.985), (20, 0.9)])
def test_the_interval_covers_what_it_promises(number: int, rho: float) -> None:
    generator = np.random.default_rng(1)
    true = 6 / math.pi * math.asin(rho / 2)  # of a bivariate normal
    everyone, groups = np.ones(number, dtype=bool), np.arange(number)
    covered, surely = 0, 0
    for _ in range(150):
        pairs = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], number)
        found = correlate(pairs[:, :1].T, pairs[:, 1], groups, everyone, true)
        covered += found.low <= true <= found.high
        surely += found.sureness > 0.95
    assert 0.89 <= covered / 150 <= 1
    assert surely / 150 <= 0.08


def test_aliases_make_an_interval_no_narrower() -> None:
    generator = np.random.default_rng(2)
    target = generator.normal(size=20)
    predicted = target + 0.3 * generator.normal(size=(3, 20))
    ones = partial(correlate, predicted, target, np.arange(20), np.ones(20, dtype=bool))()
    twice = correlate(
        np.tile(predicted, 2), np.tile(target, 2), np.tile(np.arange(20), 2), np.ones(40, bool)
    )
    assert twice.value == pytest.approx(ones.value, abs=0.01)
    assert twice.high - twice.low == pytest.approx(ones.high - ones.low, rel=0.1)


def test_a_perfect_order_is_sure() -> None:
    order = np.arange(12.0)
    found = correlate(order[None], order, np.arange(12), np.ones(12, dtype=bool), 0.97)
    assert found.value == pytest.approx(1)
    assert found.sureness == 1.0


def test_moments_need_no_more_than_two_models() -> None:
    moments = Moments.of(np.array([[0.1, 0.3], [0.2, 0.1]]), np.array([0.2, 0.3]))
    assert moments.explained(np.array([[0]]), Rule(name="mean"))[0] == pytest.approx(1)
