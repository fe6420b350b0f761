"""The engine in virtual time: against Optuna's own rule, and killed at every write."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend

from cluster.settings import StudyConfig
from cluster.simulate import open_ledger, quiet
from cluster.simulation.virtual import Event, Simulation
from cluster.simulation.workloads import Formula, uniform
from cluster.study.opening import open_study
from cluster.study.storage import Journal, open_storage
from cluster.study.trials import Assignment, Ending
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.overlay import flatten, overlay
from trainables.shape import EMBEDDED

BASE = overlay(TrialConfig(), {"training.steps": 4, "training.report_every": 1})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


class Killed(BaseException):
    """The driver's process ends here."""


class Memory(BaseJournalBackend):
    """A journal in memory; a process can be killed when it is about to write."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.writes = 0
        self.kill_at: int | None = None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.writes += 1
        if self.kill_at == self.writes:
            raise Killed
        self.logs += logs


class Rough(Formula):
    """A formula of which some trials fail and some are lost."""

    def events(self, config: dict[str, Any]) -> list[Event]:
        events = list(super().events(config))
        luck = uniform(self.score(flatten(config)))
        if luck < 0.2:
            events[:] = [Event(1.0, "Failure", "TrainingError: loss")]
        elif luck < 0.4:
            events[1:] = [Event(1.0, "Lost", None)]
        return events


@pytest.fixture(scope="module")
def workload() -> Rough:
    return Rough(SPACES["attention"], BASE, EMBEDDED)


def setting(**changes: Any) -> StudyConfig:
    usual = StudyConfig(name="s", space="attention", base=BASE, num_trials=12, num_startup=3)
    return dataclasses.replace(usual, factor=2, **changes)


def decisions(storage: BaseStorage, config: StudyConfig) -> list[Any]:
    """Return all that a search has decided, as the storage has it."""
    trials = open_study(config, storage).get_trials(deepcopy=False)
    assert not [t for t in trials if not t.state.is_finished()]
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, _told(t.user_attrs))
        for t in trials
    ]


def _told(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: attributes.get(name) for name in ("key", "role", "reason", "repeats", "paused")}


def search(
    backend: Memory, config: StudyConfig, workload: Formula, num_workers: int, folder: Path
) -> Simulation:
    """Run a search, however often its driver is killed."""
    world = Simulation(workload, num_workers)
    while True:
        try:
            world.run(open_ledger(config, Journal(backend), folder, EMBEDDED))
        except Killed:
            backend.kill_at = None
            continue
        return world


@pytest.mark.parametrize(
    ("sampler", "pruner", "num_workers"),
    [
        ("tpe", "halving", 1),
        ("tpe", "halving", 3),
        ("nsga2", "halving", 3),
        ("tpe", "hyperband", 3),
        ("random", "percentile", 3),
        ("qmc", "median", 2),
    ],
)
def test_a_search_killed_at_any_write_ends_as_if_it_had_not_been(
    sampler: str, pruner: str, num_workers: int, workload: Rough, tmp_path: Path
) -> None:
    config = setting(sampler=sampler, pruner=pruner)
    whole = Memory()
    undisturbed = search(whole, config, workload, num_workers, tmp_path / "whole")
    num_writes, expected = whole.writes, decisions(Journal(whole), config)
    assert {state for _, state, *_ in expected} >= {"COMPLETE", "PRUNED", "FAIL"}
    for kill_at in range(1, num_writes + 1):
        backend = Memory()
        backend.kill_at = kill_at
        world = search(backend, config, workload, num_workers, tmp_path / str(kill_at))
        assert backend.kill_at is None
        assert decisions(Journal(backend), config) == expected, kill_at
        assert (world.seconds, world.steps) == (undisturbed.seconds, undisturbed.steps)


class Mortal:
    """An observer of whose driver nothing is left after so many events."""

    def __init__(self, events: int) -> None:
        self.left = events

    def _hear(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def started(self, trial: Assignment) -> None:
        self._hear()

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        self._hear()

    def paused(self, trial: Assignment) -> None:
        self._hear()

    def ended(self, trial: Assignment, ending: Ending) -> None:
        self._hear()


@pytest.mark.parametrize("pruner", ["halving", "percentile"])
def test_a_search_in_a_database_goes_on_as_one_in_the_journal(
    pruner: str, workload: Rough, tmp_path: Path
) -> None:
    config = setting(pruner=pruner, storage=f"sqlite:///{tmp_path}/studies.db")
    journal = Memory()
    search(journal, dataclasses.replace(config, storage=None), workload, 2, tmp_path / "j")
    world, lives = Simulation(workload, 2), 0
    while lives < 99:
        lives += 1
        storage = open_storage(config.storage, tmp_path)
        ledger = open_ledger(config, storage, tmp_path, EMBEDDED, Mortal(7 + lives))
        try:
            world.run(ledger)
        except Killed:
            continue
        break
    assert 3 < lives < 99
    found = decisions(open_storage(config.storage, tmp_path), config)
    assert found == decisions(Journal(journal), config)
