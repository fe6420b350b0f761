"""What a design costs: parameters and floating-point operations, counted without memory for it.

The model is built on torch's "meta" device, where shapes are computed but no numbers, and torch's
own counter follows one forward pass; so every design, also one of your own, is counted as it runs.
Counted are matrix products. Attention counts as if every token saw every other, since masked pairs
are computed too. (On a CPU the counter misses sdpa's fused kernel; on "meta" there is none.)
"""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, PreTrainedModel

from trainables.build import assemble, trainable_parameters
from trainables.config import TrialConfig
from trainables.designs import refused_by_name
from trainables.model.decoder import check_decoder, keep_layers
from trainables.model.embedder import Embedder
from trainables.tokenizer import locate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Numbers of a design; multiply-adds count as two operations."""

    trainable_parameters: int
    head_parameters: int  # those of the pooling
    embedding_size: int
    flops_per_token: float  # of a forward pass, per token of a text of the longest training length


def count_cost(config: TrialConfig) -> Cost:
    """Return what a design costs."""
    embedder = without_numbers(config)
    tokens = config.training.max_passage_tokens
    return Cost(
        trainable_parameters=trainable_parameters(embedder),
        head_parameters=trainable_parameters(embedder.pooling),
        embedding_size=embedder.pooling.output_size,
        flops_per_token=count_flops(embedder, tokens) / tokens,
    )


def count_flops(embedder: Embedder, num_tokens: int) -> int:
    """Return the operations of one forward pass over one text."""
    device = next(embedder.parameters()).device
    ids = torch.zeros(1, num_tokens, dtype=torch.long, device=device)
    real = torch.ones_like(ids, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        embedder(ids, real, torch.zeros_like(real))
    return int(counter.get_total_flops())


def without_numbers(config: TrialConfig) -> Embedder:
    """Return a design's embedder on torch's "meta" device."""
    settings = AutoConfig.from_pretrained(locate(config.backbone.model))
    kernel = config.engine.attn_implementation
    # FlashAttention's own kernels run on GPUs only; the operations are the same.
    counted = "sdpa" if kernel.startswith("flash") else kernel
    with torch.device("meta"), refused_by_name():
        decoder: PreTrainedModel = AutoModel.from_config(settings, attn_implementation=counted)
        check_decoder(decoder)
        decoder.requires_grad_(False)
        keep_layers(decoder, config.backbone.num_layers or settings.num_hidden_layers)
        return assemble(config, decoder)
