"""Thin adapters that let Ray Tune run a ledger's trials: searchers, a scheduler, callbacks.

None has state of its own that a restart would need, so they save nothing: a new driver
opens the ledger again and continues. Tune starts a lost trial again however often
(`max_failures=-1`); here it is told when to stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from cluster.dispatch.losses import Losses
from cluster.study.ledger import Ledger
from trainables.overlay import as_dict

LOOK_S = 2.0  # between two looks at the nodes


class StudySearcher(Searcher):
    """Hands the ledger's trials to Tune."""

    def __init__(self, ledger: Ledger, threads: int, hang_timeout_s: float | None = None) -> None:
        """Propose from `ledger`; each worker of a trial computes with `threads`.

        A trial that is silent for `hang_timeout_s` counts as dead (see `heartbeat.Watch`).
        """
        super().__init__(metric=None, mode=None)
        self._ledger = ledger
        self._given = {"threads": threads, "hang_timeout_s": hang_timeout_s}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration; one that is promoted is a new trial to Tune."""
        assignment = self._ledger.next_trial()
        if assignment is None:  # a paused trial may yet be promoted while others run
            return Searcher.FINISHED if self._ledger.is_done else None
        return {
            "number": assignment.number,
            "trial": as_dict(assignment.config),
            "folder": str(assignment.folder),
            **self._given,
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


class FittingSearcher(ConcurrencyLimiter):
    """Asks a searcher for as many trials at once as the cluster has room for at the time."""

    def __init__(
        self,
        searcher: Searcher,
        room: Callable[[Sequence[float]], int],
        share: Callable[[dict[str, Any]], float],
    ) -> None:
        """Ask `searcher`.

        `room` says how many trials fit beside those of some shares of GPUs, `share` what the
        workers of a suggestion take.
        """
        super().__init__(searcher, max_concurrent=1)
        self._room = room
        self._share = share
        self._live: dict[str, float] = {}  # the shares of trials that are there

    def suggest(self, trial_id: str) -> Any:
        """Return a trial if there is room for one."""
        self.max_concurrent = len(self._live) + self._room(list(self._live.values()))
        suggestion = super().suggest(trial_id)
        if isinstance(suggestion, dict):
            self._live[trial_id] = self._share(suggestion)
        return suggestion

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Count a trial's place as free."""
        self._live.pop(trial_id, None)
        super().on_trial_complete(trial_id, result, error)

    def get_state(self) -> dict[str, Any]:
        """Return nothing to keep."""
        return {}


class StudyScheduler(FIFOScheduler):
    """Passes reports and endings to the ledger and stops what the ledger's pruner stops."""

    def __init__(self, ledger: Ledger, losses: Losses) -> None:
        """Decide by `ledger`, and by `losses` whether a lost trial is started again."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._losses = losses
        self._given_up: dict[int, str] = {}  # trials that are not started again, with the reason

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Pass on a report; say whether the trial is to stop."""
        number, event = trial.config["number"], json.loads(result["event"])
        self._losses.reported(number, event["step"])
        told = self._ledger.scored if result["kind"] == "Scored" else self._ledger.report
        stop = told(number, event)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note that a trial's processes were lost, or could not be made."""
        number = trial.config["number"]
        if self._losses.is_last(number):
            times = self._losses.num_in_a_row(number)
            self._given_up[number] = f"lost {times} times without a new report: {_last(trial)}"

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial that is given up out of Tune's queue, into which it comes after a loss."""
        reason = self._given_up.pop(trial.config["number"], None)
        if reason is not None:
            self._ledger.fail(trial.config["number"], reason)
            tune_controller.stop_trial(trial)

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
    """Records trials that Tune itself does not start again."""

    def __init__(self, ledger: Ledger) -> None:
        """Tell `ledger`."""
        self._ledger = ledger

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the last error that Tune saw."""
        self._ledger.fail(trial.config["number"], _last(trial))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ledger out of Tune's snapshots of its own arguments."""
        return {}


class NodeWatch(Callback):
    """Looks at the cluster's nodes now and then."""

    def __init__(self, *looks: Callable[[], object]) -> None:
        """Call each of `looks`; one that raises ends the search."""
        self._looks = looks
        self._looked = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look, if it is time to."""
        if time.monotonic() < self._looked + LOOK_S:
            return
        self._looked = time.monotonic()
        for look in self._looks:
            look()

    def __getstate__(self) -> dict[str, Any]:
        """Leave what it calls out of Tune's snapshots of its own arguments."""
        return {}


def _last(trial: Any) -> str:
    """Return the last line of what Tune noted of a trial's errors."""
    error = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1] if lines else "the process was lost"
