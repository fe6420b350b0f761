"""Trials in worker processes, which a fork server makes after one import for all."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch

from trainables import engine, trial
from trainables.config import TrialConfig
from trainables.warm import Warm

TIMEOUT_S = 120.0

Group = list[ProcessPoolExecutor]
Reports = list[tuple[trial.Report, ...]]  # of each report, all ranks'


def _enter(root: Path, rank: int, world_size: int, address: str) -> None:
    """Make this process a worker; relative names from `root` give every run the same digests."""
    os.chdir(root)
    torch.set_num_threads(1)
    engine.join_process_group(rank, world_size, address)


@contextlib.contextmanager
def opened(num_workers: int, root: Path) -> Iterator[Group]:
    """Open a group of workers that have joined each other."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["trainables.trial", "deepspeed"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    group = [
        ProcessPoolExecutor(
            1, context, initializer=_enter, initargs=(root, rank, num_workers, address)
        )
        for rank in range(num_workers)
    ]
    for task in [worker.submit(os.getpid) for worker in group]:
        task.result(TIMEOUT_S)
    try:
        yield group
    finally:
        for worker in group:
            worker.shutdown(cancel_futures=True)


def drive(config: TrialConfig, rank: int, folder: Path, num_events: int) -> list[Any]:
    """Run a trial up to a number of reports (one more is the outcome) and close it."""
    events = trial.run(config, trial.Session(rank=rank, folder=folder))
    with contextlib.closing(cast("Generator[Any]", events)):
        return list(itertools.islice(events, num_events))


def drive_with(environment: dict[str, str], config: TrialConfig, folder: Path) -> list[Any]:
    """Run a trial of one worker to its end, with more in the environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        return list(trial.run(config, trial.Session(rank=0, folder=folder)))
    finally:
        os.environ.clear()
        os.environ.update(before)


_WARM = Warm()  # of each worker process


def drive_warm(config: TrialConfig, folder: Path, num_events: int) -> list[Any]:
    """Run a trial as `drive` does, with what this process keeps from its trials."""
    events = trial.run(config, trial.Session(rank=0, folder=folder, warm=_WARM))
    with contextlib.closing(cast("Generator[Any]", events)):
        return list(itertools.islice(events, num_events))


def reports(group: Group, config: TrialConfig, folder: Path, num: int) -> Reports:
    """Train on the group's workers up to a number of reports."""
    tasks = [w.submit(drive, config, rank, folder, num) for rank, w in enumerate(group)]
    return list(zip(*(task.result(TIMEOUT_S) for task in tasks), strict=True))


def outcomes(group: Group, config: TrialConfig, folder: Path) -> list[trial.Outcome]:
    """Run a trial to its end; return each rank's outcome."""
    num = config.training.steps + 1
    tasks = [w.submit(drive, config, rank, folder, num) for rank, w in enumerate(group)]
    return [task.result(TIMEOUT_S)[-1] for task in tasks]


def numbers(reported: Reports) -> list[tuple[int, float, float, float]]:
    """Return what a resumed trial must repeat to the bit."""
    return [(r.step, r.loss, r.quick_score, r.temperature) for ranks in reported for r in ranks]


def drive_and_die(
    config: TrialConfig, folder: Path, event: str, path: str, *, num_events: int
) -> None:
    """Run a trial; after some reports, kill this process as it is about to do `event`."""

    def kill(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and str(arguments[0]).endswith(path):
            os.kill(os.getpid(), signal.SIGKILL)

    events = trial.run(config, trial.Session(rank=0, folder=folder))
    for _ in range(num_events):
        next(events)
    sys.addaudithook(kill)
    next(events)
