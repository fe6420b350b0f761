"""Learned latents attend to the states; the latents' mean is the vector.

The trainable pooling of Tang & Yang (arXiv 2409.02727, section 3), over the layers' vectors or
over tokens, with all widths independent.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..blocks import Attention, GegluBlock, flat, latents

READS = ("hidden_size", "num_heads", "head_size", "num_latents", "ffn_size")
LAYER_EMBEDDINGS = True


class Head(nn.Module):
    """Latents as queries, the states as keys and values."""

    def __init__(self, config: Any, input_size: int, num_layers: int) -> None:
        """Make the head that `config` describes."""
        super().__init__()
        width = config.hidden_size
        self.output_size = width
        self.latents = latents(config.num_latents, width)
        self.attention = Attention(width, input_size, config.num_heads, config.head_size)
        self.feed_forward = GegluBlock(width, config.ffn_size)

    def forward(
        self,
        states: Float[Tensor, "batch layers tokens dim"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch width"]:
        """Return one vector per text."""
        memory, real = flat(states, mask)
        queries = self.latents.unsqueeze(0)
        attended = queries + self.attention(queries, memory, real)
        pooled: Tensor = self.feed_forward(attended).mean(1)
        return pooled


def refuse(pooling: Any, num_layers: int) -> dict[str, str]:
    """Refuse a single state: no query would get a gradient."""
    if num_layers > 1 or pooling.token_scope == "all_tokens":
        return {}
    return {
        "pooling.layers": "expected several layers or token_scope 'all_tokens' with head "
        "'cross_attention', got one state: over one key the softmax is constant and no query "
        "would get a gradient"
    }
