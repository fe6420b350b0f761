"""The Optuna study of a search, and the rules of its ledger, as the settings have them."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from cluster.settings import SCORE, StudyConfig
from cluster.study import pruners, samplers
from cluster.study.pruners import Halving, make_pruner, rungs
from cluster.study.samplers import Reseeded
from trainables.config import ConfigError

OWNER = "owner"  # a user attribute: the identity of the folder whose study it is


def open_study(config: StudyConfig, storage: BaseStorage) -> optuna.Study:
    """Return the search's study, with its sampler and its pruner."""
    training = config.base.training
    study = optuna.create_study(
        study_name=f"{config.name}-search",
        storage=storage,
        load_if_exists=True,
        directions=["maximize" if name == SCORE else "minimize" for name in config.objectives],
        sampler=Reseeded(
            config.sampler, config.seed, startup=config.num_startup or samplers.STARTUP
        ),
        pruner=make_pruner(
            config.pruner,
            first=config.first_rung or training.report_every,
            factor=config.factor,
            steps=training.steps,
            startup=config.num_startup or pruners.STARTUP,
        ),
    )
    if config.pruner == "hyperband":  # makes its brackets when it is first asked, not before
        study.pruner.prune(study, optuna.trial.create_trial(state=TrialState.RUNNING))
    return study


def claim(study: optuna.Study, identity: str) -> None:
    """Refuse a study of the database that belongs to another folder.

    Raises:
        ConfigError: With the remedy.
    """
    owner = study.user_attrs.get(OWNER)
    if owner is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(OWNER, identity)
    elif owner != identity:
        raise ConfigError(
            f"storage: expected no study {study.study_name!r} of another outputs folder, got one; "
            "give a new --study name, or the outputs folder that it was begun in"
        )


def rules(config: StudyConfig) -> dict[str, Any]:
    """Return what a ledger of the search takes beside the study: when designs stop, and why."""
    training, halving = config.base.training, None
    if config.pruner == "halving":
        first = config.first_rung or training.report_every
        steps = rungs(first, config.factor, training.steps, training.report_every)
        halving = Halving(steps, config.factor)
    return {"halving": halving, "objectives": config.objectives, "race": config.race}
