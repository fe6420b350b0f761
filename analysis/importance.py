"""Which parameters of a search made its scores differ, and which two only together.

Optuna does the statistics; it knows nothing of this study here but levels and values. Every
parameter counts as a choice among its levels, "-" where it has no meaning in a design, so those of
some designs only are among them.

These are shares of a fitted model's variance over the designs that the search happened to try:
a description of the search, not a test. Few trials give the noise an importance too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.arrays import FloatArray

if TYPE_CHECKING:
    import optuna

ABSENT = "-"  # the level of a parameter that has no meaning in a design
FEW_TRIALS = 30  # below them the shares are mostly noise
MOST_PAIRS_OF = 5  # parameters whose interactions are looked at: those of most importance
JOINT = " \u00d7 "
SEEDS = 4  # forests, over which the shares are averaged


def importance(levels: pd.DataFrame, values: ArrayLike) -> pd.DataFrame:
    """The importance of each parameter that varies, the largest first.

    Args:
        levels: One row for each trial, one column for each parameter.
        values: The score of each trial.

    Returns:
        Columns `fanova`, the share of the variance that a parameter's main effect explains in a
        random forest (Hutter et al., ICML 2014), with `fanova_sd` over forests; and `ped_anova`,
        what sets the best tenth of trials apart (Watanabe et al., arXiv 2304.10255), in shares of
        the sum. Empty if nothing varies.
    """
    import optuna

    known, scores = _known(levels), np.asarray(values, dtype=float)
    varied = [column for column in known if known[column].nunique() > 1]
    if not varied or np.ptp(scores) == 0:
        return pd.DataFrame(columns=["fanova", "fanova_sd", "ped_anova"], dtype=float)
    study = _study(known[varied], scores)
    forests = pd.DataFrame([_fanova(study, seed) for seed in range(SEEDS)])
    with _quiet():
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        ped = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: -float(trial.values[0])
        )
    found = pd.DataFrame(
        {"fanova": forests.mean(), "fanova_sd": forests.std(ddof=1), "ped_anova": pd.Series(ped)}
    )
    return found.reindex(varied).sort_values("fanova", ascending=False, kind="stable")


def interactions(levels: pd.DataFrame, values: ArrayLike, main: pd.DataFrame) -> pd.DataFrame:
    """The share of the variance that two parameters explain together and not apart.

    Of each pair among the parameters of most importance in `main`, one parameter is made whose
    levels are the pairs of levels; what it explains beyond the two is their interaction. Columns
    `first`, `second`, `share` (not below 0), the largest first.
    """
    known, scores = _known(levels), np.asarray(values, dtype=float)
    rows = []
    for pair in combinations(list(main.index[:MOST_PAIRS_OF]), 2):
        first, second = pair
        joined = known.drop(columns=[*pair])[[p for p in main.index if p not in pair]]
        joined = joined.assign(**{JOINT: known[first] + JOINT + known[second]})
        study = _study(joined, scores)
        whole = _fanova(study, 0)[JOINT]
        share = max(whole - main.loc[first, "fanova"] - main.loc[second, "fanova"], 0.0)
        rows.append({"first": first, "second": second, "share": share})
    found = pd.DataFrame(rows, columns=["first", "second", "share"])
    return found.sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _known(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels as texts: a search's numbers are choices among a few as well."""
    return levels.map(lambda level: ABSENT if pd.isna(level) else str(level))


def _study(levels: pd.DataFrame, values: FloatArray) -> optuna.Study:
    import optuna

    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        str(column): optuna.distributions.CategoricalDistribution(sorted(levels[column].unique()))
        for column in levels
    }
    with _quiet():
        made = optuna.create_study(direction="maximize")
    for row, value in zip(levels.to_dict("records"), values, strict=True):
        params = {str(name): level for name, level in row.items()}
        trial = optuna.trial.create_trial(params=params, distributions=kinds, value=float(value))
        made.add_trial(trial)
    return made


def _fanova(study: optuna.Study, seed: int) -> Mapping[str, float]:
    """Shares of the whole variance: they do not add up to 1 where there are interactions."""
    import optuna

    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    with _quiet():
        return optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's word on each study, on what is experimental and on what is minimised."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
