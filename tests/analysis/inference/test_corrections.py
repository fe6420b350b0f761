"""Holm, and Benjamini and Hochberg, against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.inference.corrections import benjamini_hochberg, holm


@pytest.mark.parametrize("number", [1, 2, 7, 60])
def test_they_are_statsmodels(number: int) -> None:
    generator = np.random.default_rng(number)
    families = np.round(generator.beta(0.4, 1, (2, number)), 2)
    families[:, 0] = 1.0
    for adjust, name in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        expected = [multipletests(family, method=name)[1] for family in families]
        np.testing.assert_allclose(adjust(families), expected, rtol=1e-12, atol=1e-300)


def test_tests_that_were_not_made_leave_the_family() -> None:
    for adjust in (holm, benjamini_hochberg):
        got = adjust([0.01, np.nan, 0.04, 0.03])
        assert np.isnan(got[1])
        np.testing.assert_array_equal(got[[0, 2, 3]], adjust([0.01, 0.04, 0.03]))
        assert adjust([]).shape == (0,)


def test_adjusted_values_keep_order_and_stay_below_one() -> None:
    p = np.random.default_rng(0).random(50)
    for adjust in (holm, benjamini_hochberg):
        got = adjust(p)
        assert (np.diff(got[np.argsort(p)]) >= 0).all()
        assert ((got >= p) & (got <= 1)).all()
