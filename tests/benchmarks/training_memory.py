"""The peak memory of training steps, each side's in a process of its own.

Printed is what steps need on top of the loaded model: the peak less what was in use before.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.training_setting import Batch, Setting, batches

NUM_STEPS = 4
_MIB = 1 << 20


def compare_peaks(
    setting: Setting, *, mini_batch_tokens: int | None = None, mini_batch_size: int | None = None
) -> str:
    """Return a line with both sides' peaks; the sizes are of ours and of the peer's passes."""
    ours = _in_process("ours", setting, mini_batch_tokens)
    theirs = _in_process("theirs", setting, mini_batch_size)
    kind = "plain" if mini_batch_size is None else "cached"
    name = f"peak memory, {kind}, {setting.batch_size} x {setting.max_tokens} tokens"
    return f"{name}: ours {ours:.0f} MiB, theirs {theirs:.0f} MiB  {theirs / ours:5.2f}x"


def _in_process(side: str, setting: Setting, size: int | None) -> float:
    """Return the peak in MiB of one side in a new process."""
    arguments = json.dumps({"setting": dataclasses.asdict(setting), "size": size})
    command = [sys.executable, "-m", "tests.benchmarks.training_memory", side, arguments]
    # What is freed goes back at once, so that the peak is of what is alive and not of gaps.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        command,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=settings,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the peak of a side's steps in MiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "theirs"))
    parser.add_argument("arguments", type=json.loads)
    given = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    setting = Setting(**given.arguments["setting"])
    step = _step(given.side, setting, given.arguments["size"])
    texts = list(itertools.islice(batches(setting), NUM_STEPS))
    before = _restart(setting.device)
    for batch in texts:
        step(batch)
    sys.stdout.write(f"{(_peak(setting.device) - before) / _MIB}\n")


def _step(side: str, setting: Setting, size: int | None) -> Callable[[Batch], float]:
    if side == "theirs":
        from tests.benchmarks.training_peers import peer

        return peer(setting, size)
    from tests.benchmarks.training_ours import Trainer
    from trainables.memory import bound_caches
    from trainables.packing import num_mini_batches

    bound_caches()  # as every trial does

    trainer = Trainer(setting, deepspeed=setting.device == "cpu")
    return trainer.step(None if size is None else partial(num_mini_batches, budget=size))


def _restart(device: str) -> int:
    """Start a new peak; return the bytes in use."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # or loading's own peak would hide that of steps
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
