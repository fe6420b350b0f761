"""The adapter to Ray Train: what each worker of one trial's run does.

The trial's folder is all that is kept; Train is given no checkpoint and asked for none. Whoever
drives the run reads there, each file whole or not there,

    events.json     what the trial has said, as [kind, fields], from its first report on
    failure.json    why it cannot be finished, by whichever worker found out
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.overlay import from_dict

EVENTS, FAILURE = "events.json", "failure.json"


def train_loop(given: dict[str, Any]) -> None:
    """Run the trial on this worker, in the process group that Train has made.

    `given` has the configuration as plain values, the folder and the threads of a worker. In a
    group that is made again after a worker died, the trial goes on from its own checkpoint.
    """
    folder = Path(given["folder"])
    if read(folder / FAILURE):  # the group before this one came to it
        return
    import ray.train
    import torch

    from trainables import engine, trial

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(given["threads"])
    engine.join_process_group(rank, world_size, "")
    session = trial.Session(rank=rank, folder=folder)
    events: list[tuple[str, dict[str, Any]]] = []
    try:
        for event in trial.run(from_dict(given["trial"]), session):
            events.append((type(event).__name__, asdict(event)))
            if rank == 0:
                _write(folder / EVENTS, events, rank)
    except Exception as error:
        final = _is_final(error, world_size)
        if final:
            lines = str(error).strip().splitlines() or ["no message"]
            _write(folder / FAILURE, f"{type(error).__name__}: {lines[0]}", rank)
        if world_size > 1 or not final:  # the others may wait for this one in a collective
            raise


def _is_final(error: Exception, world_size: int) -> bool:
    """Return whether the trial itself is at fault, so that starting it again would not help.

    Among several workers, what torch raises may only say that one of them is gone.
    """
    from trainables.engine import MiniBatchHalvedError, TrainingError
    from trainables.probes import ProbeError

    if isinstance(error, MiniBatchHalvedError):
        return False
    ours = isinstance(error, TrainingError | ProbeError)
    return ours or world_size == 1 or not isinstance(error, RuntimeError | OSError)


def read(file: Path) -> Any:
    """Return what a file of the folder says; None if there is none."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def _write(file: Path, content: Any, rank: int) -> None:
    """Write a file that a kill leaves whole, or as it was; several ranks may do so at once."""
    partial = file.with_suffix(f".partial-{rank}")
    partial.write_text(json.dumps(content))
    partial.replace(file)
