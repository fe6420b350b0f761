"""A trial's checkpoints: whole tensors by name, so that any stage and number of workers continues.

    latest                       the name of the newest checkpoint's folder
    step-000004/
        trained.safetensors      the fp32 weights of every trained parameter
        optimizer.safetensors    AdamW's `exp_avg.NAME` and `exp_avg_sq.NAME`
        random.safetensors       the states of each worker's generators, `RANK.cpu`, `RANK.cuda`
        checkpoint.json          the caller's state, steps, schedule, the base model's fingerprint,
                                 who wrote it, and the SHA-256 of each file

The frozen base model is not in it; its fingerprint is, and another base model is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch import distributed as dist

from trainables.engine import TrainingError
from trainables.masters import MOMENTS, WEIGHT, Masters, gather, put, shape, trained

FORMAT = 1
LATEST = "latest"
TRAINED = "trained.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
NOTES = "checkpoint.json"
NAMED = 3  # faults that an error names one by one

_log = logging.getLogger(__name__)


class CheckpointError(TrainingError):
    """A checkpoint cannot be continued from."""


def save(engine: Any, folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step and remove older ones; every worker calls this.

    `state` is what the caller wants back, in JSON's values; that of rank 0 counts. A kill at any
    moment leaves a whole checkpoint: the pointer file is replaced last. The step that it points
    at is not written again.
    """
    masters, random = gather(engine), _random_states()
    tag = f"step-{step:06d}"
    if dist.get_rank() == 0 and _newest(folder) != tag:
        moments = {f"{m}.{n}": t for m in MOMENTS for n, t in masters.parts[m].items()}
        files = {
            TRAINED: to_bytes(masters.parts[WEIGHT]),
            OPTIMIZER: to_bytes(moments),
            RANDOM: to_bytes(random),
        }
        notes = {
            "format": FORMAT,
            "step": step,
            "optimizer_step": masters.step,
            "schedule": engine.lr_scheduler.state_dict(),
            "state": dict(state),
            "num_workers": dist.get_world_size(),
            "zero_stage": int(engine.zero_optimization_stage()),
            "base_model": engine.base_model,
            "sha256": {name: _sha256(content) for name, content in files.items()},
        }
        files[NOTES] = _sealed(notes)
        _write(folder, tag, files)
    dist.barrier()


def _random_states() -> dict[str, Tensor]:
    """Return the states of all workers' generators."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    found: dict[str, Tensor] = {}
    for kind, state in own.items():
        sent = state.cuda() if "cuda" in own else state  # nccl sends nothing from a CPU
        states = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(states, sent)
        found |= {f"{rank}.{kind}": state.cpu() for rank, state in enumerate(states)}
    return found


def _newest(folder: Path) -> str | None:
    """Return the name of the newest checkpoint, if there is any."""
    pointer = folder / LATEST
    return pointer.read_text().strip() if pointer.is_file() else None


def _sealed(notes: Mapping[str, Any]) -> bytes:
    """Return notes as JSON with the SHA-256 of their canonical form inside."""
    seal = _sha256(json.dumps(notes, sort_keys=True).encode())
    return json.dumps({**notes, "seal": seal}, indent=1).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(folder: Path, tag: str, files: Mapping[str, bytes]) -> None:
    """Write a checkpoint beside the others, then point at it, then remove the others."""
    begun = folder / f"{tag}.partial"
    shutil.rmtree(begun, ignore_errors=True)
    shutil.rmtree(folder / tag, ignore_errors=True)  # whole, but never pointed at
    begun.mkdir(parents=True)
    for name, content in files.items():
        _write_file(begun / name, content)
    _flush(begun)
    begun.rename(folder / tag)
    pointer = folder / f"{LATEST}.partial"
    _write_file(pointer, tag.encode())
    _flush(folder)
    pointer.replace(folder / LATEST)
    _flush(folder)
    for other in folder.glob("step-*"):
        if other.name != tag:
            shutil.rmtree(other)


def _write_file(path: Path, content: bytes) -> None:
    """Write a file that outlasts a power cut."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(engine: Any, folder: Path) -> dict[str, Any] | None:
    """Continue from the newest checkpoint in `folder`, if any, and return the caller's state.

    With the workers that wrote it, one goes on to the same bits; several, another number of them
    or another stage go on to rounding. Every worker calls this.

    Raises:
        CheckpointError: If a file is damaged or missing, or if the engine's base model or its
            trained parameters are others; every worker raises it.
    """
    tag = _newest(folder)
    if tag is None:
        return None
    whole = folder / tag
    notes = _read_notes(whole)
    tensors = {name: from_bytes(_read(whole, name, sha)) for name, sha in notes["sha256"].items()}
    _check_base(engine, whole, notes["base_model"])
    _check_trained(engine, whole, tensors[TRAINED])
    put(engine, _masters(tensors, notes["optimizer_step"]))
    _set_schedule(engine, notes)
    _set_random(tensors[RANDOM])
    _tell(engine, whole, notes)
    state: dict[str, Any] = notes["state"]
    return state


