"""Who proposes designs: Optuna's samplers by name, with the same draws after every restart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from cluster.study.grouped import GroupedTPE, OneByOne

POPULATION = 20  # of the genetic algorithms; before that many have ended they draw at random

Maker = Callable[[int, int, int], BaseSampler]  # the study's seed, the trial's, the startup trials


def _tpe(study: int, trial: int, startup: int) -> BaseSampler:
    return GroupedTPE(trial, startup=startup)


def _gp(study: int, trial: int, startup: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=trial, n_startup_trials=startup)


def _cma_es(study: int, trial: int, startup: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=trial, n_startup_trials=startup, warn_independent_sampling=False
    )


def _nsga2(study: int, trial: int, startup: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=trial, population_size=POPULATION)


def _nsga3(study: int, trial: int, startup: int) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(seed=trial, population_size=POPULATION)


def _qmc(study: int, trial: int, startup: int) -> BaseSampler:
    """Return one point further of the study's one sequence; only the rest has the trial's seed."""
    return optuna.samplers.QMCSampler(
        seed=study,
        scramble=True,
        independent_sampler=RandomSampler(seed=trial),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def _random(study: int, trial: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=trial)


SAMPLERS: dict[str, Maker] = {
    "tpe": _tpe,
    "gp": _gp,
    "cma_es": _cma_es,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "qmc": _qmc,
    "random": _random,
}
NUMBERS_ONLY = ("cma_es", "qmc")  # they leave choices to random draws
ONE_OBJECTIVE = ("cma_es",)
WITH_STARTUP, STARTUP = ("tpe", "gp", "cma_es"), 6  # trials that end before they model any
HELP = (
    "who proposes: tpe, gp, nsga2, nsga3, cma_es, qmc or random (default: tpe). As Optuna has it, "
    "gp, nsga2 and nsga3 model the parameters that all designs have and draw the others at "
    "random; cma_es and qmc model numbers and draw choices, of which our spaces consist, at random"
)


class Reseeded(BaseSampler):
    """A sampler made anew for each trial, with a seed of the study's seed and the trial's number.

    So a restarted search draws what it would have drawn: what a sampler has to remember, it reads
    in the study.
    """

    def __init__(self, name: str, seed: int, *, startup: int) -> None:
        """Propose as `name` of `SAMPLERS` does, at random before `startup` trials have ended."""
        self._make = SAMPLERS[name]
        self._seed = seed
        self._startup = startup
        self._made: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._made is None or self._made[0] != trial.number:
            seed = trial_seed(self._seed, trial.number)
            self._made = trial.number, self._make(self._seed, seed, self._startup)
        return self._made[1]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that is not among them."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Let the sampler prepare; a number that is drawn for again is drawn for alike."""
        self._made = None
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let a sampler of the same seed note what came of it."""
        seed = trial_seed(self._seed, trial.number)
        made = self._make(self._seed, seed, self._startup)
        made.after_trial(study, trial, state, values)


class Near(OneByOne):
    """Draws a design near one that is known already: the further, the more draws were known.

    After the first, two parameters in ten are drawn at random, and one more after each.
    """

    def __init__(self, params: Mapping[str, Any], draws: int) -> None:
        """Stay near `params`, which was what the last of so many draws gave."""
        self._params = params
        self._draws = draws

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Keep a parameter, or draw it."""
        seed = trial_seed(trial.number, f"{self._draws}-{param_name}")
        kept = seed / 2**31 >= (1 + self._draws) / 10 and param_name in self._params
        if kept and self._contains(param_distribution, self._params[param_name]):
            return self._params[param_name]
        drawn = RandomSampler(seed=seed)
        return drawn.sample_independent(study, trial, param_name, param_distribution)

    def _contains(self, distribution: BaseDistribution, value: Any) -> bool:
        try:
            return distribution._contains(distribution.to_internal_repr(value))
        except ValueError:
            return False


class Following(OneByOne):
    """Draws one given design."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        """Draw `params`."""
        self._params = params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the design's own value."""
        return self._params[param_name]


def trial_seed(seed: int, number: int | str) -> int:
    """Return the seed of a trial's draws, or of one of its parameters.

    >>> trial_seed(0, 1) != trial_seed(1, 0)
    True
    """
    text = f"{seed}-{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
