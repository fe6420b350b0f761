"""Operations and parameters on "meta" equal a real model's, and what pencil and paper say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, LlamaConfig

from trainables.build import build, trainable_parameters
from trainables.catalogue import designs
from trainables.config import (
    BackboneConfig,
    ConfigError,
    EngineConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.cost import Cost, count_cost, count_flops
from trainables.overlay import overlay

DEPTH, WIDTH, INNER, NUM_HEADS, KEY_HEADS, HEAD_SIZE = 3, 48, 2112, 4, 2, 12  # the tiny model's
TOKENS, LATENTS, RANK = 20, 5, 4
MASKS: dict[str, dict[str, Any]] = {
    "last_k_bidirectional": {"attention.bidirectional_layers": 2},
    "sliding_window": {"attention.window": 4},
    "latent_readout": {"attention.num_latents": LATENTS},
}
# Between them every token scope, one layer and several.
HEADS: dict[str, dict[str, Any]] = {
    "none": {"pooling.token_scope": "mean", "pooling.output_size": 24},
    "scalar_mix": {"pooling.token_scope": "weighted_mean", "pooling.layers": "all"},
    "self_attention": {"pooling.token_scope": "all_tokens", "pooling.layers": "last_2"},
    "cross_attention": {"pooling.token_scope": "mean", "pooling.layers": "all"},
    "latent_attention": {"pooling.token_scope": "all_tokens", "pooling.hidden_size": WIDTH},
}


@pytest.fixture
def base(tiny_model: Path) -> TrialConfig:
    return TrialConfig(
        backbone=BackboneConfig(model=str(tiny_model), num_layers=DEPTH),
        pooling=PoolingConfig(hidden_size=32, num_heads=2, head_size=8, ffn_size=40),
        training=TrainingConfig(max_passage_tokens=TOKENS),
        engine=EngineConfig(precision="fp32"),
    )


def design(base: TrialConfig, mask: str, head: str, **others: Any) -> TrialConfig:
    values = {"attention.mask": mask, "pooling.head": head, "lora.rank": RANK}
    others = {name.replace("__", "."): value for name, value in others.items()}
    return overlay(base, values | HEADS[head] | MASKS.get(mask, {}) | others)


def real_cost(config: TrialConfig) -> Cost:
    """Count over the real model; sdpa on a CPU has a fused kernel that torch does not count."""
    embedder = build(overlay(config, {"engine.attn_implementation": "eager"}))
    tokens = config.training.max_passage_tokens
    with sdpa_kernel(SDPBackend.MATH):
        flops = count_flops(embedder, tokens)
    return Cost(
        trainable_parameters=trainable_parameters(embedder),
        head_parameters=trainable_parameters(embedder.pooling),
        embedding_size=embedder(torch.ones(1, 3).long(), torch.ones(1, 3).bool()).shape[1],
        flops_per_token=flops / tokens,
    )


def linear_layers(key_heads: int = KEY_HEADS) -> list[tuple[int, int]]:
    queries, keys = NUM_HEADS * HEAD_SIZE, key_heads * HEAD_SIZE
    attention = [(WIDTH, queries), (WIDTH, keys), (WIDTH, keys), (queries, WIDTH)]
    return [*attention, (WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]


def backbone_flops(mask: str, key_heads: int = KEY_HEADS) -> int:
    """Return 2 x in x out for each linear layer and token, and 4 x T^2 x H x h for attention."""
    places = TOKENS + (LATENTS if mask == "latent_readout" else 0)
    linear = sum(2 * a * b + 2 * RANK * (a + b) for a, b in linear_layers(key_heads))
    attention = 4 * places**2 * NUM_HEADS * HEAD_SIZE
    streams = 2 if mask == "two_stream" else 1
    return streams * DEPTH * (places * linear + attention)


def head_flops(config: PoolingConfig, places: int) -> int:
    w, f, r, inner = 32, 40, config.num_latents, 16
    if config.head == "none":
        return 2 * WIDTH * 24
    if config.head == "scalar_mix":
        return 2 * DEPTH * WIDTH + DEPTH * 2 * places * WIDTH  # and the weighted means of tokens
    if config.head == "cross_attention":
        projections = 2 * r * w * inner + 2 * 2 * DEPTH * WIDTH * inner + 2 * r * inner * w
        return projections + 4 * r * DEPTH * inner + 6 * r * w * f
    if config.head == "self_attention":
        n = 2 * places
        projections = 2 * n * WIDTH * w + 4 * 2 * n * w * inner
        return projections + 4 * n * n * inner + 6 * n * w * f
    n, w = places, WIDTH
    projections = 2 * 2 * n * w * inner + 2 * 2 * r * w * inner
    return projections + 4 * n * r * inner + 6 * n * w * f


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("mask", designs("masks"))
def test_the_cost_is_the_real_models(base: TrialConfig, mask: str, head: str) -> None:
    config = design(base, mask, head)
    cost = count_cost(config)
    assert cost == real_cost(config)
    places = LATENTS if mask == "latent_readout" else TOKENS
    expected = backbone_flops(mask) + head_flops(config.pooling, places)
    assert cost.flops_per_token * TOKENS == expected
    adapters = DEPTH * sum(RANK * (a + b) for a, b in linear_layers())
    latents = LATENTS * WIDTH if mask == "latent_readout" else 0
    assert cost.trainable_parameters == adapters + latents + cost.head_parameters


def test_every_head_is_counted() -> None:
    assert set(HEADS) == set(designs("heads"))


@pytest.mark.parametrize(
    ("structure", "key_heads"), [("native", 2), ("multi_head", 4), ("multi_query", 1)]
)
def test_key_and_value_heads_are_counted(
    base: TrialConfig, structure: str, key_heads: int
) -> None:
    config = design(base, "causal", "none", attention__key_value_heads=structure)
    cost = count_cost(config)
    assert cost == real_cost(config)
    expected = backbone_flops("causal", key_heads) + head_flops(config.pooling, TOKENS)
    assert cost.flops_per_token * TOKENS == expected


def test_layers_that_nobody_reads_cost_nothing(base: TrialConfig) -> None:
    cut = count_cost(design(base, "causal", "none", pooling__layers="1"))
    kept = count_cost(design(base, "causal", "none", backbone__num_layers=1))
    assert cut == kept
    assert cut.flops_per_token < count_cost(design(base, "causal", "none")).flops_per_token / 2


def test_the_budget_is_met(base: TrialConfig) -> None:
    config = design(base, "causal", "cross_attention", pooling__match_parameters=50_000)
    assert count_cost(config).head_parameters == pytest.approx(50_000, rel=0.02)


@pytest.mark.parametrize("kernel", ["eager", "flash_attention_2"])
def test_the_kernel_changes_nothing(base: TrialConfig, kernel: str) -> None:
    config = design(base, "bidirectional", "none")
    other = overlay(config, {"engine.attn_implementation": kernel})
    assert count_cost(other) == count_cost(config)


def test_what_is_no_decoder_is_refused(base: TrialConfig, tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        count_cost(overlay(base, {"backbone.model": str(tmp_path)}))
    assert str(caught.value) == (
        "backbone.model: expected a decoder whose `layers` have `self_attn`, got BertModel"
    )


def test_seven_billion_parameters_take_no_memory_and_no_random_numbers(
    base: TrialConfig, tmp_path: Path
) -> None:
    LlamaConfig(vocab_size=32000).save_pretrained(tmp_path)  # as Llama 2 7B
    values = {
        "backbone.model": str(tmp_path),
        "backbone.num_layers": None,
        "training.max_passage_tokens": 512,
    }
    before, process = torch.get_rng_state(), psutil.Process()
    memory = process.memory_info().rss
    two, one = (
        count_cost(overlay(base, values | {"attention.mask": m})) for m in ("two_stream", "causal")
    )
    assert process.memory_info().rss - memory < 5e8  # the weights alone would take 26 GB
    assert torch.equal(torch.get_rng_state(), before)
    assert two.trainable_parameters == one.trainable_parameters == 39_976_960  # LoRA of rank 16
    assert two.flops_per_token == 2 * one.flops_per_token
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    attention = 32 * 4 * 512 * 4096
    assert one.flops_per_token == 2 * (weights + 39_976_960) + attention
