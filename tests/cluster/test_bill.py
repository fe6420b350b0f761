from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.observers.bill import Bill, Budget, allows, describe
from cluster.observers.results import ResultsTable, read_rows
from cluster.study.ledger import Ledger
from cluster.study.trials import Ending, Proposal
from tests.cluster.test_tracking import REPORT, assignment, ending
from trainables.config import TrialConfig
from trainables.overlay import overlay


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bill(tmp_path: Path, clock: Clock) -> Bill:
    made = Bill(tmp_path / "costs.jsonl", clock)
    made.share = lambda config: 0.5
    return made


def test_time_counts_from_start_to_end_without_pauses(
    bill: Bill, clock: Clock, tmp_path: Path
) -> None:
    trial = assignment(tmp_path)
    bill.started(trial)
    clock.now = 10
    bill.reported(trial, REPORT)
    clock.now = 15
    bill.paused(trial)
    clock.now = 1000
    bill.started(trial)
    clock.now = 1005
    bill.ended(trial, ending(tmp_path))
    assert bill.of(trial.name) == {"worker_seconds": 20.0, "gpu_seconds": 10.0}
    assert bill.hours() == bill.whole_trial() == 10 / 3600


def test_a_driver_that_was_killed_leaves_what_it_had_counted(
    bill: Bill, clock: Clock, tmp_path: Path
) -> None:
    trial = assignment(tmp_path)
    bill.started(trial)
    clock.now = 10
    bill.reported(trial, REPORT)
    clock.now = 19  # and then no more
    with (tmp_path / "costs.jsonl").open("a") as file:
        file.write('{"trial": "sea')
    other = Bill(tmp_path / "costs.jsonl", clock)
    other.share = bill.share
    other.started(trial)
    clock.now = 24
    other.ended(trial, Ending(status="failed", reason="it broke"))
    assert other.of(trial.name)["worker_seconds"] == 15
    assert other.whole_trial() == 0
    assert Bill(tmp_path / "costs.jsonl").of(trial.name)["worker_seconds"] == 15


def test_workers_count_each_and_without_gpus_they_are_what_counts(
    clock: Clock, tmp_path: Path
) -> None:
    bill, trial = Bill(tmp_path / "costs.jsonl", clock), assignment(tmp_path)
    config = overlay(trial.config, {"engine.num_workers": 4})
    trial = type(trial)(**{**vars(trial), "config": config})
    bill.started(trial)
    clock.now = 900
    bill.ended(trial, ending(tmp_path))
    assert bill.hours() == 1.0
    assert describe(bill, Budget()) == "cost: 1.00 hours of workers"
    assert describe(bill, Budget(price=2.5)) == "cost: 1.00 hours of workers, 2.50 at 2.5 an hour"


def test_rows_have_what_their_trial_took(bill: Bill, clock: Clock, tmp_path: Path) -> None:
    table, trial = ResultsTable("s", tmp_path / "results", bill.of), assignment(tmp_path)
    bill.started(trial)
    clock.now = 8
    bill.ended(trial, ending(tmp_path))
    table.ended(trial, ending(tmp_path))
    (row,) = read_rows(tmp_path / "results")
    assert (row["worker_seconds"], row["gpu_seconds"]) == (8.0, 4.0)


@pytest.mark.parametrize(("hours", "expected"), [(None, 9), (10.0, 8), (3.5, 1)])
def test_a_budget_ends_a_search_and_leaves_the_confirmation_its_part(
    hours: float | None, expected: int, clock: Clock, tmp_path: Path
) -> None:
    """Each trial takes an hour; two more are set aside for the confirmation."""
    bill = Bill(tmp_path / "costs.jsonl", clock)

    def propose(trial: optuna.Trial) -> Proposal:
        params = {"seed": trial.suggest_int("seed", 0, 10**6)}
        return Proposal(config=overlay(TrialConfig(), params), params=params, role="search")

    ledger = Ledger(
        optuna.create_study(direction="maximize"),
        propose,
        num_trials=9,
        folder=tmp_path / "search",
        observers=[bill],
        allows=lambda num_live: allows(bill, Budget(hours=hours), 2, num_live),
    )
    while not ledger.is_done:
        trial = ledger.next_trial()
        if trial is not None:
            clock.now += 3600
            ledger.complete(trial.number, outcome(tmp_path))
    assert ledger.num_ended == expected
    assert ledger.has_room is (hours is None)


def test_trials_that_run_are_counted_as_whole_ones(
    bill: Bill, clock: Clock, tmp_path: Path
) -> None:
    budget = Budget(hours=4.0)
    assert allows(bill, budget, 9, 9)  # nothing is known yet
    trial = assignment(tmp_path)
    bill.started(trial)
    clock.now = 7200
    bill.ended(trial, ending(tmp_path))
    assert bill.hours() == 1.0
    assert [allows(bill, budget, 1, live) for live in range(3)] == [True, True, False]


def outcome(folder: Path) -> dict[str, Any]:
    made = ending(folder).outcome
    assert made is not None
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]
