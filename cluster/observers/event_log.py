"""The log of a study: one line for each event of each trial."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cluster.study.trials import Assignment, Ending


class EventLog:
    """An observer that writes one line for each event into the study's log."""

    def __init__(self, file: Path) -> None:
        """Write at the end of `file`."""
        self._file = file

    def started(self, trial: Assignment) -> None:
        """Write which design starts, with which seed."""
        self._write(f"{trial.name} started: {trial.label}, seed {trial.config.seed}, {trial.role}")

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Write where a trial stands."""
        values = f"loss {report['loss']:.4f}, quick score {report['quick_score']:.4f}"
        self._write(f"{trial.name} step {int(report['step'])}: {values}")

    def paused(self, trial: Assignment) -> None:
        """Write that a trial waits."""
        self._write(f"{trial.name} paused")

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Write the score, or the whole reason."""
        score = "" if ending.score is None else f" {ending.score:.4f}"
        reason = f": {' '.join(ending.reason.split())}" if ending.reason else ""
        self._write(f"{trial.name} {ending.status}{score}{reason}")

    def _write(self, line: str) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with self._file.open("a", encoding="utf-8") as out:
            out.write(f"{now} {line}\n")
