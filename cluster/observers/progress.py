"""The console: a live block on a terminal, a bounded number of lines in a file or a pipe.

What happens to each trial stands in the study's log, one line for each event.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cluster.study.trials import Assignment, Ending, mean_score

WIDTH = 100  # columns at most
BAR = 24  # columns of the bar
RUNNING = 4  # running trials that a block shows
KINDS = 3  # kinds of failures that a block shows
TENTHS, FEW = 10, 20  # lines of progress; half as many for up to FEW trials
MOST_BEST, MOST_KINDS = 5, 4  # lines for a new best and for a new kind of failure
TRAINING_SHARE = 0.8  # of a trial; the rest is scoring


def clock(seconds: float) -> str:
    """Return minutes and seconds, with hours and days where there are any.

    >>> clock(125), clock(7265), clock(183600)
    ('2:05', '2:01:05', '2 d 3 h')
    """
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def cut(text: str, width: int) -> str:
    """Return one line of a text, cut to a width.

    >>> cut("a long reason", 8)
    'a long …'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def kind(reason: str) -> str:
    """Return what reasons that differ in numbers alone have in common.

    >>> kind("TrainingError: got nan at step 12") == kind("TrainingError: got nan at step 3")
    True
    """
    return re.sub(r"[-+]?\d[\d.,e+-]*", "#", reason)


class Progress:
    """What has happened so far to the trials of one act."""

    def __init__(
        self, num_trials: int, num_ended: int, before: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Count up to `num_trials`; `before` are the table's rows of those `num_ended` by now."""
        self.total = num_trials
        self.ended = num_ended
        self.live: dict[str, tuple[int, int, str]] = {}  # steps taken, planned, label
        self.paused: set[str] = set()
        self.best: tuple[float, str, str] | None = None  # score, trial, label
        self.endings = Counter(str(row["status"]) for row in before)
        self.failures: Counter[str] = Counter()
        self.last_of_kind: dict[str, str] = {}
        self._before = num_ended
        self._start = time.monotonic()
        for row in before:
            self._score(mean_score(dict(row)), row["trial"], row["label"])
            if row["status"] == "failed":
                self._fail(str(row["reason"]))

    def start(self, trial: Assignment) -> None:
        """Count a trial among those that run."""
        self.paused.discard(trial.name)
        self.live[trial.name] = (0, max(trial.config.training.steps, 1), trial.label)

    def pause(self, trial: Assignment) -> None:
        """Count a trial among those that wait; most go no further."""
        self.live.pop(trial.name, None)
        self.paused.add(trial.name)

    @property
    def reached(self) -> int:
        """How many trials have ended, or wait."""
        return self.ended + len(self.paused)

    def end(self, trial: Assignment, ending: Ending) -> None:
        """Count a trial that has ended."""
        self.paused.discard(trial.name)
        self.live.pop(trial.name, None)
        self.ended += 1
        self.endings[ending.status] += 1
        self._score(ending.score, trial.name, trial.label)
        if ending.status == "failed":
            self._fail(str(ending.reason))

    def _score(self, score: float | None, name: str, label: str) -> None:
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, name, label)

    def _fail(self, reason: str) -> None:
        self.failures[kind(reason)] += 1
        self.last_of_kind[kind(reason)] = reason

    @property
    def spent(self) -> float:
        """The seconds since this driver began."""
        return time.monotonic() - self._start

    def time_left(self) -> float | None:
        """Return the seconds that are left by the pace so far; None before there is a pace."""
        taken = sum(step / steps for step, steps, _ in self.live.values()) * TRAINING_SHARE
        done = self.reached - self._before + taken
        return self.spent / done * (self.total - self._before - done) if done > 0 else None


