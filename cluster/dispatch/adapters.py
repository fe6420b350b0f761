"""Thin adapters that let Ray Tune run a ledger's trials: a searcher, a scheduler, a callback.

None has state of its own that a restart would need, so they save nothing: a new driver
opens the ledger again and continues.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.study.ledger import Ledger
from trainables.overlay import as_dict


class StudySearcher(Searcher):
    """Hands the ledger's trials to Tune."""

    def __init__(self, ledger: Ledger, threads: int) -> None:
        """Propose from `ledger`; each worker of a trial computes with `threads`."""
        super().__init__(metric=None, mode=None)
        self._ledger = ledger
        self._threads = threads

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration; one that is promoted is a new trial to Tune."""
        assignment = self._ledger.next_trial()
        if assignment is None:  # a paused trial may yet be promoted while others run
            return Searcher.FINISHED if self._ledger.is_done else None
        return {
            "number": assignment.number,
            "trial": as_dict(assignment.config),
            "folder": str(assignment.folder),
            "threads": self._threads,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler and `LostTrials` pass endings on."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is durable by itself."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ledger out of Tune's snapshots of its own arguments."""
        return {}


class StudyScheduler(FIFOScheduler):
    """Passes reports and endings to the ledger and stops what the ledger's pruner stops."""

    def __init__(self, ledger: Ledger) -> None:
        """Decide by `ledger`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Pass on a report; say whether the trial is to stop."""
        number, event = trial.config["number"], json.loads(result["event"])
        told = self._ledger.scored if result["kind"] == "Scored" else self._ledger.report
        stop = told(number, event)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on how a trial ended; one whose last word is a report was stopped."""
        number, event = trial.config["number"], json.loads(result["event"])
        if result["kind"] == "Outcome":
            self._ledger.complete(number, event)
        elif result["kind"] == "Failure":
            self._ledger.fail(number, event)
        else:
            self._ledger.stop(number)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ledger out of Tune's snapshots of its own arguments."""
        return {}


class LostTrials(Callback):
    """Records trials whose process was lost, or could not be made, more often than is retried."""

    def __init__(self, ledger: Ledger) -> None:
        """Tell `ledger`."""
        self._ledger = ledger

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the last error that Tune saw."""
        error = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = [line.strip() for line in error.splitlines() if line.strip()]
        self._ledger.fail(trial.config["number"], lines[-1] if lines else "the process was lost")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ledger out of Tune's snapshots of its own arguments."""
        return {}
