"""Ray Train: where a ledger's long runs may be run instead, each by a trainer of its own.

A run's workers are started anew, where a warm group's are there; then Train's own fault handling
restarts what dies, and heeds nodes that say that they will go. A run has as many workers as the
study's trials have: elastic ones, whose number would follow the cluster, are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.dispatch import tune
from cluster.dispatch.losses import Patience
from cluster.dispatch.slots import Slots
from cluster.study.ledger import Ledger
from cluster.study.trials import Assignment
from trainables.heartbeat import HANG_TIMEOUT_S
from trainables.overlay import as_dict
from trainables.ray_train_loop import EVENTS, FAILURE, read, train_loop

LOOK_S = 1.0  # between two looks at what the trials have said


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """What the process that holds a trial's trainer is given."""

    name: str
    storage: str  # where Train keeps its own files
    num_workers: int
    resources: dict[str, float]  # of each worker
    patience: Patience
    given: dict[str, Any]  # to `ray_train_loop.train_loop`


def run_trials(
    ledger: Ledger, *, slots: Slots, folder: Path, study: str, patience: Patience
) -> None:
    """Run trials of a ledger that stops none early until it has no more.

    Train's own files go to `folder`. Trials of nodes that go continue on others.

    Raises:
        ClusterLostError: If the Ray node of this process dies.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own_node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(own_node, soft=False)
    options: Any = {
        "num_cpus": 0,
        "max_calls": 1,  # Train's signal handler keeps a controller as long as the process
        "max_retries": patience.losses - 1,
        "scheduling_strategy": here,
    }
    fit: Any = ray.remote(**options)(_fit)
    running: dict[Any, _Running] = {}
    with tune.insistent_interrupt():
        while not ledger.is_done:
            while not running or slots.room([trial.share for trial in running.values()]) > 0:
                assignment = ledger.next_trial()
                if assignment is None:
                    break
                share = tune.gpu_share(slots, assignment.config)
                trial = _Running(ledger, assignment, share)
                settings = _settings(assignment, slots, share, folder, study, patience)
                running[fit.remote(settings)] = trial
            ended, _ = ray.wait(list(running), timeout=LOOK_S)
            tune.check_own_node(own_node)
            for trial in running.values():
                trial.pass_on()
            for each in ended:
                running.pop(each).end(_result(each))


def _settings(
    trial: Assignment, slots: Slots, share: float, folder: Path, study: str, patience: Patience
) -> _Fit:
    return _Fit(
        name=f"{study}-{trial.name}",
        storage=str(folder.resolve()),
        num_workers=slots.num_workers,
        resources=slots.bundles(share)[-1],
        patience=patience,
        given={
            "trial": as_dict(trial.config),
            "folder": str(trial.folder),
            "threads": slots.threads,
        },
    )


class _Running:
    """A trial under Train: reads what it says in its folder and tells the ledger."""

    def __init__(self, ledger: Ledger, assignment: Assignment, share: float = 0.0) -> None:
        """Take up a trial whose workers have a `share` of a GPU each.

        What an earlier driver's run of it said is dropped, and said again.
        """
        self.share = share
        self._ledger = ledger
        self._number = assignment.number
        self._events = assignment.folder / EVENTS
        self._failure = assignment.folder / FAILURE
        self._num_told = 0
        for file in (self._events, self._failure):
            file.unlink(missing_ok=True)

    def pass_on(self) -> None:
        """Pass on the reports that are new; a worker that was restarted says the old ones too."""
        events = read(self._events) or []
        reports = [event for kind, event in events if kind == "Report"]
        for report in reports[self._num_told :]:
            stop = self._ledger.report(self._number, report)
            assert not stop, "a trial under Train is not stopped early"
            self._num_told += 1

    def end(self, error: str | None) -> None:
        """Pass on how the trial ended; `error` is Train's, if it gave up."""
        self.pass_on()
        reason = read(self._failure) or error
        events = read(self._events) or []
        if reason is None and events and events[-1][0] == "Outcome":
            self._ledger.complete(self._number, events[-1][1])
        else:
            self._ledger.fail(self._number, reason or "the run ended without an outcome")


def _result(ended: Any) -> str | None:
    """Return why a run that has ended failed, if it did."""
    import ray

    try:
        error: str | None = ray.get(ended)
    except ray.exceptions.RayError as lost:  # the process with the trainer, again and again
        return _line(lost)
    return error


def _fit(fit: _Fit) -> str | None:
    """Run a trial in this process' trainer; return why it failed, if it did.

    Lack of memory is no failure: each start after it takes half the tokens at once.
    """
    import os

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths are the driver's
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from trainables.ray_trainable import HALVED

    patience = fit.patience
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=fit.given,
        scaling_config=ray.train.ScalingConfig(
            num_workers=fit.num_workers,
            use_gpu="GPU" in fit.resources,
            resources_per_worker=fit.resources,
        ),
        run_config=ray.train.RunConfig(
            name=fit.name,
            storage_path=fit.storage,
            failure_config=ray.train.FailureConfig(max_failures=patience.losses - 1),
        ),
        torch_config=TorchConfig(timeout_s=math.ceil(patience.hang_timeout_s or HANG_TIMEOUT_S)),
    )
    while True:
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            failures = list(error.worker_failures.values())
            if not any(HALVED in str(failure) for failure in failures):
                return _line(failures[0])
        except ray.train.TrainingFailedError as error:
            return _line(error)
        else:
            return None


def _line(error: BaseException) -> str:
    """Return an error in one line; Train's own are the traceback of what a worker raised."""
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
    if lines[0].startswith("Traceback"):
        return lines[-1].strip()
    return f"{type(error).__name__}: {lines[0].strip()}"
