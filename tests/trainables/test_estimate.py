"""What a trial will need: kept activations against a real pass, weights by pencil and paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import packing
from trainables.build import DTYPES, build
from trainables.config import BackboneConfig, LoraConfig, TrainingConfig, TrialConfig
from trainables.cost import count_cost
from trainables.estimate import count_saved, estimate, matrix_rate
from trainables.overlay import overlay

TOKENS = 40
DESIGNS: dict[str, dict[str, Any]] = {
    "control": {},
    "all tokens": {
        "attention.mask": "bidirectional",
        "pooling.token_scope": "all_tokens",
        "pooling.layers": "all",
        "pooling.head": "self_attention",
    },
    "two streams": {"attention.mask": "two_stream", "pooling.token_scope": "mean"},
    "window": {"attention.mask": "sliding_window", "pooling.token_scope": "mean"},
    "fp32": {"engine.precision": "fp32"},
}


@pytest.fixture
def config(tiny_model: Path) -> TrialConfig:
    return TrialConfig(
        backbone=BackboneConfig(model=str(tiny_model), num_layers=3),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(
            batch_size=8, max_query_tokens=TOKENS, max_passage_tokens=TOKENS, steps=10
        ),
    )


@pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
def test_activations_are_those_of_a_real_mini_batch(
    config: TrialConfig, values: dict[str, Any]
) -> None:
    config = overlay(config, values)
    embedder = build(config).to(DTYPES[config.engine.precision])
    rows = [(list(range(3, 3 + TOKENS)), 0)] * 24  # 8 x (query, positive, negative)
    real = count_saved(embedder, packing.pack(rows, 1, 1).mini_batches[0] * 2) / 2
    assert estimate(config, 1e9).activation_bytes == pytest.approx(real, rel=0.2)


def test_a_mini_batch_and_checkpointing_bound_the_activations(config: TrialConfig) -> None:
    whole = estimate(config, 1e9)
    half = overlay(config, {"training.mini_batch_tokens": 24 * TOKENS // 2})
    assert estimate(half, 1e9).activation_bytes == pytest.approx(whole.activation_bytes / 2)
    assert estimate(half, 1e9).seconds == pytest.approx(whole.seconds * 2.5 / 2)
    less = estimate(overlay(config, {"training.gradient_checkpointing": True}), 1e9)
    assert less.activation_bytes < 0.6 * whole.activation_bytes  # a layer of two
    assert less.seconds == pytest.approx(whole.seconds * 1.5)


@pytest.mark.parametrize(
    ("stage", "workers", "precision", "trained", "frozen"),
    [
        (0, 1, "fp32", 4 + 4 + 8, 4),
        (0, 1, "bf16", 2 + 2 + 12, 2),
        (1, 2, "bf16", 2 + 2 + 6, 2),
        (2, 2, "bf16", 2 + 1 + 6, 2),
        (3, 2, "bf16", 1 + 1 + 6, 1),
        (3, 4, "fp32", 1 + 1 + 3, 1),
    ],
)
def test_weights_follow_from_the_stage(
    config: TrialConfig, stage: int, workers: int, precision: str, trained: float, frozen: float
) -> None:
    changes = {
        "engine.zero_stage": stage,
        "engine.num_workers": workers,
        "engine.precision": precision,
    }
    config = overlay(config, changes)
    total = sum(p.numel() for p in build(config).parameters())
    learned = count_cost(config).trainable_parameters
    expected = trained * learned + frozen * (total - learned)
    assert estimate(config, 1e9).weight_bytes == pytest.approx(expected)


def test_the_rate_is_that_of_matrix_products() -> None:
    assert 1e8 < matrix_rate("fp32") < 1e16
    assert matrix_rate("fp32") == matrix_rate("fp32")  # measured once
    assert torch.get_default_dtype() == torch.float32
