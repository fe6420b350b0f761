"""The folder of a finished trial, written without one having run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainables.build import build
from trainables.config import (
    AttentionConfig,
    BackboneConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.cost import count_cost
from trainables.model.embedder import Embedder
from trainables.overlay import as_dict, overlay
from trainables.trial import Outcome

MAX_TOKENS = 20


def design(model: Path, values: dict[str, Any]) -> TrialConfig:
    """Return a small design with the dotted names in `values` replaced."""
    base = TrialConfig(
        backbone=BackboneConfig(model=str(model), num_layers=3),
        attention=AttentionConfig(window=3, num_latents=3, bidirectional_layers=1),
        pooling=PoolingConfig(
            hidden_size=32, num_heads=2, head_size=8, num_latents=4, ffn_size=40
        ),
        lora=LoraConfig(rank=4, alpha=8.0),
        training=TrainingConfig(max_query_tokens=16, max_passage_tokens=MAX_TOKENS),
        engine=EngineConfig(precision="fp32"),
        evaluation=EvaluationConfig(max_tokens=18, tasks=("STS22", "NFCorpus")),
    )
    return overlay(base, values)


def trained(config: TrialConfig) -> Embedder:
    """Return an embedder whose every trainable tensor differs from its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        embedder = build(config)
        with torch.no_grad():
            for parameter in embedder.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return embedder.eval()


def outcome(config: TrialConfig) -> Outcome:
    """Return scores of one task and the failure of another."""
    return Outcome(
        scores={"STS22": 0.51234},
        categories={"STS22": "STS"},
        failures={"NFCorpus": "ValueError: no | text\nat all"},
        items="items.parquet",
        cost=dataclasses.asdict(count_cost(config)),
        adaptation={},
        seconds=12.3,
        versions={"torch": "2.13.0", "mteb": "2.26.24"},
    )


def write_run(folder: Path, config: TrialConfig) -> Embedder:
    """Write a trial's folder; return the embedder that it holds."""
    embedder = trained(config)
    folder.mkdir(parents=True)
    weights = {n: p.detach() for n, p in embedder.named_parameters() if p.requires_grad}
    save_file({n: p.contiguous() for n, p in weights.items()}, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps(as_dict(config)))
    (folder / "outcome.json").write_text(json.dumps(dataclasses.asdict(outcome(config))))
    return embedder
