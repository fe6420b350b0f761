"""MLflow may be away for a while: what happens meanwhile waits on disk and is told later."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from cluster.observers.tracking import Tracker
from cluster.study.trials import Assignment, Ending

RETRY_S = 30.0  # between tries while it is away
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own would last for minutes

Call = tuple[str, tuple[Any, ...]]


class Spool:
    """An observer that passes all on to a tracker, in order, as soon as it can."""

    def __init__(self, tracker: Tracker, file: Path, log: Callable[[str], None]) -> None:
        """Begin with what an earlier driver has left in `file`; `log` hears of outages."""
        self._tracker = tracker
        self._file = file
        self._log = log
        self._waiting: list[Call] = pickle.loads(file.read_bytes()) if file.is_file() else []
        self._next_try = 0.0

    def started(self, trial: Assignment) -> None:
        """Pass on that a trial runs."""
        self._add("started", trial)

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Pass on where a trial stands."""
        self._add("reported", trial, report)

    def paused(self, trial: Assignment) -> None:
        """Pass on that a trial waits."""
        self._add("paused", trial)

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Pass on how a trial ended."""
        self._add("ended", trial, ending)

    def finish(self, report: Path, sentences: list[str]) -> None:
        """Pass on the verdict; say so if it has to wait for the next time."""
        self._next_try = 0.0
        self._add("finish", report, sentences)
        if self._waiting:
            count = len(self._waiting)
            self._log(f"MLflow: {count} records wait in {self._file}; repeat the command")

    def link(self, name: str) -> dict[str, str]:
        """Return where a trial is shown, as far as that is known."""
        return self._tracker.link(name)

    def _add(self, name: str, *arguments: Any) -> None:
        self._waiting.append((name, arguments))
        if time.monotonic() >= self._next_try:
            self._pass_on()
        else:
            self._keep()

    def _pass_on(self) -> None:
        was_away = self._file.exists()
        while self._waiting:
            name, arguments = self._waiting[0]
            try:
                getattr(self._tracker, name)(*arguments)
            except (MlflowException, OSError) as error:
                self._next_try = time.monotonic() + RETRY_S
                self._keep()
                if not was_away:
                    reason = str(error).partition("\n")[0]
                    self._log(f"MLflow does not answer; records wait in {self._file} ({reason})")
                return
            self._waiting.pop(0)
        self._file.unlink(missing_ok=True)

    def _keep(self) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(self._waiting))
        partial.replace(self._file)
