"""A search in virtual time: the ledger and Ray's adapters are the real ones, trials are played.

Workers, checkpoints and the clock outlive the driver, as on a cluster: a driver that is killed at
any moment can be followed by another, which finds its trials as far as they had come. A worker
can be lost with its node: its trial goes on elsewhere from its last report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from cluster.dispatch.adapters import StudyScheduler, StudySearcher
from cluster.dispatch.losses import Losses, Patience
from cluster.simulation.draws import exponential
from cluster.study.ledger import Ledger

Kind = Literal["Report", "Outcome", "Failure", "Lost"]
RESTART_S = 25.0  # until the workers of a lost trial are up again
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Event:
    """What a trial tells, `seconds` after what it told before."""

    seconds: float
    kind: Kind
    value: Any  # the fields of a report or an outcome, or a reason; None where it is lost


class Workload(Protocol):
    """What trials would do."""

    def events(self, config: dict[str, Any]) -> Sequence[Event]:
        """Return all that the trial of a plain configuration would tell, its ending last."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A trial that was completed."""

    steps: int  # that all trials had trained until then
    score: float


@dataclass(slots=True)
class _Trial:
    """What the adapters see of Tune's trial."""

    trial_id: str
    config: dict[str, Any]
    error_file: str | None = None


@dataclass
class Simulation:
    """Some workers, each with a trial at a time, and what has happened on them.

    A trial whose own next event is that it is lost meets it again each time that it is started.
    """

    workload: Workload
    num_workers: int
    losses_per_hour: float = 0.0  # of each worker, with its node
    seed: int = 0  # of the losses
    seconds: float = 0.0  # since the start of the search
    steps: int = 0  # trained by all trials, without those that were lost again
    num_lost: int = 0  # workers, with their nodes
    found: list[Found] = field(default_factory=list)
    _progress: dict[int, int] = field(default_factory=dict)  # events by a trial's number
    _attempts: dict[int, int] = field(default_factory=dict)  # at a trial's next event, if lost
    _due: dict[int, tuple[float, bool]] = field(default_factory=dict)  # the next; is it a loss?

    def run(self, ledger: Ledger) -> None:
        """Be the driver until the search is over."""
        _Driver(self, ledger).run()

    def next_event(self, number: int, events: Sequence[Event]) -> Event:
        """Let the clock go on to a trial's next event, which then is in its checkpoint."""
        self.seconds, is_loss = self._due.pop(number)
        place = self._progress.get(number, 0)
        event = events[place]
        if is_loss or event.kind == "Lost":
            self.num_lost += is_loss
            self._attempts[number] = self._attempts.get(number, 0) + 1
            return Event(0.0, "Lost", None)
        self._attempts.pop(number, None)
        self._progress[number] = place + 1
        if event.kind == "Report":
            before = events[place - 1].value["step"] if place else 0
            self.steps += event.value["step"] - before
        elif event.kind == "Outcome":
            score = next(iter(event.value["scores"].values()))
            self.found.append(Found(self.steps, score))
        return event

    def schedule(self, number: int, events: Sequence[Event]) -> None:
        """Let a trial run on, if it does not already."""
        if number in self._due:
            return
        place, attempts = self._progress.get(number, 0), self._attempts.get(number, 0)
        wait = events[place].seconds + (RESTART_S if attempts else 0.0)
        lost = math.inf
        if self.losses_per_hour:
            mean = HOUR / self.losses_per_hour
            lost = mean * exponential(self.seed, "lost", number, place, attempts)
        self._due[number] = self.seconds + min(wait, lost), lost < wait

    def nodes(self) -> tuple[str]:
        """Return a name that is another one after each loss of a node."""
        return (str(self.num_lost),)

    def done(self, number: int) -> int:
        """Return how many events of a trial have happened."""
        return self._progress.get(number, 0)

    def first_of(self, numbers: Sequence[int]) -> int:
        """Return the trial that tells something next."""
        return min(numbers, key=lambda number: (self._due[number][0], number))


class _Driver:
    """One life of the driver's process; does with the adapters what Tune's controller does."""

    def __init__(self, world: Simulation, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger
        self._searcher = StudySearcher(ledger, threads=1)
        losses = Losses(limit=Patience().losses, nodes=world.nodes, clock=lambda: world.seconds)
        self._scheduler = StudyScheduler(ledger, losses)
        self._running: dict[int, tuple[_Trial, Sequence[Event]]] = {}

    def run(self) -> None:
        self._fill()
        while self._running:
            number = self._world.first_of(list(self._running))
            event = self._world.next_event(number, self._running[number][1])
            if event.kind == "Lost":
                self._lose(number)
            elif self._tell(number, event):
                self._world.schedule(number, self._running[number][1])
            self._fill()
        if not self._ledger.is_done:
            raise RuntimeError("nothing runs, and the search is not over")

    def _fill(self) -> None:
        """Give each free worker a trial."""
        while len(self._running) < self._world.num_workers:
            config = self._searcher.suggest(f"trial-{self._world.seconds}")
            if config is None or config == Searcher.FINISHED:
                return
            number = config["number"]
            events = self._world.workload.events(config["trial"])
            self._running[number] = _Trial(str(number), config), events
            self._start(number)

    def _start(self, number: int) -> None:
        """Start a trial, which first tells again what it told before."""
        events = self._running[number][1]
        told = events[: self._world.done(number)]
        if all(self._tell(number, event) for event in told):
            self._world.schedule(number, events)

    def _lose(self, number: int) -> None:
        """Put a trial that was lost into the queue again, as Tune does, and start it."""
        trial = self._running[number][0]
        self._scheduler.on_trial_error(self, trial)
        self._scheduler.on_trial_add(self, trial)
        if number in self._running:
            self._start(number)

    def stop_trial(self, trial: _Trial) -> None:
        """Take a trial out of the queue."""
        del self._running[trial.config["number"]]

    def _tell(self, number: int, event: Event) -> bool:
        """Pass an event on; return whether the trial goes on."""
        trial = self._running[number][0]
        result = {"kind": event.kind, "event": json.dumps(event.value)}
        if event.kind == "Report":
            decision = self._scheduler.on_trial_result(None, trial, result)
            if decision == TrialScheduler.CONTINUE:
                return True
        self._scheduler.on_trial_complete(None, trial, result)
        self._searcher.on_trial_complete(trial.trial_id, result)
        del self._running[number]
        return False
