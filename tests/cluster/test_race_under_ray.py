"""A search under real Ray whose trials tell their scores task by task, and stop when they lose."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.dispatch.tune import ray_cluster, run_trials, slots
from cluster.study.ledger import Ledger
from tests.cluster.formula import BASE, STEPS, FormulaGroup, FormulaWorker, open_study, propose
from tests.cluster.test_ledger import Witness

NUM_TASKS = 8


class RacedWorker(FormulaWorker):
    """Tells the scores on ever more tasks after its last report."""

    def advance(self) -> tuple[str, dict[str, Any]]:
        if self._told < STEPS:
            return super().advance()
        self._told += 1
        number, level = self._told - STEPS, self._score(STEPS)
        scores = {f"task {place}": level * (1 + 0.01 * place) for place in range(number)}
        if number < NUM_TASKS:
            return "Scored", {"step": STEPS, "scores": scores, "num_tasks": NUM_TASKS}
        kinds = dict.fromkeys(scores, "STS")
        return "Outcome", {"scores": scores, "categories": kinds, "failures": {}, "cost": {}}


class RacedGroup(FormulaGroup):
    worker = RacedWorker


@pytest.mark.slow
def test_losers_stop_before_all_tasks_are_scored(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, witness = open_study(tmp_path, optuna.pruners.NopPruner()), Witness()
    ledger = Ledger(
        study, propose, num_trials=6, folder=tmp_path / "search", observers=[witness], race=0.05
    )
    with ray_cluster(None):
        run_trials(ledger, slots=slots(BASE, 1), folder=tmp_path / "ray", trainable=RacedGroup)
    assert ledger.is_done
    endings = {number: ending for kind, number, ending in witness.events if kind == "ended"}
    best = -math.inf
    for trial in study.trials:  # one after the other, so each was compared with the best before
        level = -(abs(trial.params["rate"] + 3) ** 2) - (trial.params["rank"] / 64 - 0.5) ** 2
        lost = level < best
        ending = endings[trial.number]
        assert ending.status == ("pruned" if lost else "complete")
        assert not lost or ending.reason.endswith("of 8 tasks, Wilcoxon p 0.016 of 0.016 allowed")
        best = max(best, level)
    assert {ending.status for ending in endings.values()} == {"pruned", "complete"}
