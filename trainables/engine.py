"""The DeepSpeed engine of one trial: its settings, the process group, checkpoints and weights."""

from __future__ import annotations

import gc
import inspect
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup

from trainables.config import EngineConfig, TrainingConfig

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU
_LINEAR = functional.linear  # as torch has it, before DeepSpeed is imported
LATEST = "latest"  # DeepSpeed's own name for the file that points at the newest checkpoint


class TrainingError(RuntimeError):
    """Training cannot go on."""


def device() -> torch.device:
    """Return the device that this process trains on."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def join_process_group(rank: int, world_size: int, address: str) -> None:
    """Join (or, for rank 0, open) the process group of a trial's workers at `tcp://address`."""
    import deepspeed
    import deepspeed.ops

    # On a CPU, init_distributed would compile a C++ operator for a minute or two; gloo needs none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ.setdefault("LOCAL_RANK", "0")
    dist.init_process_group(
        backend, init_method=f"tcp://{address}", rank=rank, world_size=world_size
    )
    deepspeed.init_distributed(backend, dist_init_required=False, verbose=False)


def deepspeed_settings(engine: EngineConfig, training: TrainingConfig) -> dict[str, Any]:
    """Return DeepSpeed's JSON configuration.

    >>> deepspeed_settings(EngineConfig(), TrainingConfig())["zero_optimization"]["stage"]
    2
    """
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // engine.num_workers,
        "gradient_clipping": training.max_grad_norm,
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own needs a C++ build
        "zero_optimization": {"stage": engine.zero_stage},
        "bf16": {"enabled": engine.precision == "bf16"},
        "steps_per_print": 1_000_000_000,
    }


def initialize(model: nn.Module, settings: EngineConfig, training: TrainingConfig) -> Any:
    """Return DeepSpeed's engine around `model` with AdamW and a linear schedule with warm-up."""
    import deepspeed

    groups = parameter_groups(model, training)
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, training.warmup_steps, training.steps)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_settings(settings, training),
        dist_init_required=False,
    )
    return engine


def parameter_groups(model: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Return the trained parameters: LoRA, and what starts from nothing, under its own rate."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    lora = [p for name, p in named if "lora_" in name]
    new = [p for name, p in named if "lora_" not in name]
    groups = [
        {"params": lora, "lr": training.learning_rate},
        {"params": new, "lr": training.head_learning_rate},
    ]
    return [group for group in groups if group["params"]]


def sum_over_workers(value: Tensor) -> Tensor:
    """Return the sum of a number over all workers, without a gradient."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def finite_mean(loss: Tensor, name: str) -> float:
    """Return the workers' mean loss of the step `name`.

    Raises:
        TrainingError: If it is not finite; every worker raises it.
    """
    num_workers = dist.get_world_size() if dist.is_initialized() else 1
    value = sum_over_workers(loss).item() / num_workers
    if not math.isfinite(value):
        raise TrainingError(f"loss: expected a finite number, got {value} at {name}")
    return value


def take_step(engine: Any, loss: Tensor, name: str) -> float:
    """Take the optimiser step `name` on the workers' mean loss, and return that.

    Raises:
        TrainingError: If the loss is not finite; every worker raises it.
    """
    value = finite_mean(loss, name)
    engine.backward(loss)
    engine.step()
    return value


def save_checkpoint(engine: Any, folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write trainable weights, optimiser, each rank's RNG and `state`; older ones are removed.

    A kill at any moment leaves a whole checkpoint: the pointer file is replaced last, when every
    rank has written its part.
    """
    tag = f"step-{step:06d}"
    (folder / tag).mkdir(parents=True, exist_ok=True)
    own = {"state": state, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda_rng"] = torch.cuda.get_rng_state()
    torch.save(own, folder / tag / f"rank-{dist.get_rank()}.pt")
    engine.save_checkpoint(  # ends with a barrier
        str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True
    )
    if dist.get_rank() == 0:
        pointer = folder / f"{LATEST}.partial"
        pointer.write_text(tag)
        pointer.replace(folder / LATEST)
        for other in folder.glob("step-*"):
            if other.name != tag:
                shutil.rmtree(other)


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any] | None:
    """Continue from the newest checkpoint in `folder`, if any, and return this rank's `state`."""
    if not (folder / LATEST).is_file():
        return None
    path, _ = engine.load_checkpoint(str(folder), load_module_strict=False)
    own = torch.load(Path(path).parent / f"rank-{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(own["rng"])
    if "cuda_rng" in own:
        torch.cuda.set_rng_state(own["cuda_rng"])
    state: dict[str, Any] = own["state"]
    return state


def release(engine: Any) -> None:
    """Let go of an engine and of what stage 3 leaves behind in its process.

    DeepSpeed keeps modules of the last model in two places and leaves torch's `linear` replaced,
    so without this the next trial would differ in its last bits and memory would grow.
    """
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import (
        PartitionedParameterCoordinator as Coordinator,
    )

    engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()
    name = "_PartitionedParameterCoordinator__params_to_release"
    inspect.getclosurevars(vars(Coordinator)[name]).nonlocals["func"].cache_clear()
    functional.linear = _LINEAR


def free_memory() -> None:
    """Give back the memory of what was let go; an engine and its model refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def save_weights(model: nn.Module, file: Path, notes: dict[str, str] | None = None) -> None:
    """Write the trainable weights, whole, as one safetensors file with `notes` as its metadata.

    Every worker must call this; when it returns the file is there for all of them.
    """
    import deepspeed

    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with deepspeed.zero.GatheredParameters([p for _, p in named]):
        if dist.get_rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            save_file({name: p.detach().cpu().contiguous() for name, p in named}, partial, notes)
            partial.replace(file)
    dist.barrier()


def load_weights(model: nn.Module, file: Path) -> None:
    """Put what `save_weights` wrote into a model that is in no engine yet."""
    unknown = model.load_state_dict(load_file(file), strict=False).unexpected_keys
    assert not unknown, unknown


def quiet_deepspeed() -> None:
    """Keep DeepSpeed's information and known harmless warnings off the console."""
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="deepspeed")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
