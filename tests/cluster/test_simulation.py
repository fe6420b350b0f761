"""The engine in virtual time: against Optuna's own rule, and killed at every write."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.storages.journal import BaseJournalBackend

from cluster.settings import StudyConfig
from cluster.simulation.draws import uniform
from cluster.simulation.searches import open_ledger, quiet
from cluster.simulation.virtual import RESTART_S, Event, Simulation
from cluster.simulation.workloads import Formula
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


PIECE_S = 100.0


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
    """A formula of which some trials fail."""

    def events(self, config: dict[str, Any]) -> list[Event]:
        events = list(super().events(config))
        if self.luck(config) < 0.3:
            events[:] = [Event(1.0, "Failure", "TrainingError: loss")]
        return events

    def luck(self, config: dict[str, Any]) -> float:
        return uniform(self.score(flatten(config)))


class Slow(Rough):
    """Trials of which each event takes `PIECE_S`."""

    def events(self, config: dict[str, Any]) -> list[Event]:
        return [Event(PIECE_S, event.kind, event.value) for event in super().events(config)]


class Doomed(Rough):
    """Trials of which some are lost after their first report, whenever they are started."""

    def events(self, config: dict[str, Any]) -> list[Event]:
        events = super().events(config)
        if self.luck(config) > 0.7:
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


def test_a_trial_that_is_lost_again_and_again_fails(tmp_path: Path) -> None:
    backend, config = Memory(), setting(sampler="random", pruner="none")
    doomed = Doomed(SPACES["attention"], BASE, EMBEDDED)
    search(backend, config, doomed, 2, tmp_path)
    lost = 0
    for _, state, _, _, reports, told in decisions(Journal(backend), config):
        if told["reason"] and told["reason"].startswith("lost "):
            lost += 1
            assert (state, list(reports)) == ("FAIL", [1])
            times = int(told["reason"].split()[1])
            assert 3 <= times <= 5  # those together with another trial's first do not count
    assert lost > 0


@pytest.fixture(scope="module")
def slow() -> Slow:
    return Slow(SPACES["attention"], BASE, EMBEDDED)


def test_lost_nodes_take_time_and_change_no_decision(slow: Slow, tmp_path: Path) -> None:
    """One trial at a time: with several, what ends first decides what is proposed next."""
    config = setting(sampler="tpe", pruner="halving")
    calm, rough = Memory(), Memory()
    whole = search(calm, config, slow, 1, tmp_path / "calm")
    world = Simulation(slow, 1, losses_per_hour=20.0)
    world.run(open_ledger(config, Journal(rough), tmp_path / "rough", EMBEDDED))
    assert world.num_lost > 10
    assert decisions(Journal(rough), config) == decisions(Journal(calm), config)
    assert world.steps == whole.steps
    added = world.seconds - whole.seconds
    assert RESTART_S * world.num_lost < added < (RESTART_S + PIECE_S) * world.num_lost


def test_losses_and_kills_together(slow: Slow, tmp_path: Path) -> None:
    config = setting(sampler="tpe", pruner="halving")
    whole, undisturbed = Memory(), Simulation(slow, 2, losses_per_hour=20.0)
    undisturbed.run(open_ledger(config, Journal(whole), tmp_path / "whole", EMBEDDED))
    for kill_at in range(3, whole.writes, 11):
        backend, world = Memory(), Simulation(slow, 2, losses_per_hour=20.0)
        backend.kill_at = kill_at
        with pytest.raises(Killed):
            world.run(open_ledger(config, Journal(backend), tmp_path / "cut", EMBEDDED))
        world.run(open_ledger(config, Journal(backend), tmp_path / "cut", EMBEDDED))
        assert decisions(Journal(backend), config) == decisions(Journal(whole), config)
        assert (world.seconds, world.num_lost) == (undisturbed.seconds, undisturbed.num_lost)


def test_losses_take_as_long_as_a_poisson_process_says(tmp_path: Path) -> None:
    rate = 20.0
    config = setting(sampler="random", pruner="none", num_trials=1)
    slow = Slow(SPACES["attention"], BASE, EMBEDDED)
    seconds = []
    for seed in range(400):
        world = Simulation(slow, 1, losses_per_hour=rate, seed=seed)
        world.run(open_ledger(config, InMemoryStorage(), tmp_path / str(seed), EMBEDDED))
        seconds.append(world.seconds)
    pieces = BASE.training.steps + 1  # a report of each step, and the scores
    assert fmean(seconds) == pytest.approx(pieces * piece_with_losses(rate / 3600), rel=0.03)


def piece_with_losses(rate: float) -> float:
    """Return the mean time of a piece of work that begins anew, after a restart, if disturbed."""
    again = (math.exp(rate * (PIECE_S + RESTART_S)) - 1) / rate
    return (1 - math.exp(-rate * PIECE_S)) * (1 / rate + again)
