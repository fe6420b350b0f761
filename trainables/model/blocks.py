"""What pooling heads are made of.

Letters: B texts, N states, M keys, W width, H heads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

LATENT_SCALE = 0.02  # small, so that at the start a text decides its embedding, not the latents


def unit_rms(states: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """Scale each vector to a root mean square of 1, in fp32.

    The first token's norm in the middle layers of small Llamas is a hundred times the others', and
    layers differ as much; without this one token or one layer would be the whole embedding.
    """
    return functional.rms_norm(states.float(), states.shape[-1:], eps=1e-6).to(states.dtype)


def masked_mean(
    states: Float[Tensor, "batch states width"], mask: Bool[Tensor, "batch states"]
) -> Float[Tensor, "batch width"]:
    """Return the mean over the states that the mask holds.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def flat(
    states: Float[Tensor, "batch layers tokens dim"], mask: Bool[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, "batch states dim"], Bool[Tensor, "batch states"]]:
    """Return the states of all layers and tokens as one sequence, with its mask."""
    return states.flatten(1, 2), mask.repeat(1, states.shape[1])


def latents(count: int, width: int) -> nn.Parameter:
    """Return `count` learned vectors."""
    return nn.Parameter(LATENT_SCALE * torch.randn(count, width))


def projection(into: int, out: int) -> nn.Module:
    """Return a linear map that starts orthogonal, which keeps angles; none where widths agree."""
    return nn.Identity() if into == out else orthogonal(into, out)


def orthogonal(into: int, out: int) -> nn.Linear:
    """Return a linear map without bias that starts orthogonal."""
    linear = nn.Linear(into, out, bias=False)
    nn.init.orthogonal_(linear.weight)
    return linear


class Attention(nn.Module):
    """Attention of one sequence to another with H heads of their own width.

    Value and output projections start orthogonal, so that untrained attention is close to a random
    projection of the memory's mean, which keeps angles, instead of noise.
    """

    def __init__(self, width: int, memory_width: int, num_heads: int, head_size: int) -> None:
        """Make attention of states of `width` to a memory of `memory_width`."""
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_size
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(memory_width, inner, bias=False)
        self.value = orthogonal(memory_width, inner)
        self.out = orthogonal(inner, width)

    def forward(
        self,
        states: Float[Tensor, "#batch states width"],
        memory: Float[Tensor, "#batch keys memory_width"],
        mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch states width"]:
        """Return what each state reads of the memory; masked keys are never read.

        What is the same for all texts comes as a batch of one, and is projected once.
        """
        num_texts = max(len(states), len(memory))
        projected = self.query(states), self.key(memory), self.value(memory)
        query, key, value = (self._heads(x).expand(num_texts, -1, -1, -1) for x in projected)
        keys = None if mask is None else mask[:, None, None, :]
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        attended: Tensor = self.out(read.transpose(-3, -2).flatten(-2))
        return attended

    def _heads(self, x: Float[Tensor, "... n inner"]) -> Float[Tensor, "... heads n head_size"]:
        split: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return split.transpose(-3, -2)


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
