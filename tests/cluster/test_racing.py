"""The race: its test against scipy and against all signs, its error rate by simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from cluster.study.racing import attained, levels, looks, lost, lower

ALPHA = 0.05


@pytest.mark.parametrize("number", [1, 5, 9, 14, 25, 41])
def test_the_p_value_is_scipys(number: int) -> None:
    differences = np.random.default_rng(number).normal(-0.3, 1, number)
    expected = wilcoxon(differences, alternative="less", method="exact").pvalue
    assert lower(differences.tolist()) == pytest.approx(expected, rel=1e-12)


def test_ties_and_zeros_against_all_choices_of_signs() -> None:
    differences = [-1.0, 2.0, -2.0, -2.0, 0.0, 3.0, -1.0, -4.0]
    sizes = np.array([abs(d) for d in differences if d])
    ranks = np.array([(sizes < s).sum() + ((sizes == s).sum() + 1) / 2 for s in sizes])
    up = np.array([d > 0 for d in differences if d])
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=7)]
    assert lower(differences) == np.mean(np.array(sums) <= ranks[up].sum())
    assert lower([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("num_tasks", [4, 7, 8, 12, 16, 41])
def test_the_levels_can_be_reached_and_sum_to_alpha_at_the_most(
    num_tasks: int, alpha: float
) -> None:
    found = levels(num_tasks, alpha)
    assert tuple(found) == looks(num_tasks, alpha)
    assert sum(found.values()) <= alpha
    assert all(0 < level == attained(look, level) for look, level in found.items())
    assert all(look < num_tasks for look in found)


def share_dropped(
    draw: Callable[[np.random.Generator], NDArray[np.float64]], repeats: int = 1000
) -> float:
    """Return how often a design with such differences to its rival is dropped at any look."""
    generator, dropped = np.random.default_rng(0), 0
    for _ in range(repeats):
        differences = draw(generator)
        tasks = [str(place) for place in range(len(differences))]
        scores = dict(zip(tasks, differences.tolist(), strict=True))
        rival = dict.fromkeys(tasks, 0.0)
        at = looks(len(tasks), ALPHA)
        seen = (dict(itertools.islice(scores.items(), look)) for look in at)
        dropped += any(lost(each, rival, len(tasks), ALPHA) for each in seen)
    return dropped / repeats


@pytest.mark.parametrize("num_tasks", [8, 16, 41])
def test_an_equal_design_is_dropped_as_seldom_as_promised(num_tasks: int) -> None:
    sampling = 3 * (ALPHA * (1 - ALPHA) / 1000) ** 0.5
    normal = share_dropped(lambda g: g.normal(size=num_tasks))
    assert 0.01 < normal <= ALPHA + sampling
    assert share_dropped(lambda g: g.normal(size=num_tasks).round()) <= ALPHA + sampling
    assert share_dropped(lambda g: g.standard_t(3, num_tasks)) <= ALPHA + sampling


def test_a_worse_design_is_dropped_and_a_better_one_is_not() -> None:
    assert share_dropped(lambda g: g.normal(-2, 1, 16), 300) > 0.95
    assert share_dropped(lambda g: g.normal(1, 1, 16), 300) < 0.01


def test_what_is_no_look_and_what_is_not_shared_drops_nobody() -> None:
    worse = {str(place): 0.1 for place in range(6)}
    rival = {str(place): 0.5 for place in range(16)}
    assert lost(worse, rival, 16, ALPHA) == "6 of 16 tasks, Wilcoxon p 0.016 of 0.016 allowed"
    assert lost({**worse, "6": 0.1}, rival, 16, ALPHA) is None
    assert lost({**worse, "other": 0.1}, rival, 16, ALPHA) is not None
    assert lost(worse, {"0": 0.5}, 16, ALPHA) is None
    assert lost(worse, rival, 6, ALPHA) is None
