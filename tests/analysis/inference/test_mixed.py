"""The mixed model against the analysis of variance and statsmodels' own standard error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from analysis.arrays import FloatArray
from analysis.contrasts import compare, mean_squares
from analysis.inference.mixed import mixed_model


def layout(seeds: int = 5, tasks: int = 20) -> FloatArray:
    generator = np.random.default_rng(0)
    runs, sets = generator.normal(0, 0.02, (seeds, 1)), generator.normal(0, 0.03, (1, tasks))
    return np.asarray(0.02 + runs + sets + generator.normal(0, 0.02, (seeds, tasks)))


def test_a_complete_layout_is_the_analysis_of_variance() -> None:
    cells = layout()
    seeds, tasks = np.indices(cells.shape)
    got = mixed_model(cells.ravel(), seeds.ravel(), tasks.ravel())
    squares = mean_squares(cells)
    assert got.variance_rest == pytest.approx(squares.error, rel=1e-3)
    assert got.variance_seeds == pytest.approx((squares.seed - squares.error) / 20, rel=1e-4)
    assert got.variance_tasks == pytest.approx((squares.item - squares.error) / 5, rel=1e-4)
    expected = compare([cells])
    error = expected.standard_error
    assert (got.effect, got.standard_error) == pytest.approx((expected.effect, error), rel=1e-4)
    assert expected.low < got.low < expected.effect - 1.96 * error
    assert got.p < expected.p


@pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")
def test_missing_cells_have_statsmodels_estimates() -> None:
    cells = 100 * layout()
    there = np.random.default_rng(1).random(cells.shape) > 0.2
    seeds, tasks = np.nonzero(there)
    got = mixed_model(cells[there], seeds, tasks)
    frame = pd.DataFrame({"d": cells[there], "s": seeds, "t": tasks, "g": 1})
    crossed = {"s": "0 + C(s)", "t": "0 + C(t)"}
    fit = MixedLM.from_formula("d ~ 1", groups="g", vc_formula=crossed, data=frame).fit()
    assert got.effect == pytest.approx(fit.params["Intercept"], rel=1e-4)
    assert got.standard_error == pytest.approx(fit.bse["Intercept"], rel=1e-3)
    expected = (*fit.vcomp, fit.scale)
    assert (got.variance_seeds, got.variance_tasks, got.variance_rest) == pytest.approx(
        expected, rel=1e-3
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more seeds and tasks, got 1 and 3"):
        mixed_model(np.array([0.1, 0.2, 0.3]), [0, 0, 0], [0, 1, 2])
    with pytest.raises(ValueError, match="got the same everywhere"):
        mixed_model(np.zeros(4), [0, 0, 1, 1], [0, 1, 0, 1])


def test_seeds_that_agree_too_well_have_no_variance() -> None:
    generator = np.random.default_rng(3)
    cells = generator.normal(0, 1, (4, 10))
    cells -= cells.mean(axis=1, keepdims=True)
    seeds, tasks = np.indices(cells.shape)
    got = mixed_model(cells.ravel(), seeds.ravel(), tasks.ravel())
    assert got.variance_seeds == 0
    assert 0 < got.p <= 1


def test_a_rest_of_almost_nothing_is_fitted() -> None:
    """The search for the variances must not run away where seeds and tasks explain it all."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        cells = generator.normal(0, 1, (3, 1)) + generator.normal(0, 1, (1, 6))
        cells = cells + generator.normal(0, 1e-5, (3, 6))
        there = generator.random(cells.shape) > 0.1
        seeds, tasks = np.nonzero(there)
        got = mixed_model(cells[there], seeds, tasks)
        assert 0 < got.standard_error < 3
