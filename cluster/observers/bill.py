"""What trials cost: the time that each occupies its workers, and their shares of GPUs.

The driver measures from a trial's start to its end or pause, its evaluation and waiting included.
Every report adds to the file, so that a kill loses at most what came since.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.observers.spool import whole_lines
from cluster.study.trials import Assignment, Ending
from trainables.config import TrialConfig

HOUR_S = 3600.0
NOTHING = {"worker_seconds": 0.0, "gpu_seconds": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a search may cost, and what an hour does."""

    hours: float | None = None  # of GPUs, or of workers where there are none; None: no limit
    price: float | None = None  # of one of them


class Bill:
    """An observer that adds up what trials occupy."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on with the bill in `file`."""
        self._file, self._clock = file, clock
        self.share: Callable[[TrialConfig], float] = lambda _: 0.0  # a worker's, of a GPU
        self._since: dict[str, float] = {}
        self._whole: set[str] = set()  # trials that took all steps and have all scores
        self._spent: dict[str, dict[str, float]] = {}
        for line in whole_lines(file):
            self._add(json.loads(line))

    def started(self, trial: Assignment) -> None:
        """Begin to count."""
        self._since[trial.name] = self._clock()

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Count what came since."""
        self._count(trial)

    def paused(self, trial: Assignment) -> None:
        """Count what came since, and no more."""
        self._count(trial)
        self._since.pop(trial.name, None)

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Count what came since, and no more."""
        self._count(trial, whole=ending.status == "complete")
        self._since.pop(trial.name, None)

    @property
    def has_gpus(self) -> bool:
        """Whether any trial has taken a GPU's time."""
        return any(spent["gpu_seconds"] for spent in self._spent.values())

    def of(self, name: str) -> dict[str, float]:
        """Return the seconds of workers and of GPUs that a trial has taken."""
        return dict(self._spent.get(name, NOTHING))

    def hours(self, act: str = "") -> float:
        """Return the hours of GPUs, or of workers where there are none, of an act or of all."""
        rows = [spent for name, spent in self._spent.items() if name.startswith(act)]
        return sum(row["gpu_seconds"] or row["worker_seconds"] for row in rows) / HOUR_S

    def whole_trial(self) -> float:
        """Return the hours of the dearest trial that took all steps; 0 before there is one."""
        return max((self.hours(name) for name in self._whole), default=0.0)

    def _count(self, trial: Assignment, *, whole: bool = False) -> None:
        now = self._clock()
        seconds = now - self._since.get(trial.name, now)
        self._since[trial.name] = now
        workers = trial.config.engine.num_workers
        line = {
            "trial": trial.name,
            "worker_seconds": seconds * workers,
            "gpu_seconds": seconds * workers * self.share(trial.config),
            "whole": whole,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._add(line)

    def _add(self, line: Mapping[str, Any]) -> None:
        spent = self._spent.setdefault(line["trial"], dict(NOTHING))
        for name in NOTHING:
            spent[name] += line[name]
        if line["whole"]:
            self._whole.add(line["trial"])


def allows(bill: Bill, budget: Budget, num_confirmed: int, num_live: int) -> bool:
    """Return whether one more trial fits into a budget beside `num_live` that run.

    What these and `num_confirmed` trials of the confirmation will take is set aside, each as much
    as the dearest whole trial so far; before there is one, nothing is known and all fit.
    """
    if budget.hours is None:
        return True
    promised = (num_live + 1 + num_confirmed) * bill.whole_trial()
    return bill.hours() + promised <= budget.hours


def describe(bill: Bill, budget: Budget) -> str:
    """Return what a study has cost so far, in words."""
    hours, price = bill.hours(), budget.price
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} an hour"
    return f"cost: {hours:.2f} hours of {'GPUs' if bill.has_gpus else 'workers'}{cost}"
