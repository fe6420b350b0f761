"""Faster kernels for what surrounds attention and matrix products, where a machine has them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from trainables.config import EngineConfig
from trainables.faults import check

LIGER = "liger_kernel"


def check_kernels(config: EngineConfig) -> None:
    """Refuse kernels that are not installed.

    Raises:
        ConfigError: With what to install.
    """
    missing = config.liger_kernels and importlib.util.find_spec(LIGER) is None
    fault = "expected false without the package, got true; pip install liger-kernel"
    check({"engine.liger_kernels": fault if missing else None})


def use_liger(decoder: Any) -> None:
    """Give a decoder Liger's norms and gated units (Hsu et al., arXiv 2410.10989), in place.

    Liger replaces the names in the family's module too, which would reach into later trials of the
    process; those are put back.
    """
    patches = importlib.import_module(f"{LIGER}.transformers.monkey_patch")
    module = vars(sys.modules[type(decoder).__module__])
    before = dict(module)
    try:
        patches._apply_liger_kernel_to_instance(
            decoder, rope=False, cross_entropy=False, fused_linear_cross_entropy=False
        )
    finally:
        module.update(before)


def forget_compiled() -> None:
    """Drop compiled code, which would count against the next trial's in the same process."""
    importlib.import_module("torch._dynamo").reset()


def compile_layers(decoder: Any) -> None:
    """Compile norms and gated units of every layer, in place, for any number of tokens.

    Attention is left alone: its blocks are of other sizes at each step.
    """
    for layer in decoder.layers:
        for name in ("input_layernorm", "mlp", "post_attention_layernorm"):
            if hasattr(layer, name):
                getattr(layer, name).compile(dynamic=True)
