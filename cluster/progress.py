"""The quiet console: one line for each ended trial, with the best so far and the time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from cluster.ledger import Assignment, Ending


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(125)
    '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Console:
    """An observer that tells a person what is going on."""

    def __init__(self, num_trials: int, num_ended: int, out: TextIO | None = None) -> None:
        """Count up to `num_trials`, of which `num_ended` are there already."""
        self._total = num_trials
        self._ended = num_ended
        self._before = num_ended
        self._out = out or sys.stdout
        self._start = time.monotonic()
        self._live: dict[str, tuple[int, int]] = {}  # steps taken and planned
        self._best: tuple[float, str] | None = None

    def started(self, trial: Assignment) -> None:
        """Show that a trial runs."""
        self._live[trial.name] = (0, max(trial.config.training.steps, 1))
        self._status()

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Show how far a trial is."""
        self._live[trial.name] = (int(report["step"]), self._live[trial.name][1])
        self._status()

    def paused(self, trial: Assignment) -> None:
        """Count the trial among those that do not run."""
        self._live.pop(trial.name, None)
        self._status()

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Write the trial's line."""
        self._live.pop(trial.name, None)
        self._ended += 1
        score = ending.score
        if score is not None and (self._best is None or score > self._best[0]):
            self._best = (score, trial.name)
        result = f"{score:.3f}" if score is not None else str(ending.reason)
        if ending.status == "failed":
            result = f"FAILED ({ending.reason})"
        role = f" [{trial.role}]" if trial.role != "search" else ""
        seed = (
            f" seed {trial.config.seed}" if trial.config.evaluation.split == "confirming" else ""
        )
        self._write(
            f"{clock(time.monotonic() - self._start):>6}  {self._ended:>3}/{self._total}  "
            f"{trial.label}{seed}{role}: {result}"
        )
        self._status()

    def time_left(self) -> float | None:
        """Return the seconds that are left by the pace so far; None before there is a pace."""
        done = self._ended - self._before + sum(a / b for a, b in self._live.values()) * 0.8
        if done <= 0:
            return None
        spent = time.monotonic() - self._start
        return spent / done * (self._total - self._before - done)

    def _status(self) -> None:
        """Rewrite the bottom line; a file or a pipe gets none."""
        if not self._out.isatty():
            return
        left = self.time_left()
        best = f", best {self._best[0]:.3f} ({self._best[1]})" if self._best else ""
        remaining = f", about {clock(left)} left" if left is not None else ""
        running = len(self._live)
        self._out.write(f"\r\x1b[K{self._ended}/{self._total}, {running} running{best}{remaining}")
        self._out.flush()

    def _write(self, line: str) -> None:
        left = self.time_left()
        tail = f"  ({clock(left)} left)" if left is not None and self._ended < self._total else ""
        clear = "\r\x1b[K" if self._out.isatty() else ""
        self._out.write(f"{clear}{line}{tail}\n")
        self._out.flush()
