"""A user's own DeepSpeed settings, laid over those that a trial's configuration makes.

They are for what no field says: bucket sizes, prefetching, communication, profilers. A setting
that a field makes is refused with the field's name, and so is what would need a C++ build.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from trainables.faults import text

OPEN = (
    "zero_optimization",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "sparse_gradients",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "flops_profiler",
    "tensorboard",
    "csv_monitor",
)
_AMP = "set engine.precision"
_BATCH = "set training.batch_size"
_ADAMW = "it is always torch's AdamW"
_BUILD = "it needs a C++ build"
_CHECKPOINT = "checkpoints are our own"
OWNED = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": f"{_BATCH} and engine.num_workers",
    "gradient_accumulation_steps": f"{_BATCH}, whose texts are each other's negatives",
    "gradient_clipping": "set training.max_grad_norm",
    "optimizer": "set training.learning_rate and training.weight_decay",
    "scheduler": "set training.schedule and training.warmup_steps",
    "bf16": _AMP,
    "fp16": _AMP,
    "amp": _AMP,
    "torch_autocast": _AMP,
    "data_types": _AMP,
    "activation_checkpointing": "set training.gradient_checkpointing",
    "zero_allow_untested_optimizer": _ADAMW,
    "zero_force_ds_cpu_optimizer": _ADAMW,
    "checkpoint": _CHECKPOINT,
    "zero_optimization.stage": "set engine.zero_stage",
    "zero_optimization.cpu_offload": "set engine.offload_optimizer",
    "zero_optimization.cpu_offload_param": "set engine.offload_parameters",
    "zero_optimization.offload_optimizer.device": "set engine.offload_optimizer",
    "zero_optimization.offload_optimizer.ratio": _ADAMW,
    "zero_optimization.offload_optimizer.super_offload": _BUILD,
    "zero_optimization.offload_param.device": "set engine.offload_parameters",
    "zero_optimization.zenflow": _BUILD,
    "zero_optimization.zero_quantized_weights": _BUILD,
    "zero_optimization.zero_quantized_nontrainable_weights": _BUILD,
    "zero_optimization.zero_quantized_gradients": _BUILD,
    "zero_optimization.compute_grad_norm": "training.max_grad_norm needs the norm",
    "zero_optimization.round_robin_gradients": "checkpoints go by the parameters' order",
    "zero_optimization.load_from_fp32_weights": _CHECKPOINT,
    "zero_optimization.elastic_checkpoint": _CHECKPOINT,
}
_OFFLOADS = {
    "offload_optimizer": "engine.offload_optimizer",
    "offload_param": "engine.offload_parameters",
}


def fault(value: object, *, offload_optimizer: bool, offload_param: bool) -> str | None:
    """Return what is wrong with a JSON text of settings; an empty text is none.

    >>> fault('{"bf16": {}}', offload_optimizer=False, offload_param=False)
    'expected only settings that no field makes, got bf16 (set engine.precision)'
    """
    if text(value):
        return text(value)
    try:
        given = parsed(str(value))
    except ValueError:
        return f"expected a JSON object, got {value!r}"
    offloaded = {"offload_optimizer": offload_optimizer, "offload_param": offload_param}
    found = [f"{name} ({reason})" for name, reason in _refused(given, offloaded).items()]
    return f"expected only settings that no field makes, got {', '.join(found)}" if found else None


def _refused(given: Mapping[str, Any], offloaded: Mapping[str, bool]) -> dict[str, str]:
    """Return each setting that a user cannot make, with the reason."""
    found = {name: _unknown(name) for name in given if name not in (*OPEN, *OWNED)}
    found |= {name: reason for name, reason in OWNED.items() if _has(given, name)}
    for name, field in _OFFLOADS.items():
        if _has(given, f"zero_optimization.{name}") and not offloaded[name]:
            found[f"zero_optimization.{name}"] = f"set {field}"
    return found


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, OPEN, n=1)
    return f"did you mean {near[0]}?" if near else f"open are {', '.join(OPEN)}"


def _has(given: Mapping[str, Any], name: str) -> bool:
    """Return whether nested settings hold a dotted name."""
    first, _, rest = name.partition(".")
    if first not in given:
        return False
    return not rest or (isinstance(given[first], Mapping) and _has(given[first], rest))


def parsed(value: str) -> dict[str, Any]:
    """Return the settings in a JSON text; none in an empty one.

    Raises:
        ValueError: If it is no JSON object.
    """
    given = json.loads(value) if value else {}
    if not isinstance(given, dict):
        raise ValueError(value)
    return given


def canonical(value: str) -> str:
    """Return the one text for equal settings.

    >>> canonical('{"b": 1, "a":  2}'), canonical("{}")
    ('{"a":2,"b":1}', '')
    """
    given = parsed(value)
    return json.dumps(given, sort_keys=True, separators=(",", ":")) if given else ""


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those in `over` in their place or beside them.

    >>> merged({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": 4})
    {'a': {'b': 1, 'd': 3}, 'c': 4}
    """
    result = dict(settings)
    for name, value in over.items():
        inner = result.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[name] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result
