"""A design adds no hidden cost: causal + last token through our module, and the bare model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from tests.benchmarks.paired import Ratio, compare
from trainables.config import AttentionConfig, PoolingConfig
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.pooling import Pooling

SHAPE: dict[str, Any] = {  # SmolLM2-135M's, with random weights; depth and batch differ by device
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def run(device: str) -> list[Ratio]:
    """Return the ratio of the bare model's forward time to ours."""
    cuda = device == "cuda"
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, num_hidden_layers=30 if cuda else 6)
    made: Any = LlamaModel(config)
    model = made.to(device=device, dtype=torch.bfloat16).eval()
    backbone = Backbone(model, AttentionConfig(), (config.num_hidden_layers,))
    embedder = Embedder(backbone, Pooling(PoolingConfig(), config.hidden_size))
    ids = torch.randint(config.vocab_size, (256, 128) if cuda else (16, 64), device=device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[::2, -9:] = False

    def ours() -> object:
        with torch.inference_mode():
            return embedder(ids, mask)

    def bare() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask, use_cache=False)

    return [compare("forward, causal + last token", "bare transformers model", ours, bare)]
