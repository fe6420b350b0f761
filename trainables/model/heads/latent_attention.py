"""The states attend to learned latents, a dictionary; the states' mean is the vector.

The latent attention of NV-Embed (Lee et al., arXiv 2405.17428, section 3.1), over tokens or
layers, with all widths independent.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..blocks import Attention, GegluBlock, flat, latents, masked_mean, projection

READS = ("hidden_size", "num_heads", "head_size", "num_latents", "ffn_size")
LAYER_EMBEDDINGS = True


class Head(nn.Module):
    """The states as queries, latents as keys and values."""

    def __init__(self, config: Any, input_size: int, num_layers: int) -> None:
        """Make the head that `config` describes."""
        super().__init__()
        width = config.hidden_size
        self.output_size = width
        self.project = projection(input_size, width)
        self.norm = nn.LayerNorm(width)
        self.latents = latents(config.num_latents, width)
        self.latents_norm = nn.LayerNorm(width)
        self.attention = Attention(width, width, config.num_heads, config.head_size)
        self.feed_forward = GegluBlock(width, config.ffn_size)

    def forward(
        self,
        states: Float[Tensor, "batch layers tokens dim"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch width"]:
        """Return one vector per text."""
        sequence, real = flat(states, mask)
        projected = self.project(sequence)
        dictionary = self.latents_norm(self.latents).unsqueeze(0)
        attended = projected + self.attention(self.norm(projected), dictionary)
        return masked_mean(self.feed_forward(attended), real)


def refuse(pooling: Any, num_layers: int) -> dict[str, str]:
    """Refuse a single latent: over one key the softmax is constant."""
    if pooling.num_latents > 1:
        return {}
    return {
        "pooling.num_latents": "expected at least 2 with head 'latent_attention', got 1: over one "
        "key the softmax is constant"
    }
