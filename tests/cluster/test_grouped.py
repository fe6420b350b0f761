"""TPE by groups, against Optuna's own."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from optuna.trial import TrialState

from cluster.simulation.searches import quiet
from cluster.study.grouped import GroupedTPE, group_of
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.shape import EMBEDDED


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


@pytest.mark.parametrize("space", SPACES)
def test_the_groups_are_those_of_optuna(space: str) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for number in range(60):
        trial = study.ask()
        SPACES[space](trial, TrialConfig(), EMBEDDED)
        study.tell(trial, float(number))
    theirs = _GroupDecomposedSearchSpace(True).calculate(study).search_spaces
    for group in theirs:
        for name in group:
            assert group_of(name, study.trials) == group
    assert group_of("unheard of", study.trials) == {}


def draw(trial: optuna.Trial) -> dict[str, object]:
    """A space with a condition, too large for the candidates of one draw to cover."""
    drawn: dict[str, object] = {"head": trial.suggest_categorical("head", ["none", "cross"])}
    drawn["other"] = trial.suggest_categorical("other", list(range(12)))
    if drawn["head"] == "cross":
        drawn["size"] = trial.suggest_int("size", 1, 400) // 100
        drawn["word"] = trial.suggest_categorical("word", list("abcdefgh"))
    return drawn


def shares(study: optuna.Study, make: Callable[[int], BaseSampler]) -> Counter[object]:
    """Draw the study's next trial many times; count each value."""
    found: Counter[object] = Counter()
    for seed in range(400):
        study.sampler = make(seed)
        trial = study.ask()
        found.update(draw(trial).items())
        study.tell(trial, state=TrialState.FAIL)
    return found


def test_it_draws_as_optunas_tpe_does() -> None:
    """Each value as often: the difference of two counts is within four standard deviations."""
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=1))
    for number in range(40):
        trial = study.ask()
        good = draw(trial).get("size") == 1
        study.tell(trial, number % 7 + 3.0 * good)
    ours = shares(study, lambda seed: GroupedTPE(seed, startup=6))
    theirs = shares(
        study,
        lambda seed: TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=6
        ),
    )
    assert len(ours) > 8
    for drawn in ours | theirs:
        both = ours[drawn] + theirs[drawn]
        assert abs(ours[drawn] - theirs[drawn]) <= 4 * both**0.5, drawn
