"""The Bayesian signed-rank test against a slow loop and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.inference.bayes import bayesian_signed_rank


def test_it_is_a_slow_loop() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.05, (2, 7))
    got = bayesian_signed_rank(differences, 0.01, 200, np.random.default_rng(1))
    weights = np.random.default_rng(1).dirichlet([0.5, *[1] * 7], 200)
    for row, expected in zip(differences, got, strict=True):
        values, wins = [0.0, *row], np.zeros(3)
        for drawn in weights:
            votes = np.zeros(3)
            for first, left in zip(drawn, values, strict=True):
                for second, right in zip(drawn, values, strict=True):
                    side = 0 if left + right < -0.02 else 2 if left + right > 0.02 else 1
                    votes[side] += first * second
            wins[votes.argmax()] += 1
        np.testing.assert_allclose(expected, wins / 200)


def test_mirrored_differences_mirror_the_answer() -> None:
    differences = np.random.default_rng(2).normal(0.01, 0.03, (3, 20))
    left, right = (
        bayesian_signed_rank(sign * differences, 0.01, 4000, np.random.default_rng(3))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(left, right[:, ::-1])
    np.testing.assert_allclose(left.sum(axis=1), 1)


def test_equal_models_are_equivalent_and_far_ones_are_not() -> None:
    generator = np.random.default_rng(4)
    rows = np.stack([generator.normal(m, 0.001, 30) for m in (0.0, 0.05, -0.05)])
    got = bayesian_signed_rank(rows, 0.01, 2000, generator)
    np.testing.assert_array_equal(got, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])


def test_two_tasks_have_a_closed_form() -> None:
    """With hardly a prior, differences 1 and -3 vote by w1^2 against 1 - w1^2, w1 uniform."""
    got = bayesian_signed_rank(
        np.array([[1.0, -3.0]]), 0.0, 40_000, np.random.default_rng(5), strength=1e-9
    )
    assert got[0, 2] == pytest.approx(1 - np.sqrt(0.5), abs=0.01)
    assert got[0, 0] == pytest.approx(np.sqrt(0.5), abs=0.01)
