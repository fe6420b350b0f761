"""A search that races its designs over the tasks: whom it drops, and what a restart knows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cluster.dispatch.adapters import StudyScheduler
from cluster.dispatch.losses import Losses
from cluster.preflight.checks import _check_race
from cluster.settings import StudyConfig
from cluster.study.ledger import Ledger
from cluster.study.opening import rules
from cluster.study.trials import Assignment
from tests.cluster.test_ledger import Witness, open_study, outcome, propose, report, take
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import overlay

TASKS = "abcdefgh"
ALPHA = 0.05


def open_race(folder: Path, alpha: float = ALPHA) -> tuple[Ledger, optuna.Study, Witness]:
    study, witness = open_study(folder), Witness()
    study.pruner = optuna.pruners.NopPruner()
    ledger = Ledger(
        study, propose, num_trials=4, folder=folder / "s", observers=[witness], race=alpha
    )
    return ledger, study, witness


def scored(first: int, level: float) -> dict[str, Any]:
    """Return what a design tells after its first tasks, all scored alike but for a small slope."""
    scores = {task: level + 0.01 * place for place, task in enumerate(TASKS[:first])}
    return {"step": 8, "scores": scores, "num_tasks": len(TASKS)}


def finish(ledger: Ledger, trial: Assignment, level: float) -> None:
    ledger.report(trial.number, report(8, level))
    scores = scored(len(TASKS), level)["scores"]
    ledger.complete(trial.number, outcome(**scores) | {"categories": dict.fromkeys(TASKS, "STS")})


def first_of(ledger: Ledger, role: str) -> Assignment:
    """Take trials until one has the role; the others wait."""
    while (trial := take(ledger)).role != role:
        pass
    return trial


def test_a_design_that_is_behind_is_told_to_optuna_as_pruned_with_its_reason(
    tmp_path: Path,
) -> None:
    ledger, study, witness = open_race(tmp_path)
    best, weak = first_of(ledger, "search"), first_of(ledger, "search")
    assert not ledger.scored(weak.number, scored(6, 0.1))  # against nobody
    finish(ledger, best, 0.5)
    ledger.report(weak.number, report(8, 0.1))
    assert not ledger.scored(weak.number, scored(5, 0.1))  # no look
    assert ledger.scored(weak.number, scored(6, 0.1))
    ledger.stop(weak.number)
    trial = study.trials[weak.number]
    assert trial.state == TrialState.PRUNED
    expected = f"lost to trial {best.number} on 6 of 8 tasks, Wilcoxon p 0.016 of 0.016 allowed"
    assert trial.user_attrs["reason"] == expected
    ending = witness.events[-1][2]
    assert (ending.status, ending.reason, ending.outcome) == ("pruned", expected, None)


def test_who_leads_and_who_is_the_control_goes_on(tmp_path: Path) -> None:
    ledger, _, _ = open_race(tmp_path)
    trials = [take(ledger) for _ in range(4)]
    control = next(t for t in trials if t.role == "control")
    one, other, third = (t for t in trials if t.role == "search")
    finish(ledger, one, 0.5)
    assert not ledger.scored(control.number, scored(6, 0.1))
    assert not ledger.scored(other.number, scored(6, 0.9))
    finish(ledger, other, 0.9)
    assert ledger.scored(third.number, scored(6, 0.6))  # it is ahead of `one`


def test_without_a_race_nobody_is_dropped(tmp_path: Path) -> None:
    ledger, study, _ = open_race(tmp_path, alpha=0.0)
    best, weak = first_of(ledger, "search"), first_of(ledger, "search")
    finish(ledger, best, 0.5)
    assert not ledger.scored(weak.number, scored(6, 0.1))
    assert "scores" not in study.trials[best.number].user_attrs


@pytest.mark.parametrize("decided", [True, False])
def test_a_restart_decides_alike(decided: bool, tmp_path: Path) -> None:
    ledger, _, _ = open_race(tmp_path)
    best, weak = first_of(ledger, "search"), first_of(ledger, "search")
    finish(ledger, best, 0.5)
    ledger.report(weak.number, report(8, 0.1))
    if decided:
        assert ledger.scored(weak.number, scored(6, 0.1))
    again, study, _ = open_race(tmp_path)
    if not decided:
        assert first_of(again, "search").number == weak.number
        again.report(weak.number, report(8, 0.1))
        assert again.scored(weak.number, scored(6, 0.1))
        again.stop(weak.number)
    else:
        again.next_trial()
    trial = study.trials[weak.number]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"].startswith(f"lost to trial {best.number} on 6 of 8 tasks")


def test_tune_s_scheduler_passes_scores_on(tmp_path: Path) -> None:
    ledger, _, _ = open_race(tmp_path)
    best, weak = first_of(ledger, "search"), first_of(ledger, "search")
    finish(ledger, best, 0.5)
    scheduler = StudyScheduler(ledger, Losses(limit=3))
    played = SimpleNamespace(config={"number": weak.number})
    told = [
        scheduler.on_trial_result(None, played, {"kind": kind, "event": json.dumps(event)})
        for kind, event in (("Report", report(8, 0.1)), ("Scored", scored(6, 0.1)))
    ]
    assert told == ["CONTINUE", "STOP"]


def test_a_race_needs_tasks() -> None:
    tasks = tuple(f"task {place}" for place in range(7))
    for number in (6, 7):
        base = overlay(TrialConfig(), {"evaluation.tasks": tasks[:number]})
        config = StudyConfig(race=ALPHA, base=base)
        if number == 7:
            _check_race(config)
        else:
            with pytest.raises(ConfigError, match=r"race: expected at least 7 tasks with 0\.05"):
                _check_race(config)


def test_a_race_is_a_setting_of_the_study() -> None:
    assert rules(StudyConfig(race=0.05))["race"] == 0.05
    with pytest.raises(ConfigError, match="race: expected"):
        StudyConfig(race=1.0)
    with pytest.raises(ConfigError, match=r"race: with several objectives expected 0, got 0\.1"):
        StudyConfig(race=0.1, objectives=("score", "embedding_size"), pruner="none")
