"""The read-out by itself: token scopes, widths, invariances, and how heads start."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trainables.model.designs import HEADS
from tests.trainables.model.making import shaken
from trainables.config import PoolingConfig, TokenScope
from trainables.model.blocks import Attention, GegluBlock, unit_rms
from trainables.model.pooling import Pooling, pool_tokens
from trainables.model.tokens import Tokens

B, T, L, D = 3, 5, 4, 24
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "num_heads": 3,
    "head_size": 4,
    "num_latents": 5,
    "ffn_size": 7,
}
ATTENTIVE = [name for name in HEADS if name not in ("none", "scalar_mix")]
READ_OUTS = [
    (head, scope, 1 if head == "none" else L)
    for head in HEADS
    for scope in SCOPES
    if scope != "all_tokens" or head in ATTENTIVE
]
every_read_out = pytest.mark.parametrize(("head", "scope", "num_layers"), READ_OUTS)


def read_out(head: str, scope: TokenScope, num_layers: int = L, **sizes: Any) -> Pooling:
    config = PoolingConfig(head=head, token_scope=scope, **{**SIZES, **sizes})
    pooling: Pooling = shaken(Pooling(config, D, num_layers, middle=True)).double()
    return pooling


def layers(num_layers: int, *shape: int) -> list[Tensor]:
    return [torch.randn(*shape, D, dtype=torch.float64) for _ in range(num_layers)]


def lengths(side: str = "right") -> Tensor:
    mask = torch.arange(T) < torch.tensor([T, 2, 1]).unsqueeze(1)
    return mask if side == "right" else mask.flip(1)


def vectors(pooling: Pooling, states: list[Tensor], real: Tensor) -> Tensor:
    pooled: Tensor = pooling((states, Tokens.of(real, None)))
    return functional.normalize(pooled, dim=-1)


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "all_tokens"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pool_tokens_equals_a_slow_loop(scope: TokenScope, side: str) -> None:
    states, mask = torch.randn(B, T, D), lengths(side)
    pooled = pool_tokens(states, mask, scope)
    for text in range(B):
        real = [states[text, token] for token in range(T) if mask[text, token]]
        shares = {
            "last_token": [0.0] * (len(real) - 1) + [1.0],
            "mean": [1.0] * len(real),
            "weighted_mean": [float(place + 1) for place in range(len(real))],
        }[scope]
        weighted = [share * state for share, state in zip(shares, real, strict=True)]
        expected = torch.stack(weighted).sum(0) / sum(shares)
        torch.testing.assert_close(pooled[text], expected)


def test_unit_rms_keeps_the_direction_and_the_type() -> None:
    states = 1e3 * torch.randn(B, T, D)
    scaled = unit_rms(states)
    torch.testing.assert_close(scaled.pow(2).mean(-1), torch.ones(B, T))
    angles = functional.cosine_similarity(scaled, states, dim=-1)
    torch.testing.assert_close(angles, torch.ones(B, T))
    assert unit_rms(states.bfloat16()).dtype == torch.bfloat16


@every_read_out
class TestEveryReadOut:
    @pytest.mark.parametrize("pad", [(3, 0), (0, 3), (2, 1)], ids=["left", "right", "both"])
    def test_padding_is_never_read(
        self, head: str, scope: TokenScope, num_layers: int, pad: tuple[int, int]
    ) -> None:
        pooling, states = read_out(head, scope, num_layers), layers(num_layers, B, T)
        mask = torch.ones(B, T, dtype=torch.bool)
        longer = [
            functional.pad(layer, (0, 0, *pad), value=1e6 * (1 + place))
            for place, layer in enumerate(states)
        ]
        found = vectors(pooling, longer, functional.pad(mask, pad))
        torch.testing.assert_close(found, vectors(pooling, states, mask), atol=1e-6, rtol=0)

    def test_each_text_is_pooled_by_itself(
        self, head: str, scope: TokenScope, num_layers: int
    ) -> None:
        pooling, states = read_out(head, scope, num_layers), layers(num_layers, B, T)
        together = vectors(pooling, states, lengths())
        for text in range(B):
            one = slice(text, text + 1)
            alone = vectors(pooling, [layer[one] for layer in states], lengths()[one])
            torch.testing.assert_close(alone, together[one], atol=1e-6, rtol=0)

    def test_the_scale_of_a_layer_does_not_matter(
        self, head: str, scope: TokenScope, num_layers: int
    ) -> None:
        pooling, states = read_out(head, scope, num_layers), layers(num_layers, B, T)
        before = vectors(pooling, states, lengths())
        for place in range(num_layers):
            scaled = [100 * s if i == place else s for i, s in enumerate(states)]
            after = vectors(pooling, scaled, lengths())
            torch.testing.assert_close(after, before, atol=1e-5, rtol=0)

    def test_every_layer_and_token_in_scope_is_read(
        self, head: str, scope: TokenScope, num_layers: int
    ) -> None:
        pooling, states = read_out(head, scope, num_layers), layers(num_layers, 1, T)
        real = torch.ones(1, T, dtype=torch.bool)
        before = vectors(pooling, states, real)
        for layer in range(num_layers):
            for token in range(T):
                other = [state.clone() for state in states]
                other[layer][0, token] = torch.randn(D)
                distance = (vectors(pooling, other, real) - before).abs().max()
                is_read = scope != "last_token" or token == T - 1
                assert (distance > 1e-6) == is_read


@pytest.mark.parametrize("head", ATTENTIVE)
class TestHeadsWithWidths:
    @pytest.mark.parametrize("input_size", [7, 24, 100])
    @pytest.mark.parametrize(("width", "num_heads", "head_size"), [(8, 1, 8), (24, 4, 16)])
    def test_widths_are_independent(
        self, head: str, input_size: int, width: int, num_heads: int, head_size: int
    ) -> None:
        sizes = SIZES | {"hidden_size": width, "num_heads": num_heads, "head_size": head_size}
        config = PoolingConfig(head=head, token_scope="all_tokens", **sizes)
        pooling = Pooling(config, input_size, L)
        states = [torch.randn(B, T, input_size) for _ in range(L)]
        assert pooling((states, Tokens.of(lengths("left"), None))).shape == (B, width)

    def test_layer_embeddings_start_at_zero_and_tell_layers_apart(self, head: str) -> None:
        config = PoolingConfig(head=head, token_scope="mean", **SIZES)
        pooling = Pooling(config, D, L)
        assert pooling.layer_embeddings is not None
        assert torch.equal(pooling.layer_embeddings, torch.zeros(L, D))
        states = [torch.randn(B, T, D) for _ in range(L)]
        tokens = Tokens.of(lengths(), None)
        reverse = states[::-1]
        torch.testing.assert_close(pooling((states, tokens)), pooling((reverse, tokens)))
        shaken(pooling)
        assert not torch.allclose(pooling((states, tokens)), pooling((reverse, tokens)), atol=1e-3)
        assert Pooling(config, D, 1).layer_embeddings is None

    @pytest.mark.parametrize(("width", "num_heads"), [(32, 1), (64, 4), (128, 8)])
    def test_an_untrained_head_keeps_angles(self, head: str, width: int, num_heads: int) -> None:
        num_texts, size = 40, 96
        sizes = {"hidden_size": width, "num_heads": num_heads, "head_size": 16, "num_latents": 16}
        config = PoolingConfig(head=head, token_scope="mean", **SIZES | sizes)
        topics = torch.randn(5, size)[torch.arange(num_texts) % 5]
        states = [
            scale * (torch.randn(num_texts, 1, size) + topics.unsqueeze(1))
            for scale in (1.0, 100.0, 3.0, 0.1)  # the norms of layers differ
        ]
        real = torch.ones(num_texts, 1, dtype=torch.bool)
        with torch.no_grad():
            pooled = Pooling(config, size, L)((states, Tokens.of(real, None)))
        plain = torch.stack([unit_rms(layer) for layer in states]).mean(0)[:, 0]
        assert torch.corrcoef(torch.stack([cosines(plain), cosines(pooled)]))[0, 1] > 0.8


def cosines(given: Tensor) -> Tensor:
    """Return the cosine of each pair."""
    unit = functional.normalize(given, dim=-1)
    rows, columns = torch.triu_indices(len(given), len(given), 1)
    return (unit @ unit.T)[rows, columns]


def test_without_a_head_nothing_is_trained_or_scaled() -> None:
    pooling = Pooling(PoolingConfig(), D)
    assert list(pooling.parameters()) == []
    states, mask = torch.randn(B, T, D), lengths()
    found = pooling(([states], Tokens.of(mask, None)))
    assert torch.equal(found, pool_tokens(states, mask, "last_token"))


def test_a_scalar_mix_starts_as_the_mean_of_the_layers() -> None:
    pooling = Pooling(PoolingConfig(head="scalar_mix", token_scope="mean"), D, L)
    states = [torch.randn(B, T, D) for _ in range(L)]
    real = torch.ones(B, T, dtype=torch.bool)
    expected = torch.stack([unit_rms(layer).mean(1) for layer in states]).mean(0)
    torch.testing.assert_close(pooling((states, Tokens.of(real, None))), expected)


@pytest.mark.parametrize(("width", "inner"), [(4, 3), (8, 32)])
def test_geglu_starts_as_the_identity(width: int, inner: int) -> None:
    x = torch.randn(B, width)
    assert torch.equal(GegluBlock(width, inner)(x), x)


@pytest.mark.parametrize("pooled", [None, 8], ids=["no projection", "projection"])
@pytest.mark.parametrize("cut", [None, 5], ids=["whole", "cut"])
def test_what_follows_the_head(pooled: int | None, cut: int | None) -> None:
    pooling = read_out("cross_attention", "mean", output_size=pooled, truncate_to=cut)
    states, tokens = layers(L, B, T), Tokens.of(lengths(), None)
    whole = read_out("cross_attention", "mean", output_size=pooled)
    whole.load_state_dict(pooling.state_dict())
    found = pooling((states, tokens))
    assert found.shape == (B, pooling.output_size) == (B, cut or pooled or 12)
    assert torch.equal(found, whole((states, tokens))[:, :cut])


def test_one_batch_of_queries_serves_all_texts() -> None:
    """What is the same for all texts is projected once, and reads each text's own memory."""
    attention = Attention(6, 10, 2, 3)
    queries, memory = torch.randn(1, 4, 6), torch.randn(B, T, 10)
    mask = lengths()
    repeated = attention(queries.expand(B, -1, -1), memory, mask)
    torch.testing.assert_close(attention(queries, memory, mask), repeated)
