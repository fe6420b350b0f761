import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import nct

from analysis.contrasts import compare, critical_value
from analysis.power import seeds_needed, smallest_detectable


@pytest.mark.parametrize("freedom", [2, 4, 9, 99])
def test_one_share_against_the_noncentral_t(freedom: int) -> None:
    difference = smallest_detectable([(4.0, freedom)], 0.05)
    critical = stats.t.ppf(0.975, freedom)
    seen = nct.sf(critical, freedom, difference / 2) + nct.cdf(-critical, freedom, difference / 2)
    assert seen == pytest.approx(0.8, abs=0.005)


def test_two_shares_against_a_simulation() -> None:
    parts, generator = [(0.5, 2), (0.5, 99)], np.random.default_rng(0)
    difference = smallest_detectable(parts, 0.0125)
    seen = []
    for _ in range(4000):
        drawn = [(v * generator.chisquare(df) / df, df) for v, df in parts]
        error = math.sqrt(sum(v for v, _ in drawn))
        effect = generator.normal(difference, 1)
        seen.append(abs(effect) > critical_value(0.0125, drawn) * error)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.02)


def test_more_seeds_help_until_the_items_are_the_limit() -> None:
    generator = np.random.default_rng(1)
    runs = compare([generator.normal(0, 0.02, (3, 1)) + generator.normal(0, 0.02, (3, 200))])
    seeds = seeds_needed(runs, 0.01, 0.05)
    assert seeds is not None
    assert 3 < seeds < 100
    fewer = seeds_needed(runs, 0.02, 0.05)
    assert fewer is not None
    assert fewer < seeds
    few = compare([generator.normal(0, 0.1, (1, 5)) + generator.normal(0, 0.01, (3, 5))])
    assert seeds_needed(few, 0.01, 0.05) is None


def test_without_a_test_nothing_is_detectable() -> None:
    assert smallest_detectable([], 0.05) == math.inf
    assert seeds_needed(compare([np.array([[0.1, 0.3, 0.2]])]), 0.01, 0.05) is None
