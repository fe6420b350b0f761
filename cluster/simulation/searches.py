"""A search in virtual time from beginning to end, and what came of it."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from cluster.settings import StudyConfig
from cluster.simulation.virtual import Simulation
from cluster.simulation.workloads import Formula, Recorded
from cluster.study import priors
from cluster.study.ledger import Ledger
from cluster.study.opening import open_study, rules
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.overlay import flatten, overlay
from trainables.shape import EMBEDDED, Shape

CLOSE = 0.99  # of the best score


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One simulated search."""

    best: float
    steps_to_best: float  # within 1 %; inf if there was none
    steps: int
    seconds: float


def simulate(
    config: StudyConfig,
    workload: Formula | Recorded,
    num_workers: int,
    *,
    shape: Shape = EMBEDDED,
    storage: BaseStorage | None = None,
    losses_per_hour: float = 0.0,
) -> Result:
    """Run the search of a study in virtual time; each worker is lost so many times an hour."""
    world = Simulation(workload, num_workers, losses_per_hour, seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        world.run(open_ledger(config, storage or InMemoryStorage(), Path(folder), shape))
    close = [found.steps for found in world.found if found.score >= CLOSE * workload.best]
    return Result(
        best=max((found.score for found in world.found), default=float("nan")),
        steps_to_best=close[0] if close else float("inf"),
        steps=world.steps,
        seconds=world.seconds,
    )


def open_ledger(
    config: StudyConfig, storage: BaseStorage, folder: Path, shape: Shape, *observers: Any
) -> Ledger:
    """Return the ledger of a search, the control and the known designs in its queue."""
    space, base = SPACES[config.space], config.base
    study = open_study(config, storage)
    priors.queue(study, (priors.CONTROL_KNOWN, *config.first), space, base, shape)
    return Ledger(
        study,
        priors.proposer(space, base, shape),
        num_trials=config.num_trials,
        folder=folder / "search",
        observers=observers,
        drawings=partial(priors.drawings, space, base, shape),
        **rules(config),
    )


def recorded(folder: Path) -> tuple[StudyConfig, Recorded, Shape]:
    """Return a search of a finished study's space, its trials, and its decoder's shape.

    Raises:
        ConfigError: If no trial of the search there was completed.
    """
    from trainables import designs

    workload = Recorded(folder)
    kept = json.loads((folder / "study.json").read_text())
    base = overlay(TrialConfig(), flatten(kept["base"]))
    usual = StudyConfig(name="simulated", space=kept["space"], base=base)
    return usual, workload, designs.shape(base.backbone)


def quiet() -> None:
    """Keep Optuna's chatter off the console."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", module="optuna")
