"""The DeepSpeed engine of one trial: its process group, its settings, its steps, its weights."""

from __future__ import annotations

import gc
import inspect
import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from trainables import deepspeed_overlay, lora
from trainables.config import ConfigError, EngineConfig, TrainingConfig
from trainables.fingerprint import fingerprint

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU
_LINEAR = functional.linear  # as torch has it, before DeepSpeed is imported


class TrainingError(RuntimeError):
    """Training cannot go on."""


class MiniBatchHalvedError(TrainingError):
    """A forward pass took more memory than there is; the next one will take half the tokens."""


def device() -> torch.device:
    """Return the device that this process trains on."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def join_process_group(rank: int, world_size: int, address: str) -> None:
    """Join (or, for rank 0, open) the process group of a trial's workers at `tcp://address`.

    One that is there already, as under Ray Train, is taken.
    """
    import deepspeed
    import deepspeed.ops

    # On a CPU, init_distributed would compile a C++ operator for a minute or two; gloo needs none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        dist.init_process_group(
            backend, init_method=f"tcp://{address}", rank=rank, world_size=world_size
        )
    deepspeed.init_distributed(backend, dist_init_required=False, verbose=False)


def deepspeed_settings(engine: EngineConfig, training: TrainingConfig) -> dict[str, Any]:
    """Return DeepSpeed's JSON configuration, the user's own settings included.

    >>> deepspeed_settings(EngineConfig(), TrainingConfig())["zero_optimization"]["stage"]
    2
    """
    offloaded = {
        "offload_optimizer": engine.offload_optimizer,
        "offload_param": engine.offload_parameters,
    }
    zero = {name: {"device": "cpu"} for name, wanted in offloaded.items() if wanted}
    settings = {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // engine.num_workers,
        "gradient_clipping": training.max_grad_norm,
        # torch's AdamW, offloaded or not: DeepSpeed's own ones need a C++ build
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": engine.zero_stage, **zero},
        "bf16": {"enabled": engine.precision == "bf16"},
        "steps_per_print": 1_000_000_000,
    }
    return deepspeed_overlay.merged(settings, deepspeed_overlay.parsed(engine.deepspeed))


def check_overlay(engine: EngineConfig) -> None:
    """Have DeepSpeed check the user's own ZeRO settings, if there are any.

    Raises:
        ConfigError: With every setting that it does not know or cannot take.
    """
    if not engine.deepspeed:
        return
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**deepspeed_settings(engine, TrainingConfig())["zero_optimization"])
    except ValidationError as error:
        found = [
            f"zero_optimization.{'.'.join(map(str, fault['loc']))} ({fault['msg']})"
            for fault in error.errors()
        ]
        text = f"expected settings that DeepSpeed takes, got {', '.join(found)}"
        raise ConfigError(f"engine.deepspeed: {text}") from error


def initialize(model: nn.Module, settings: EngineConfig, training: TrainingConfig) -> Any:
    """Return DeepSpeed's engine around `model` with AdamW and a schedule with warm-up.

    Its `base_model` is the fingerprint of the frozen parameters, which stage 3 takes apart.
    """
    import deepspeed
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    base_model = fingerprint(model)
    lora.fold(model)
    groups = parameter_groups(model, training)
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    config = deepspeed_settings(settings, training)
    # As large as there is to reduce: DeepSpeed's own buffer would take a gigabyte of a GPU.
    trained = sum(p.numel() for group in groups for p in group["params"])
    config["zero_optimization"].setdefault("reduce_bucket_size", trained)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule(optimizer, training),
        config=config,
        dist_init_required=False,
    )
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):  # bf16 in stage 0
        # It has taken a step without gradients, so that Adam's corrections would be a step ahead.
        engine.basic_optimizer.state.clear()
        engine.optimizer.refresh_fp32_params()
    engine.base_model = base_model
    return engine


def schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig) -> LambdaLR:
    """Return the learning rate's course: up from 0 in the warm-up, then as the schedule says."""
    warmup, steps = training.warmup_steps, training.steps
    made: LambdaLR
    if training.schedule == "constant":
        made = get_constant_schedule_with_warmup(optimizer, warmup)
    elif training.schedule == "cosine":
        made = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    else:
        made = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    return made


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