class Console:
    """An observer that tells a person what is going on in one act."""

    def __init__(
        self,
        act: str,
        progress: Progress,
        log: Path | None = None,
        out: TextIO | None = None,
    ) -> None:
        """Show the progress of `act`; `log` is where the details are."""
        self._act = act
        self._progress = progress
        self._log = log
        self._out = out or sys.stdout
        self._height = 0  # lines of the block that stands on the terminal
        self._tenth = self._due()
        self._num_best = 0
        self._known = set(progress.failures)

    def started(self, trial: Assignment) -> None:
        """Show that a trial runs."""
        self._progress.start(trial)
        self._show()

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Show how far a trial is."""
        _, steps, label = self._progress.live[trial.name]
        self._progress.live[trial.name] = (int(report["step"]), steps, label)
        self._show()

    def paused(self, trial: Assignment) -> None:
        """Show that a trial waits, until it is started again or ended."""
        self._progress.pause(trial)
        if not self._out.isatty():
            self._write(self._tenths())
        self._show()

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Show how a trial ended."""
        best = self._progress.best
        self._progress.end(trial, ending)
        if not self._out.isatty():
            self._say(trial, ending, is_best=self._progress.best != best)
        self._show()

    def finish(self) -> None:
        """Leave the sum of it all on a terminal, in place of the block."""
        if self._out.isatty():
            self._draw(self.block(running=False))
            self._height = 0

    def _say(self, trial: Assignment, ending: Ending, *, is_best: bool) -> None:
        """Write the lines that a log file gets: a new best, a new kind of failure, each tenth."""
        progress, lines = self._progress, []
        if is_best and progress.best and self._act == "search" and self._num_best < MOST_BEST:
            self._num_best += 1
            lines.append(f"best {progress.best[0]:.3f}: {trial.name} {trial.label}")
        if ending.status == "failed" and kind(str(ending.reason)) not in self._known:
            self._known.add(kind(str(ending.reason)))
            if len(self._known) <= MOST_KINDS:
                lines.append(f"{trial.name} FAILED ({ending.reason})")
        self._write([*lines, *self._tenths()])

    def _tenths(self) -> list[str]:
        """Return the line of progress if one is due."""
        if self._due() <= self._tenth:
            return []
        self._tenth = self._due()
        return [self._summary()]

    def _write(self, lines: list[str]) -> None:
        for line in lines:
            self._out.write(f"{clock(self._progress.spent):>8}  {cut(line, WIDTH - 10)}\n")
        self._out.flush()

    def _due(self) -> int:
        """Return how many of the lines of progress are due."""
        lines = TENTHS if self._progress.total > FEW else TENTHS // 2
        return self._progress.reached * lines // max(self._progress.total, 1)

    def _summary(self) -> str:
        progress, left = self._progress, self._progress.time_left()
        parts = [f"{progress.ended}/{progress.total}"]
        if left is not None and progress.ended < progress.total:
            parts.append(f"about {clock(left)} left")
        parts += [text for text in (self._counts(),) if text]
        if progress.best and self._act == "search":
            parts.append(f"best {progress.best[0]:.3f} {progress.best[1]}")
        return ", ".join(parts)

    def _counts(self) -> str:
        words = {"pruned": "stopped early", "failed": "failed"}
        counts = {word: self._progress.endings[status] for status, word in words.items()}
        counts["paused"] = len(self._progress.paused)
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count)

    def _show(self) -> None:
        if self._out.isatty():
            self._draw(self.block(running=True))

    def _draw(self, lines: list[str]) -> None:
        """Write the block over the one that stands there."""
        up = f"\x1b[{self._height}F" if self._height else ""
        self._out.write(f"{up}\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._height = len(lines)

    def block(self, *, running: bool) -> list[str]:
        """Return what a terminal shows; without `running` only what is of use afterwards."""
        progress, width = self._progress, min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
        full = BAR * progress.ended // max(progress.total, 1)
        left = progress.time_left()
        tail = f", about {clock(left)} left" if left is not None and running else ""
        ended = ", ".join(text for text in (self._counts(),) if text)
        rows = [
            (
                self._act,
                f"[{'#' * full}{'.' * (BAR - full)}] {progress.ended}/{progress.total} "
                f"in {clock(progress.spent)}{tail}",
            )
        ]
        if progress.best and self._act == "search":
            score, name, label = progress.best
            rows.append(("best", f"{score:.3f} {name} {label}"))
        if running:
            rows += self._running()
        rows += [("ended", ended)] if ended else []
        for reason, count in progress.failures.most_common(KINDS):
            rows.append(("failed", f"{count}x {progress.last_of_kind[reason]}"))
        more = len(progress.failures) - KINDS
        rows += [("", f"and {more} more kinds")] if more > 0 else []
        rows += [("details", str(self._log))] if self._log and running else []
        return [cut(f"{head:<8}", 8).ljust(9) + cut(text, width - 10) for head, text in rows]

    def _running(self) -> list[tuple[str, str]]:
        live = list(self._progress.live.items())
        rows = [
            ("running" if place == 0 else "", f"{name} {step}/{steps} {label}")
            for place, (name, (step, steps, label)) in enumerate(live[:RUNNING])
        ]
        return rows + ([("", f"and {len(live) - RUNNING} more")] if len(live) > RUNNING else [])
