"""The fp32 weights of every trained parameter and AdamW's moments, whole, under any ZeRO stage.

Stage 0 updates the parameters themselves or, in bf16, an fp32 copy of each. Stages 1 to 3 update
flat fp32 tensors of which every worker has a part. All of it comes out and goes in by the
parameters' names here, so that what one stage wrote another reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names
PARTS = (WEIGHT, *MOMENTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Masters:
    """What AdamW works on, by the parameters' names, and the steps that it has taken."""

    parts: dict[str, dict[str, Tensor]]  # each of PARTS, fp32; `gather` fills them on rank 0 only
    step: int


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trained parameters by name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return a parameter's whole shape; stage 3 leaves an empty tensor where it was."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@torch.no_grad()
def gather(engine: Any) -> Masters:
    """Return the masters of all workers, which call this together; they may alias the engine's."""
    _start_moments(engine)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    own = _own(engine)
    for name, parameter in trained(engine.module):
        for part, values in parts.items():
            value = _read(engine, own, parameter, part)
            if distributed.get_rank() == 0:
                values[name] = value.detach().to("cpu", torch.float32).contiguous()
    state = engine.basic_optimizer.state
    steps = {int(state[tensor]["step"]) for tensor in _updated(engine)}
    assert len(steps) == 1, steps  # every trained parameter has a gradient: probes saw to it
    return Masters(parts=parts, step=steps.pop())


@torch.no_grad()
def put(engine: Any, masters: Masters) -> None:
    """Continue from `masters`, whole on every worker, as if the engine had come to them itself."""
    _start_moments(engine)
    own, state = _own(engine), engine.basic_optimizer.state
    for name, parameter in trained(engine.module):
        for part, values in masters.parts.items():
            _write(engine, own, parameter, part, values[name].to(engine.device))
    for tensor in _updated(engine):
        state[tensor]["step"].fill_(masters.step)
    _refresh(engine, masters.parts[WEIGHT])


def _own(engine: Any) -> dict[Tensor, Tensor]:
    """Return the tensor that AdamW updates for each parameter, where it has one: in stage 0."""
    if engine.zero_optimization_stage() > 0:
        return {}
    optimizer = engine.optimizer
    if optimizer is engine.basic_optimizer:
        return {p: p for group in optimizer.param_groups for p in group["params"]}
    low, high = chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups)
    return dict(zip(low, high, strict=True))


def _updated(engine: Any) -> list[Tensor]:
    """Return the tensors that this worker's AdamW updates."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return list(_own(engine).values())
    name = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    tensors: list[Tensor] = getattr(engine.optimizer, name)
    return tensors


def _start_moments(engine: Any) -> None:
    """Give AdamW the state that it makes before its first step, where it has none yet."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    state = engine.basic_optimizer.state
    for tensor in _updated(engine):
        if not state[tensor]:
            state[tensor]["step"] = torch.tensor(0.0)
            state[tensor] |= {name: torch.zeros_like(tensor) for name in MOMENTS}
    if engine.zero_optimization_stage() in (1, 2):
        for group, tensor in zip(engine.optimizer.bit16_groups, _updated(engine), strict=True):
            lazy_init_hp_params_optimizer_state(group, tensor, state)


def _read(engine: Any, own: dict[Tensor, Tensor], parameter: Tensor, part: str) -> Tensor:
    """Return a part of a parameter, whole; with stages 1 to 3 all workers call this together."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    value: Tensor
    if own:
        master = own[parameter]
        value = master if part == WEIGHT else engine.basic_optimizer.state[master][part]
    elif part == WEIGHT:
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, part)
    return value


def _write(
    engine: Any, own: dict[Tensor, Tensor], parameter: Tensor, part: str, value: Tensor
) -> None:
    """Set a part of a parameter, of which every worker has the whole and keeps its share."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if own:
        _read(engine, own, parameter, part).copy_(value)
    elif engine.zero_optimization_stage() == 3:
        _write_share(parameter, part, value.flatten())
    elif part == WEIGHT:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, part)


def _write_share(parameter: Any, part: str, value: Tensor) -> None:
    """Set this worker's share under stage 3.

    DeepSpeed's own function for the whole parameter fails where it has to be padded for its shares
    to be equal.
    """
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.ds_numel
    padded = functional.pad(value, (0, size * distributed.get_world_size() - len(value)))
    share = padded.narrow(0, size * distributed.get_rank(), size)
    if part == WEIGHT:
        safe_set_local_fp32_param(parameter, share)
    else:
        safe_set_local_optimizer_state(parameter, share, part)


def _refresh(engine: Any, weights: dict[str, Tensor]) -> None:
    """Make the weights that the model computes with anew from the fp32 ones, as a step does."""
    import deepspeed

    stage = engine.zero_optimization_stage()
    if stage == 0:
        for parameter, master in _own(engine).items():
            parameter.copy_(master)
    elif stage < 3:
        engine.optimizer.update_lp_params()
    else:
        named = trained(engine.module)
        with deepspeed.zero.GatheredParameters([p for _, p in named], modifier_rank=0):
            for name, parameter in named:
                parameter.copy_(weights[name])
