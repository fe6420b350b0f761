"""A search whose trials are a formula: everything real but the model, in seconds.

    python -m tests.cluster.formula FOLDER --trials 6

What is proposed and stopped depends on all that came before, and on no random state.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cluster.dispatch.losses import Patience
from cluster.dispatch.tune import ray_cluster, run_trials, slots
from cluster.study.ledger import Ledger
from cluster.study.trials import Proposal
from trainables.config import TrialConfig
from trainables.heartbeat import beat
from trainables.overlay import overlay
from trainables.ray_trainable import TrialGroup

STEPS = 5
STEP_S = "FORMULA_STEP_S"  # in the environment: the seconds that a step takes
BEST_RATE = 1e-3
HANG, STARTS, STUDY = "hang", "starts.jsonl", "formula"
BASE = overlay(TrialConfig(), {"training.steps": STEPS, "training.report_every": 1})


class FormulaWorker:
    """Stands where `ray_trainable.TrialWorker` does; its checkpoint is its reports."""

    def __init__(self, rank: int, world_size: int, num_threads: int) -> None:
        self._rank = rank
        self._told = 0

    def address(self) -> str:
        return ""

    def join(self, address: str) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def start(self, config: dict[str, Any], folder: str) -> None:
        self._folder, self._told = Path(folder), 0
        self._rate, self._rank_of_lora = (
            config["training"]["learning_rate"],
            config["lora"]["rank"],
        )
        if self._rank == 0:
            with (self._folder / STARTS).open("a") as file:
                file.write(json.dumps({"pid": os.getpid(), "step": len(self._kept())}) + "\n")

    def _kept(self) -> list[dict[str, float]]:
        file = self._folder / "checkpoints" / f"{self._rank}.json"
        reports: list[dict[str, float]] = json.loads(file.read_text()) if file.is_file() else []
        return reports

    def advance(self) -> tuple[str, dict[str, Any]]:
        reports = self._kept()
        self._told += 1
        if self._told <= len(reports):
            return "Report", reports[self._told - 1]
        if self._told > STEPS:
            scores = {"task": self._score(STEPS)}
            return "Outcome", {
                "scores": scores,
                "categories": {"task": "STS"},
                "failures": {},
                "cost": {},
            }
        self._maybe_hang()
        beat(self._folder)
        time.sleep(float(os.environ.get(STEP_S, "0.1")))
        step = self._told
        report = {"step": step, "quick_score": self._score(step), "loss": 1.0 / step}
        self._keep([*reports, report])
        return "Report", report

    def _keep(self, reports: list[dict[str, float]]) -> None:
        file = self._folder / "checkpoints" / f"{self._rank}.json"
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(reports))
        partial.replace(file)

    def _score(self, step: int) -> float:
        distance = math.log10(self._rate / BEST_RATE) ** 2 + (self._rank_of_lora / 64 - 0.5) ** 2
        return math.exp(-distance) * (1 - math.exp(-step / 3))

    def _maybe_hang(self) -> None:
        order = self._folder.parent / HANG
        if self._told == 3 and order.exists():
            order.unlink()
            time.sleep(3600)

    def stop(self) -> None:
        pass


class FormulaGroup(TrialGroup):
    worker = FormulaWorker


class Climber(BaseSampler):
    """Draws near the best trial so far, ever closer, by the trial's number alone."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: Any,
    ) -> Any:
        generator = np.random.default_rng([trial.number, zlib.crc32(param_name.encode())])
        low, high = param_distribution.low, param_distribution.high
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        middle, width = (low + high) / 2, (high - low) / 2
        if done:
            best = max(done, key=lambda t: t.value or 0.0)
            middle, width = best.params[param_name], width / (1 + len(done) / 4)
        drawn = min(max(middle + width * generator.uniform(-1, 1), low), high)
        return round(drawn) if isinstance(low, int) else drawn


class StopAll(optuna.pruners.BasePruner):
    """Stops every trial at its first report."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return True


def propose(trial: optuna.Trial) -> Proposal:
    params = {
        "training.learning_rate": 10 ** trial.suggest_float("rate", -6.0, -1.0),
        "lora.rank": trial.suggest_int("rank", 1, 64),
    }
    return Proposal(config=overlay(BASE, params), params=params, role="search")


def open_study(folder: Path, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    return optuna.create_study(
        study_name=STUDY,
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        load_if_exists=True,
        direction="maximize",
        sampler=Climber(),
        pruner=pruner or optuna.pruners.PercentilePruner(50.0, n_startup_trials=2),
    )


def table(folder: Path) -> list[tuple[Any, ...]]:
    """Return what a search came to: each trial's design, reports, ending and score."""
    return [
        (t.number, t.state.name, t.params, t.intermediate_values, t.values)
        for t in open_study(folder).get_trials()
        if "config" in t.user_attrs
    ]


def search(
    folder: Path,
    num_trials: int,
    *,
    num_workers: int = 1,
    limit: int | None = 1,
    pruner: optuna.pruners.BasePruner | None = None,
    hang_timeout_s: float | None = None,
) -> None:
    """Run the search on the cluster that this process is connected to."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(folder, pruner)
    ledger = Ledger(study, propose, num_trials=num_trials, folder=folder / "search", observers=[])
    run_trials(
        ledger,
        slots=slots(overlay(BASE, {"engine.num_workers": num_workers}), limit),
        folder=folder / "ray",
        trainable=FormulaGroup,
        patience=Patience(hang_timeout_s=hang_timeout_s),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.formula")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--address")
    parser.add_argument("--hang-timeout", type=float)
    given = parser.parse_args(argv)
    with ray_cluster(given.address):
        search(
            given.folder,
            given.trials,
            num_workers=given.workers,
            limit=given.limit,
            hang_timeout_s=given.hang_timeout,
        )


if __name__ == "__main__":
    from tests.cluster.formula import main as importable  # so that workers can import the classes

    importable()
