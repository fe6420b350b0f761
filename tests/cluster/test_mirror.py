"""What the mirror does with the private fields of Optuna's storage in memory."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from cluster.study.mirror import mirrored


def opened() -> tuple[optuna.Study, optuna.Study]:
    """Return a durable study with one finished trial, and the study over its mirror."""
    durable = optuna.create_study(storage=InMemoryStorage(), direction="maximize")
    trial = durable.ask()
    durable.tell(trial, trial.suggest_float("x", 0, 1))
    return durable, mirrored(durable)[0]


def books(mirror: Any) -> tuple[Any, ...]:
    """Return what the storage in memory notes of its trials."""
    (study,) = mirror._studies.values()
    numbers = [trial.number for trial in study.trials]
    return mirror._max_trial_id, dict(mirror._trial_id_to_study_id_and_number), numbers


def test_a_draft_that_is_discarded_leaves_no_trace() -> None:
    durable, study = opened()
    mirror: Any = study._storage
    before = books(mirror)
    for _ in range(3):  # each takes the number of the one before
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        assert trial.number == 1
        assert len(study.get_trials()) == 2
        mirror.discard(trial.number)
        assert len(study.get_trials()) == 1
    assert books(mirror) == before
    assert study.best_trial.number == 0
    assert len(durable.get_trials()) == 1


def test_what_follows_a_discarded_draft_is_stored_whole() -> None:
    durable, study = opened()
    mirror: Any = study._storage
    mirror.discard(study.ask().number)
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    mirror.commit(trial.number)
    study.tell(trial, 2.0)
    assert study.best_trial.number == durable.best_trial.number == 1
    kept = durable.get_trials()[1]
    assert (kept.state, kept.params, kept.values) == (TrialState.COMPLETE, {"x": value}, [2.0])


def test_trials_are_read_without_copies() -> None:
    _, study = opened()
    mirror: Any = study._storage
    assert mirror.trials()[0] is mirror.trials()[0]
