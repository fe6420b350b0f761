"""Optuna's TPE for conditional spaces, where only what a design has is drawn.

`TPESampler(multivariate=True, group=True)` models parameters that always come together jointly,
and draws every such group before a trial asks for one. A space of many conditions has dozens, of
which a design has a few; here a group is drawn when the first of its parameters is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def group_of(name: str, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the parameters that are in just those trials that have `name`; none if none has.

    They are what Optuna's decomposition of the search space puts into one group.
    """
    having = [trial for trial in trials if name in trial.distributions]
    if not having:
        return {}
    common = set.intersection(*(set(trial.distributions) for trial in having))
    for trial in trials:
        if name not in trial.distributions:
            common.difference_update(trial.distributions)
    return {each: having[-1].distributions[each] for each in sorted(common)}


class OneByOne(BaseSampler):
    """A sampler that draws no parameter before it is asked for."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return none to draw together."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw none."""
        return {}


class GroupedTPE(OneByOne):
    """TPE over groups of parameters, for one trial; it counts running trials as bad ones."""

    def __init__(self, seed: int, *, startup: int) -> None:
        """Draw at random before `startup` trials have ended."""
        self._tpe = TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup
        )
        self._drawn: dict[str, Any] = {}
        self._finished: list[FrozenTrial] | None = None  # when the trial began

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter with its group, or give what was drawn with another of the group."""
        if param_name not in self._drawn:
            if self._finished is None:
                self._finished = study.get_trials(deepcopy=False, states=FINISHED)
            group = group_of(param_name, self._finished)
            group = {name: each for name, each in group.items() if not each.single()}
            self._drawn |= self._tpe.sample_relative(study, trial, group)
        if param_name in self._drawn:
            return self._drawn[param_name]
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let TPE note the end of a trial."""
        self._tpe.after_trial(study, trial, state, values)
