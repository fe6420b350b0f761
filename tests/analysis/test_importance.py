from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.importance import importance, interactions

NUM_TRIALS = 240


@pytest.fixture(scope="module")
def levels() -> pd.DataFrame:
    drawn = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "mask": drawn.choice(["causal", "bidirectional", "prefix"], NUM_TRIALS),
            "scope": drawn.choice(["mean", "last"], NUM_TRIALS),
            "width": drawn.choice([64.0, 128.0, np.nan], NUM_TRIALS),
            "noise": drawn.choice(["a", "b"], NUM_TRIALS),
            "fixed": ["one"] * NUM_TRIALS,
        }
    )


def shares(values: np.ndarray, groups: pd.Series) -> float:
    """The share of the variance between the groups."""
    means = pd.Series(values).groupby(groups.to_numpy()).transform("mean")
    return float(means.var() / values.var(ddof=1))


def test_main_effects_are_the_shares_of_the_variance(levels: pd.DataFrame) -> None:
    mask = levels["mask"].map({"causal": 0.0, "bidirectional": 2.0, "prefix": 1.0}).to_numpy()
    width = levels["width"].isna().to_numpy() * 1.0
    values = mask + 0.5 * width
    found = importance(levels, values)
    assert list(found.index[:2]) == ["mask", "width"]
    assert "fixed" not in found.index
    for name in ("mask", "width"):
        groups = levels[name].astype(str)
        assert found.loc[name, "fanova"] == pytest.approx(shares(values, groups), abs=0.08)
    assert found.loc[["scope", "noise"], "fanova"].max() < 0.03
    assert found["ped_anova"].idxmax() == "mask"
    assert (found["fanova_sd"] >= 0).all()


def test_an_interaction_is_told_from_main_effects(levels: pd.DataFrame) -> None:
    same = (levels["mask"] == "causal").to_numpy() == (levels["scope"] == "mean").to_numpy()
    values = same + 0.3 * (levels["width"] == 64).to_numpy()
    main = importance(levels, values)
    found = interactions(levels, values, main)
    first = found.iloc[0]
    assert {first["first"], first["second"]} == {"mask", "scope"}
    assert first["share"] > 0.5
    assert (found["share"].iloc[1:] < 0.1).all()
    assert (found["share"] >= 0).all()


def test_nothing_varies(levels: pd.DataFrame) -> None:
    assert importance(levels[["fixed"]], np.arange(NUM_TRIALS)).empty
    assert importance(levels, np.ones(NUM_TRIALS)).empty
    empty = importance(levels, np.ones(NUM_TRIALS))
    assert interactions(levels, np.ones(NUM_TRIALS), empty).empty


def test_two_runs_are_equal(levels: pd.DataFrame) -> None:
    values = (levels["mask"] == "causal").to_numpy() * 1.0
    pd.testing.assert_frame_equal(importance(levels, values), importance(levels, values))
