"""Small decoders with everything in them that could go wrong, and embedders around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel

from tests.trainables.model.designs import DEPTH, SMALL
from trainables.build import build
from trainables.config import TrialConfig
from trainables.model.embedder import Embedder
from trainables.model.tokens import Padded
from trainables.overlay import overlay
from trainables.probes import ProbeError

VOCABULARY = 64
WIDTH = 36
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,  # times the number of heads this is not the width
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-3,
    "initializer_range": 0.2,  # so that a layer changes something
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma3_text": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 7,
    },
}
WITHOUT_WINDOWS = ("llama", "qwen2", "qwen3")

Inputs = tuple[Tensor, Tensor, Tensor]


def decoder(family: str, kernel: str = "sdpa", **settings: Any) -> PreTrainedModel:
    """Return a random decoder of a family, the norms and biases random too."""
    config = AutoConfig.for_model(family, **SIZES | FAMILIES.get(family, {}) | settings)
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=kernel)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.requires_grad_(False).eval()
    return model


def embedder(folder: Path, values: Mapping[str, Any], seed: int = 0) -> Embedder:
    """Return a small design around the decoder in a folder, as a trial builds it."""
    torch.manual_seed(seed)
    return build(small(folder, values)).eval()


def small(folder: Path, values: Mapping[str, Any]) -> TrialConfig:
    return overlay(TrialConfig(), {"backbone.model": str(folder), **SMALL, **values})


@torch.no_grad()
def shaken(model: nn.Module) -> Any:
    """Move every trainable number off its start, so that nothing is hidden by a zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts(lengths: Sequence[int] = (9, 6, 4, 9), num_instruction: int = 2) -> Inputs:
    """Return random texts, padded on the right: ids, what is real, and the instructions."""
    width = torch.arange(max(lengths))
    real = width < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(VOCABULARY, real.shape) * real
    return ids, real, real & (width < num_instruction)


def padded(inputs: Inputs, pad: tuple[int, int]) -> Inputs:
    """Return texts under more padding, which is not made of zeros."""
    ids, real, instruction = (functional.pad(field, pad) for field in inputs)
    return torch.where(real, ids, torch.randint(VOCABULARY, ids.shape)), real, instruction


def blocks(lengths: Sequence[Sequence[int]] = ((9, 8), (6,), (4, 4, 5))) -> list[Padded]:
    """Return batches of random texts, each padded to its longest, to be packed."""
    return [Padded(*texts(batch)) for batch in lengths]


def refusal(check: Callable[[Embedder], None], model: Embedder) -> str:
    """Return the words in which a probe refuses a model."""
    with pytest.raises(ProbeError) as caught:
        check(model)
    return str(caught.value)
