"""Pooling against slow loops, its invariances, and how the head starts."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import PoolingConfig, TokenScope
from trainables.pooling import CrossAttentionHead, GegluBlock, Pooling, pool_tokens, unit_rms

B, T, L, D = 3, 5, 4, 24
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)


def head_config(**changes: int) -> PoolingConfig:
    sizes = {"num_layers": L, "hidden_size": 12, "num_heads": 3, "num_latents": 5, "ffn_size": 7}
    return PoolingConfig(head="cross_attention", **{**sizes, **changes})  # type: ignore[arg-type]


def make_pooling(scope: TokenScope, head: bool) -> Pooling:
    config = head_config() if head else PoolingConfig()
    pooling = Pooling(config, D).double()
    pooling.scope = scope
    return pooling


def shaken(head: CrossAttentionHead) -> CrossAttentionHead:
    """Move every parameter off its start, so that nothing is hidden by a zero."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return head


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def padded(side: str) -> Tensor:
    lengths = torch.tensor([T, 2, 1])
    mask = torch.arange(T) < lengths.unsqueeze(1)
    return mask if side == "right" else mask.flip(1)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_pool_tokens_equals_a_slow_loop(scope: TokenScope, side: str) -> None:
    states, mask = torch.randn(B, T, D), padded(side)
    pooled = pool_tokens(states, mask, scope)
    assert pooled.shape == (B, D)
    for text in range(B):
        real = [states[text, token] for token in range(T) if mask[text, token]]
        expected = real[-1] if scope == "last_token" else sum(real, torch.zeros(D)) / len(real)
        torch.testing.assert_close(pooled[text], expected)


def test_unit_rms_keeps_the_direction_and_the_type() -> None:
    states = 1e3 * torch.randn(B, T, D)
    scaled = unit_rms(states)
    torch.testing.assert_close(scaled.pow(2).mean(-1), torch.ones(B, T))
    torch.testing.assert_close(
        functional.cosine_similarity(scaled, states, dim=-1), torch.ones(B, T)
    )
    assert unit_rms(states.bfloat16()).dtype == torch.bfloat16


