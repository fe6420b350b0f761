from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import pytest

from cluster.simulation.searches import quiet
from cluster.study.samplers import NUMBERS_ONLY, SAMPLERS, Near, Reseeded, trial_seed
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.shape import EMBEDDED


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


def draw(name: str, seed: int, count: int, restart_every: int | None = None) -> list[Any]:
    """Draw and score designs of a real space; a restart opens the study with a new sampler."""
    storage = optuna.storages.InMemoryStorage()
    drawn = []
    for number in range(count):
        if number == 0 or (restart_every and number % restart_every == 0):
            study = optuna.create_study(
                study_name="s",
                storage=storage,
                load_if_exists=True,
                direction="maximize",
                sampler=Reseeded(name, seed, startup=4),
            )
        trial = study.ask()
        design = SPACES["pooling"](trial, TrialConfig(), EMBEDDED)
        size = trial.suggest_int("size", 1, 64)  # something for those that only know numbers
        drawn.append((dict(design), size))
        study.tell(trial, -size + 9.0 * (design["pooling.head"] == "self_attention"))
    return drawn


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_restarted_study_is_proposed_the_same_designs(name: str) -> None:
    count = 14 if name == "gp" else 26  # past a generation of the genetic algorithms
    usual = draw(name, 3, count)
    assert draw(name, 3, count, restart_every=5) == usual
    assert draw(name, 4, count) != usual


def test_seeds_of_trials_differ() -> None:
    assert len({trial_seed(seed, number) for seed in range(20) for number in range(50)}) == 1000


def test_qmc_goes_through_its_sequence() -> None:
    sizes = [size for _, size in draw("qmc", 0, 17)][1:]
    assert len({(size - 1) // 8 for size in sizes}) == 8  # each eighth of the range is visited


@pytest.mark.parametrize("name", NUMBERS_ONLY)
def test_choices_that_a_sampler_cannot_model_are_drawn(name: str) -> None:
    heads = {design["pooling.head"] for design, _ in draw(name, 0, 20)}
    assert len(heads) > 2


def test_near_a_design_few_parameters_change_at_first() -> None:
    choices = {f"p{i}": range(10) for i in range(20)}
    changed = []
    for draws in (1, 5, 10):
        study = optuna.create_study(sampler=Near(dict.fromkeys(choices, 3), draws))
        trial = study.ask()
        values = [trial.suggest_categorical(name, each) for name, each in choices.items()]
        changed.append(sum(value != 3 for value in values))
    assert 0 < changed[0] < changed[1] < changed[2]


def test_near_takes_no_choice_that_is_not_offered() -> None:
    study = optuna.create_study(sampler=Near({"p": "gone"}, 1))
    assert study.ask().suggest_categorical("p", ["a", "b"]) in ("a", "b")
