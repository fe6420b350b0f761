"""From hidden states to one vector per text: token scopes and the trainable head.

Letters: B texts, T tokens, L layers, D backbone width, W head width, R latents, H heads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from trainables.config import PoolingConfig, TokenScope

LATENT_SCALE = 0.02  # small, so that at the start a text decides its embedding, not the latents


def pool_tokens(
    states: Float[Tensor, "batch tokens dim"],
    mask: Bool[Tensor, "batch tokens"],
    scope: TokenScope,
) -> Float[Tensor, "batch dim"]:
    """Return one vector per text; padding on either side is never read.

    >>> states = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> pool_tokens(states, mask, "mean").item(), pool_tokens(states, mask, "last_token").item()
    (2.0, 3.0)
    """
    if scope == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(1)
    return states[torch.arange(len(states), device=states.device), last]


def unit_rms(states: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """Scale each vector to a root mean square of 1, in fp32.

    The first token's norm in the middle layers of small Llamas is a hundred times the others', and
    layers differ as much; without this one token or one layer would be the whole embedding.
    """
    return functional.rms_norm(states.float(), states.shape[-1:], eps=1e-6).to(states.dtype)


class GegluBlock(nn.Module):
    """Residual feed-forward block with a gated GELU (Shazeer, arXiv 2002.05202).

    It starts as the identity: the output projection is zero.
    """

    def __init__(self, width: int, inner: int) -> None:
        """Make a block of `width` with `inner` gated units."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Return `x` plus the gated transformation of its normalised self."""
        value, gate = self.into(self.norm(x)).chunk(2, dim=-1)
        transformed: Tensor = self.out(value * functional.gelu(gate))
        return x + transformed


class CrossAttentionHead(nn.Module):
    """R learned latents attend, with H heads, over one vector per layer; their mean is pooled.

    The multi-layer trainable pooling of Tang & Yang (arXiv 2409.02727, section 3), with layers
    normalised, layer embeddings that start at 0, and all widths independent. The value and output
    projections start orthogonal, so an untrained head is close to a random projection of the
    layers' mean, which keeps angles, instead of noise.
    """

    def __init__(self, config: PoolingConfig, input_size: int) -> None:
        """Make the head that `config` describes for a backbone of width `input_size`."""
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.latents = nn.Parameter(LATENT_SCALE * torch.randn(config.num_latents, width))
        self.layer_embeddings = nn.Parameter(torch.zeros(config.num_layers, input_size))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(input_size, width, bias=False)
        self.value = nn.Linear(input_size, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.value.weight)
        nn.init.orthogonal_(self.out.weight)
        self.feed_forward = GegluBlock(width, config.ffn_size)

    def forward(self, layers: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch width"]:
        """Return one vector per text."""
        memory = unit_rms(layers) + self.layer_embeddings
        query = self._heads(self.query(self.latents)).expand(len(layers), -1, -1, -1)
        key, value = self._heads(self.key(memory)), self._heads(self.value(memory))
        attended = functional.scaled_dot_product_attention(query, key, value)
        latents = self.latents + self.out(attended.transpose(-3, -2).flatten(-2))
        pooled: Tensor = self.feed_forward(latents).mean(1)
        return pooled

    def _heads(self, x: Float[Tensor, "... n width"]) -> Float[Tensor, "... heads n head_width"]:
        split: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return split.transpose(-3, -2)


class Pooling(nn.Module):
    """The whole read-out: hidden states of the last layers to one vector per text."""

    def __init__(self, config: PoolingConfig, input_size: int) -> None:
        """Make the read-out that `config` describes for a backbone of width `input_size`."""
        super().__init__()
        self.scope = config.token_scope
        self.num_layers = config.num_layers
        self.head = (
            CrossAttentionHead(config, input_size) if config.head == "cross_attention" else None
        )

    def forward(
        self,
        states: list[Float[Tensor, "batch tokens dim"]],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch width"]:
        """Return one vector per text from the states of the last layers, first to last."""
        if self.head is None:
            return pool_tokens(states[-1], mask, self.scope)
        layers = [pool_tokens(unit_rms(layer), mask, self.scope) for layer in states]
        pooled: Tensor = self.head(torch.stack(layers, dim=1))
        return pooled
