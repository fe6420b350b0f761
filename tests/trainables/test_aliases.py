"""A design that is refused as another one really is that other one, on a random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.build import build
from trainables.config import BackboneConfig, EngineConfig, PoolingConfig, TrialConfig
from trainables.model.embedder import Embedder
from trainables.model.pooling import Pooling
from trainables.model.tokens import Tokens
from trainables.overlay import overlay

Make = Callable[[dict[str, Any]], Embedder]

LAST: dict[str, Any] = {"pooling.layers": "last"}
MEAN = {"pooling.token_scope": "mean"}
ONE_LAYER = {"pooling.layers": "1"}
MIX = {"pooling.head": "scalar_mix", "pooling.layers": "all"}
LENGTH = 9


@pytest.fixture
def make(tiny_model: Path) -> Make:
    base = TrialConfig(
        backbone=BackboneConfig(model=str(tiny_model), num_layers=3),
        engine=EngineConfig(precision="fp32"),
    )

    def make(values: dict[str, Any]) -> Embedder:
        torch.manual_seed(0)
        return build(overlay(base, values)).eval()

    return make


def masked(name: str, **sizes: int) -> dict[str, Any]:
    return {"attention.mask": name} | {f"attention.{size}": n for size, n in sizes.items()}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return texts of different lengths; the instruction of each is its first three tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 400, (3, LENGTH), generator=generator)
    real = torch.arange(LENGTH) < torch.tensor([[LENGTH], [6], [4]])
    return ids, real, torch.arange(LENGTH).expand(3, -1) < 3


def distance(one: Embedder, other: Embedder) -> float:
    with torch.no_grad():
        return float((one(*batch()) - other(*batch())).abs().max())


@pytest.mark.parametrize("read_out", [LAST, {"pooling.layers": "2"}, MIX], ids=str)
def test_the_last_token_of_two_streams_is_causal(make: Make, read_out: dict[str, Any]) -> None:
    two, causal = make(masked("two_stream") | read_out), make(read_out)
    assert distance(two, causal) < 1e-5
    assert distance(make(masked("two_stream") | read_out | MEAN), make(read_out | MEAN)) > 1e-3


def test_two_streams_of_one_layer_are_bidirectional(make: Make) -> None:
    read_out = ONE_LAYER | MEAN
    two, both = make(masked("two_stream") | read_out), make(masked("bidirectional") | read_out)
    assert distance(two, both) < 1e-5
    assert distance(two, make(read_out)) > 1e-3


@pytest.mark.parametrize("read_out", [LAST, MIX], ids=str)
def test_the_last_layer_bidirectional_is_causal_for_the_last_token(
    make: Make, read_out: dict[str, Any]
) -> None:
    mask = masked("last_k_bidirectional", bidirectional_layers=1)
    assert distance(make(mask | read_out), make(read_out)) < 1e-5
    assert distance(make(mask | read_out | MEAN), make(read_out | MEAN)) > 1e-3
    deeper = masked("last_k_bidirectional", bidirectional_layers=2)
    assert distance(make(deeper | read_out), make(read_out)) > 1e-3


@pytest.mark.parametrize(("layers", "deepest"), [("last", 3), ("2", 2)])
def test_bidirectional_down_to_the_deepest_layer_is_bidirectional(
    make: Make, layers: str, deepest: int
) -> None:
    read_out = MEAN | {"pooling.layers": layers}
    both = make(masked("bidirectional") | read_out)
    mask = "last_k_bidirectional"
    assert distance(make(masked(mask, bidirectional_layers=deepest) | read_out), both) < 1e-5
    assert distance(make(masked(mask, bidirectional_layers=deepest - 1) | read_out), both) > 1e-3


def test_a_window_over_every_text_is_bidirectional(make: Make) -> None:
    both = make(masked("bidirectional") | MEAN)
    assert distance(make(masked("sliding_window", window=LENGTH - 1) | MEAN), both) < 1e-5
    assert distance(make(masked("sliding_window", window=LENGTH - 2) | MEAN), both) > 1e-3


@pytest.mark.parametrize("mask", ["bidirectional", "gradual", "prefix"])
def test_the_last_token_of_one_layer_is_causal(make: Make, mask: str) -> None:
    assert distance(make(masked(mask) | ONE_LAYER), make(ONE_LAYER)) < 1e-5
    assert distance(make(masked(mask) | LAST), make(LAST)) > 1e-3


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("cross_attention", {"head.attention.query.weight", "head.attention.key.weight"}),
        ("self_attention", {"head.attention.query.weight", "head.attention.key.weight"}),
        ("latent_attention", {"head.attention.query.weight", "head.attention.key.weight"}),
        ("scalar_mix", {"head.weights"}),
    ],
)
def test_over_one_key_weights_have_no_gradient_but_rounding(head: str, names: set[str]) -> None:
    assert names <= dead(PoolingConfig(head=head, num_latents=1), num_layers=1)
    assert not names & dead(PoolingConfig(head=head, num_latents=4), num_layers=3)


def dead(config: PoolingConfig, num_layers: int) -> set[str]:
    torch.manual_seed(0)
    pooling = Pooling(config, 48, num_layers)
    tokens = Tokens.of(torch.ones(2, 5, dtype=torch.bool), None)
    vectors = pooling(([torch.randn(2, 5, 48) for _ in range(num_layers)], tokens))
    names, weights = zip(*pooling.named_parameters(), strict=True)
    found = torch.autograd.grad((vectors * torch.randn(vectors.shape)).sum(), weights)
    return {name for name, grad in zip(names, found, strict=True) if grad.norm() < 1e-3}


def test_a_cut_behind_a_projection_leaves_rows_without_a_gradient(make: Make) -> None:
    embedder = make({"pooling.output_size": 32, "pooling.truncate_to": 20})
    project = embedder.pooling.project
    assert project is not None
    loss = embedder(*batch()).square().mul(torch.arange(20)).sum()
    (gradient,) = torch.autograd.grad(loss, project.weight)
    assert gradient.any(1).tolist() == [True] * 20 + [False] * 12
