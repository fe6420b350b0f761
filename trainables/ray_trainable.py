"""The one adapter to Ray: a Tune trainable that owns a warm group of workers.

The group outlives its trials (`reuse_actors=True`), so that imports and the process group are paid
for once. A trial's state lives in its own folder, not in Ray: whoever starts the same trial again,
in this group or another, continues from the checkpoint there.
"""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainables.heartbeat import Watch
from trainables.overlay import from_dict

if TYPE_CHECKING:
    from trainables.trial import Outcome, Report, Scored

HALVED = "MiniBatchHalvedError"  # of `trainables.engine`, which takes seconds to import
START_TIMEOUT_S = 3600.0  # for workers to start and to find each other
POLL_S = 5.0  # how often a group that waits looks at the heartbeat
GRACE_S = 10.0  # for the death of one worker to show after another's error, which it may explain


class WorkerHungError(RuntimeError):
    """A worker did not answer in time."""


class TrialWorker:
    """One rank of a trial: a Ray actor that advances the trial's generator when told to."""

    def __init__(self, rank: int, world_size: int, num_threads: int) -> None:
        """Import the heavy libraries once; `num_threads` bounds torch's CPU threads."""
        import torch

        from trainables import engine, trial
        from trainables.warm import Warm

        torch.set_num_threads(num_threads)
        self._warm = Warm()
        self._trial = trial
        self._engine = engine
        self._rank = rank
        self._world_size = world_size
        self._events: Iterator[Report | Scored | Outcome] = iter(())

    def address(self) -> str:
        """Return `host:port` with a free port of this worker's machine, for the rendezvous."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def is_alive(self) -> bool:
        """Return true; a worker that died cannot."""
        return True

    def join(self, address: str) -> None:
        """Join the group's process group; the workers of a group do this together."""
        self._engine.join_process_group(self._rank, self._world_size, address)

    def start(self, config: dict[str, Any], folder: str) -> None:
        """Put down the last trial and take up a new one."""
        self.stop()
        session = self._trial.Session(rank=self._rank, folder=Path(folder), warm=self._warm)
        self._events = self._trial.run(from_dict(config), session)

    def advance(self) -> tuple[str, dict[str, Any]]:
        """Train to the next report, or to the outcome; return its kind and its fields."""
        event = next(self._events)
        return type(event).__name__, asdict(event)

    def stop(self) -> None:
        """Close the trial's generator, which frees all that it holds."""
        close = getattr(self._events, "close", None)
        if close is not None:
            close()
        self._events = iter(())
        gc.freeze()  # the libraries are left: collecting among them takes 0.3 s


class TrialGroup(tune.Trainable):
    """What Tune starts, stops and hands the next trial to."""

    worker: type = TrialWorker
    _workers: list[Any]
    _folder: Path
    _watch: Watch

    def setup(self, config: dict[str, Any]) -> None:
        """Make the workers if there are none and start the trial on each."""
        self._folder = Path(config["folder"])
        self._watch = Watch(self._folder, config["hang_timeout_s"])
        if not getattr(self, "_workers", None):
            self._workers = self._make_workers(config["threads"])
        self._get([w.start.remote(config["trial"], config["folder"]) for w in self._workers])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial with the same workers."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Advance to the next report; a trial that raises ends as failed, with its reason."""
        events = None
        while events is None:
            try:
                pending = [worker.advance.remote() for worker in self._workers]
                events = self._get(pending, self._watch)
            except ray.exceptions.RayTaskError as error:
                self._raise_if_one_died()
                self._kill_workers()  # the others may wait for the failed one in a collective
                reason = _reason(error)
                if not reason.startswith(HALVED):
                    return {"kind": "Failure", "event": json.dumps(reason), "done": True}
                self.setup(self.config)  # goes on with less at once, as its folder says now
        kind, event = events[0]  # the ranks' events differ in nothing but seconds
        return {"kind": kind, "event": json.dumps(event), "done": kind == "Outcome"}

    def cleanup(self) -> None:
        """End the workers with the group."""
        self._kill_workers()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return nothing to keep: the trial's folder holds its checkpoints."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Do nothing: the trial continued from its folder when it was started."""

    def _make_workers(self, threads: int) -> list[Any]:
        group = ray.util.get_current_placement_group()
        assert isinstance(group, PlacementGroup)
        world_size = group.bundle_count - 1
        actor: Any = ray.remote(self.worker)
        workers: list[Any] = []
        for rank in range(world_size):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank + 1)
            bundle = group.bundle_specs[rank + 1]
            options = actor.options(
                num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=place
            )
            workers.append(options.remote(rank, world_size, threads))
        address = self._get([workers[0].address.remote()])[0]
        self._get([worker.join.remote(address) for worker in workers])
        return workers

    def _kill_workers(self) -> None:
        for worker in getattr(self, "_workers", []):
            ray.kill(worker)
        self._workers = []

    def _get(self, references: list[Any], watch: Watch | None = None) -> list[Any]:
        """Return all results; raise the first error at once, even if others never answer.

        Raises:
            WorkerHungError: If the trial's heart does not beat for too long.
        """
        pending, watch = list(references), watch or Watch(self._folder, START_TIMEOUT_S)
        watch.begin()
        while pending:
            poll = min(POLL_S, watch.timeout_s / 4)
            ready, pending = ray.wait(pending, num_returns=1, timeout=poll)
            ray.get(ready)
            if ready:
                watch.begin()
            elif watch.is_hung():
                self._kill_workers()
                raise WorkerHungError(_silence(watch, is_step=watch is self._watch))
        return list(ray.get(references))

    def _raise_if_one_died(self) -> None:
        """Raise the error of a worker that died: another's error may be that it is gone."""
        if len(self._workers) == 1:
            return
        signs = [worker.is_alive.remote() for worker in self._workers]
        ready, _ = ray.wait(signs, num_returns=len(signs), timeout=GRACE_S)
        ray.get(ready)


def _silence(watch: Watch, *, is_step: bool) -> str:
    """Return in words that a trial has been silent for too long, at a step or before the first."""
    if not is_step:
        return f"the workers did not start within {watch.timeout_s:.0f} s"
    remedy = "if steps take that long, give --hang-timeout more"
    return f"no worker took a step for {watch.timeout_s:.0f} s; {remedy}"


def _reason(error: ray.exceptions.RayTaskError) -> str:
    """Return the error of a trial in one line."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
