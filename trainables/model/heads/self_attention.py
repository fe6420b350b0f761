"""The states attend to each other once; their mean is the vector.

One pre-norm transformer layer over tokens, layers or both, as the self-attention pooling of
NV-Embed (Lee et al., arXiv 2405.17428, section 3.1), with all widths independent.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..blocks import Attention, GegluBlock, flat, masked_mean, projection

READS = ("hidden_size", "num_heads", "head_size", "ffn_size")
LAYER_EMBEDDINGS = True


class Head(nn.Module):
    """Projection, self-attention and GEGLU block, both with residuals, and the mean."""

    def __init__(self, config: Any, input_size: int, num_layers: int) -> None:
        """Make the head that `config` describes."""
        super().__init__()
        width = config.hidden_size
        self.output_size = width
        self.project = projection(input_size, width)
        self.norm = nn.LayerNorm(width)
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
        normed = self.norm(projected)
        attended = projected + self.attention(normed, normed, real)
        return masked_mean(self.feed_forward(attended), real)


def refuse(pooling: Any, num_layers: int) -> dict[str, str]:
    """Refuse a single state, which could attend to nothing but itself."""
    if num_layers > 1 or pooling.token_scope == "all_tokens":
        return {}
    return {
        "pooling.layers": "expected several layers or token_scope 'all_tokens' with head "
        "'self_attention', got one state: over one key the softmax is constant"
    }
