"""A learned weighted mean of the layers (Peters et al., arXiv 1802.05365, equation 1).

Their factor on the sum is left out: embeddings end with length 1, so it would never learn.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Head(nn.Module):
    """One weight for each layer, softmax-normalised; they start equal."""

    def __init__(self, config: Any, input_size: int, num_layers: int) -> None:
        """Make a weight for each of `num_layers` layers."""
        super().__init__()
        self.output_size = input_size
        self.weights = nn.Parameter(torch.zeros(num_layers))

    def forward(
        self, states: Float[Tensor, "batch layers 1 dim"], mask: Bool[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the weighted mean over the layers."""
        return torch.einsum("l,bld->bd", self.weights.softmax(0), states[:, :, 0])


def refuse(pooling: Any, num_layers: int) -> dict[str, str]:
    """Refuse a single layer, whose weight is always 1, and all tokens, whose mean is the same."""
    faults = {}
    if num_layers == 1:
        faults["pooling.layers"] = (
            "expected several layers with head 'scalar_mix', got one: its weight is always 1"
        )
    if pooling.token_scope == "all_tokens":
        faults["pooling.token_scope"] = (
            "expected one vector for each layer with head 'scalar_mix', got 'all_tokens'; "
            "take 'mean'"
        )
    return faults