def read_weights(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """Return the step of the newest checkpoint in `folder`, if any, and its verified weights."""
    tag = _newest(folder)
    if tag is None:
        return None
    notes = _read_notes(folder / tag)
    weights = from_bytes(_read(folder / tag, TRAINED, notes["sha256"][TRAINED]))
    return notes["step"], weights


def _masters(tensors: Mapping[str, dict[str, Tensor]], step: int) -> Masters:
    weights, moments = tensors[TRAINED], tensors[OPTIMIZER]
    parts = {part: {name: moments[f"{part}.{name}"] for name in weights} for part in MOMENTS}
    return Masters(parts={WEIGHT: weights, **parts}, step=step)


def _read(whole: Path, name: str, sha256: str | None = None) -> bytes:
    """Return a file's content, compared with what was written."""
    path = whole / name
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected {path}, got no such file; {_remedy(whole)}")
    content = path.read_bytes()
    if sha256 not in (None, _sha256(content)):
        raise CheckpointError(_damaged(path))
    return content


def _damaged(path: Path) -> str:
    return f"checkpoint: expected {path} as it was written, got a damaged file; " + _remedy(
        path.parent
    )


def _remedy(whole: Path) -> str:
    return f"remove {whole.parent} to train from the start"


def _read_notes(whole: Path) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = json.loads(_read(whole, NOTES))
        seal = notes.pop("seal")
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(_damaged(whole / NOTES)) from error
    if seal != _sha256(json.dumps(notes, sort_keys=True).encode()):
        raise CheckpointError(_damaged(whole / NOTES))
    if notes["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint: expected {whole} in format {FORMAT}, got {notes['format']}; "
            f"{_remedy(whole)}"
        )
    return notes


def _check_base(engine: Any, whole: Path, base_model: str) -> None:
    if engine.base_model != base_model:
        raise CheckpointError(
            f"checkpoint: expected the base model that {whole} was trained on, in its precision "
            f"(fingerprint {base_model}), got another one (fingerprint {engine.base_model}); "
            f"use that model, or {_remedy(whole)}"
        )


def _check_trained(engine: Any, whole: Path, weights: Mapping[str, Tensor]) -> None:
    saved = {name: tuple(weight.shape) for name, weight in weights.items()}
    wanted = {name: shape(parameter) for name, parameter in trained(engine.module)}
    faults = [f"{name} is new" for name in wanted if name not in saved]
    faults += [f"{name} is gone" for name in saved if name not in wanted]
    faults += [
        f"{name} of shape {wanted[name]} instead of {saved[name]}"
        for name in wanted
        if name in saved and wanted[name] != saved[name]
    ]
    if faults:
        raise CheckpointError(
            f"checkpoint: expected the trained parameters of {whole}, got {_first(faults)}; "
            f"use the design that it was trained with, or {_remedy(whole)}"
        )


def _first(faults: list[str]) -> str:
    """Return the first faults and how many more there are.

    >>> _first(["a is new", "b is new", "c is gone", "d is gone"])
    'a is new, b is new, c is gone and 1 more'
    """
    more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return ", ".join(faults[:NAMED]) + more


def _set_schedule(engine: Any, notes: Mapping[str, Any]) -> None:
    """Put the learning rates where they stood."""
    engine.lr_scheduler.load_state_dict(dict(notes["schedule"]))
    rates: Iterable[float] = notes["schedule"]["_last_lr"]
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    engine.global_steps = notes["step"]
    engine.global_samples = notes["step"] * engine.train_batch_size()


def _set_random(states: Mapping[str, Tensor]) -> None:
    """Put this worker's generators where they stood; a worker that is new gets fresh ones."""
    rank, kinds = dist.get_rank(), ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if not all(f"{rank}.{kind}" in states for kind in kinds):
        seed = _sha256(states["0.cpu"].numpy().tobytes() + str(rank).encode())
        torch.manual_seed(int(seed[:15], 16))
        return
    torch.set_rng_state(states[f"{rank}.cpu"])
    if "cuda" in kinds:
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])


def _tell(engine: Any, whole: Path, notes: Mapping[str, Any]) -> None:
    """Warn of what is not as it was when the checkpoint was written."""
    now = {
        "num_workers": dist.get_world_size(),
        "zero_stage": int(engine.zero_optimization_stage()),
    }
    changed = [
        f"{name} {notes[name]} → {value}" for name, value in now.items() if notes[name] != value
    ]
    if changed and dist.get_rank() == 0:
        _log.warning(
            "%s continues with %s: its losses are equal to rounding only, and workers that are "
            "new draw fresh random numbers",
            whole,
            ", ".join(changed),
        )