def slow_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.pow(2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def slow_feed_forward(x: Tensor, block: GegluBlock) -> Tensor:
    inner = block.into.weight @ slow_norm(x, block.norm) + block.into.bias
    value, gate = inner[: len(inner) // 2], inner[len(inner) // 2 :]
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return x + block.out.weight @ (value * gelu) + block.out.bias


def slow_head(head: CrossAttentionHead, layers: Tensor) -> Tensor:
    """Return the embedding of one text from its (L, D) layers, one number at a time."""
    memory = [
        row / (row.pow(2).mean() + 1e-6).sqrt() + extra
        for row, extra in zip(layers, head.layer_embeddings, strict=True)
    ]
    width = head.latents.shape[1]
    size = width // head.num_heads
    total = torch.zeros(width, dtype=layers.dtype)
    for latent in head.latents:
        query = head.query.weight @ latent
        joined = []
        for start in range(0, width, size):
            part = slice(start, start + size)
            scores = [
                query[part] @ (head.key.weight @ row)[part] / math.sqrt(size) for row in memory
            ]
            shares = [score.exp() for score in scores]
            value = torch.zeros(size, dtype=layers.dtype)
            for share, row in zip(shares, memory, strict=True):
                value = value + share / sum(shares) * (head.value.weight @ row)[part]
            joined.append(value)
        updated = latent + head.out.weight @ torch.cat(joined)
        total = total + slow_feed_forward(updated, head.feed_forward)
    return total / len(head.latents)


@pytest.mark.parametrize("num_heads", [1, 3, 12])
@pytest.mark.parametrize("moved", [False, True], ids=["at the start", "moved"])
def test_the_head_equals_a_slow_loop(num_heads: int, moved: bool) -> None:
    head = CrossAttentionHead(head_config(num_heads=num_heads), D).double()
    head = shaken(head) if moved else head
    layers = torch.randn(B, L, D, dtype=torch.float64)
    # unit_rms works in fp32, which bounds the agreement.
    expected = torch.stack([slow_head(head, text) for text in layers])
    torch.testing.assert_close(head(layers), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "inner"), [(4, 3), (8, 32)])
def test_geglu_starts_as_the_identity(width: int, inner: int) -> None:
    x = torch.randn(B, width)
    assert torch.equal(GegluBlock(width, inner)(x), x)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("head", [False, True], ids=["no head", "head"])
class TestWholeReadOut:
    @pytest.mark.parametrize("pad", [(3, 0), (0, 3), (2, 1)], ids=["left", "right", "both"])
    def test_padding_is_never_read(
        self, scope: TokenScope, head: bool, pad: tuple[int, int]
    ) -> None:
        pooling = make_pooling(scope, head)
        states = [torch.randn(B, T, D, dtype=torch.float64) for _ in range(pooling.num_layers)]
        mask = torch.ones(B, T, dtype=torch.bool)
        alone = pooling(states, mask)
        longer = [
            functional.pad(layer, (0, 0, *pad), value=1e6 * (1 + place))
            for place, layer in enumerate(states)
        ]
        torch.testing.assert_close(pooling(longer, functional.pad(mask, pad, value=False)), alone)

    def test_each_text_is_pooled_by_itself(self, scope: TokenScope, head: bool) -> None:
        pooling = make_pooling(scope, head)
        states = [torch.randn(B, T, D, dtype=torch.float64) for _ in range(pooling.num_layers)]
        mask = padded("right")
        together = pooling(states, mask)
        for text in range(B):
            one = slice(text, text + 1)
            alone = pooling([layer[one] for layer in states], mask[one])
            torch.testing.assert_close(alone, together[one])

    def test_the_scale_of_a_layer_does_not_matter(self, scope: TokenScope, head: bool) -> None:
        pooling = make_pooling(scope, head)
        states = [torch.randn(B, T, D, dtype=torch.float64) for _ in range(pooling.num_layers)]
        mask = padded("right")
        before = functional.normalize(pooling(states, mask), dim=-1)
        for place in range(pooling.num_layers):
            scaled = [100 * s if i == place else s for i, s in enumerate(states)]
            after = functional.normalize(pooling(scaled, mask), dim=-1)
            torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("input_size", [7, 24, 100])
@pytest.mark.parametrize(("width", "num_heads"), [(8, 1), (48, 4), (6, 6)])
@pytest.mark.parametrize("num_latents", [1, 9])
def test_widths_are_independent_of_the_backbone(
    input_size: int, width: int, num_heads: int, num_latents: int
) -> None:
    config = head_config(hidden_size=width, num_heads=num_heads, num_latents=num_latents)
    pooling = Pooling(config, input_size)
    states = [torch.randn(B, T, input_size) for _ in range(L)]
    assert pooling(states, padded("left")).shape == (B, width)


def test_without_a_head_nothing_is_trained_and_only_the_last_layer_is_read() -> None:
    pooling = Pooling(PoolingConfig(), D)
    assert list(pooling.parameters()) == []
    states, mask = torch.randn(B, T, D), padded("right")
    assert torch.equal(
        pooling([states + 1, states], mask), pool_tokens(states, mask, "last_token")
    )


def test_layer_embeddings_start_at_zero_and_tell_layers_apart() -> None:
    head = CrossAttentionHead(head_config(), D)
    assert torch.equal(head.layer_embeddings, torch.zeros(L, D))
    layers = torch.randn(B, L, D)
    torch.testing.assert_close(head(layers), head(layers.flip(1)))
    shaken(head)
    assert not torch.allclose(head(layers), head(layers.flip(1)), atol=1e-3)


def test_every_parameter_gets_a_gradient_after_the_first_step() -> None:
    head = CrossAttentionHead(head_config(), D)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    target = torch.randn(B, 12)
    without: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        functional.mse_loss(head(torch.randn(B, L, D)), target).backward()
        without.append({n for n, p in head.named_parameters() if not p.grad.count_nonzero()})  # type: ignore[union-attr]
        optimizer.step()
    # At the very start the zero output projection hides what is before it.
    behind = {"norm.weight", "norm.bias", "into.weight", "into.bias"}
    assert without == [{f"feed_forward.{name}" for name in behind}, set()]


@pytest.mark.parametrize(("width", "num_heads"), [(32, 1), (64, 4), (128, 8)])
def test_an_untrained_head_keeps_angles(width: int, num_heads: int) -> None:
    texts, input_size = 40, 96
    head = CrossAttentionHead(
        head_config(hidden_size=width, num_heads=num_heads, num_latents=16), input_size
    )
    topics = torch.randn(5, input_size)
    layers = torch.randn(texts, L, input_size) + topics[torch.arange(texts) % 5].unsqueeze(1)
    layers *= torch.tensor([1.0, 100.0, 3.0, 0.1]).view(L, 1)  # the norms of layers differ

    def cosines(vectors: Tensor) -> Tensor:
        unit = functional.normalize(vectors, dim=-1)
        rows, columns = torch.triu_indices(texts, texts, 1)
        return (unit @ unit.T)[rows, columns]

    with torch.no_grad():
        pair = torch.stack([cosines(unit_rms(layers).mean(1)), cosines(head(layers))])
    assert torch.corrcoef(pair)[0, 1] > 0.8
