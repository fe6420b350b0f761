"""What a GPU computes otherwise than a CPU: kernels for masks, low precision, the head.

It needs torch, transformers and peft, but neither deepspeed, ray, mteb nor the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainables.backbone import Embedder, build
from trainables.config import (
    AttentionConfig,
    BackboneConfig,
    EngineConfig,
    Mask,
    PoolingConfig,
    Precision,
    TokenScope,
    TrialConfig,
)
from trainables.pooling import Pooling, pool_tokens
from trainables.probes import check_design

DEVICE = "cuda"
B, T, L, D = 6, 33, 4, 96
HEAD = PoolingConfig(head="cross_attention", num_layers=L, hidden_size=64, num_heads=4)
MASKS: tuple[Mask, ...] = get_args(Mask)
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
POOLINGS = {
    "last": PoolingConfig(),
    "mean": PoolingConfig(token_scope="mean"),
    "head": PoolingConfig(
        token_scope="mean", head="cross_attention", num_layers=3, hidden_size=32, num_latents=4
    ),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def texts() -> tuple[list[Tensor], Tensor]:
    """Return the states of L layers and the mask of texts of all lengths, on the CPU."""
    lengths = torch.linspace(1, T, B).long()
    return [torch.randn(B, T, D) for _ in range(L)], torch.arange(T) < lengths.unsqueeze(1)


def make(model: Path, pooling: PoolingConfig, mask: Mask, precision: Precision) -> Embedder:
    return build(
        TrialConfig(
            backbone=BackboneConfig(model=str(model), num_layers=3),
            attention=AttentionConfig(mask=mask),
            pooling=pooling,
            engine=EngineConfig(precision=precision),
        )
    ).eval()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnGpu:
    @pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_probes_pass(
        self, tiny_model: Path, pooling: PoolingConfig, mask: Mask, precision: Precision
    ) -> None:
        check_design(make(tiny_model, pooling, mask, precision).to(DEVICE), mask)

    @pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
    @pytest.mark.parametrize("mask", MASKS)
    def test_embeddings_equal_those_of_the_cpu(
        self, tiny_model: Path, pooling: PoolingConfig, mask: Mask
    ) -> None:
        embedder = make(tiny_model, pooling, mask, "fp32")
        ids = torch.randint(2, 400, (B, T))
        real = texts()[1]
        expected = embedder(ids, real)
        found = embedder.to(DEVICE)(ids.to(DEVICE), real.to(DEVICE))
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("scope", SCOPES)
    def test_pooled_tokens_equal_those_of_the_cpu(self, scope: TokenScope) -> None:
        (states, *_), mask = texts()
        found = pool_tokens(states.to(DEVICE), mask.to(DEVICE), scope)
        torch.testing.assert_close(
            found.cpu(), pool_tokens(states, mask, scope), atol=1e-4, rtol=1e-4
        )

    def test_the_head_and_its_gradients_equal_those_of_the_cpu(self) -> None:
        states, mask = texts()
        pooling = Pooling(HEAD, D)
        torch.nn.init.normal_(pooling.get_parameter("head.feed_forward.out.weight"), std=0.1)
        target = torch.randn(B, 64)
        found: list[list[Tensor]] = []
        for device in ("cpu", DEVICE):
            pooling.to(device).zero_grad()
            pooled = pooling([layer.to(device) for layer in states], mask.to(device))
            functional.mse_loss(pooled, target.to(device)).backward()
            gradients = [p.grad for p in pooling.parameters() if p.grad is not None]
            found.append([pooled.detach().cpu(), *(g.cpu().clone() for g in gradients)])
        assert len(found[0]) == 1 + len(list(pooling.parameters()))
        for mine, expected in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)

    def test_the_head_in_bf16_keeps_angles(self) -> None:
        states, mask = texts()
        pooling = Pooling(HEAD, D)
        expected = pooling(states, mask)
        low = pooling.to(DEVICE, torch.bfloat16)
        found = low([s.to(DEVICE, torch.bfloat16) for s in states], mask.to(DEVICE))
        assert found.dtype == torch.bfloat16
        cosines = functional.cosine_similarity(found.float().cpu(), expected)
        assert cosines.min() > 0.99
