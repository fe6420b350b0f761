"""No head: the state that is read is the vector."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Head(nn.Module):
    """The one state there is."""

    def __init__(self, config: Any, input_size: int, num_layers: int) -> None:
        """Take states of width `input_size`."""
        super().__init__()
        self.output_size = input_size

    def forward(
        self, states: Float[Tensor, "batch 1 1 dim"], mask: Bool[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the state."""
        return states[:, 0, 0]


def refuse(pooling: Any, num_layers: int) -> dict[str, str]:
    """Refuse several states, as nothing joins them."""
    faults = {}
    if num_layers > 1:
        faults["pooling.layers"] = (
            f"expected one layer without a head, got {pooling.layers!r} ({num_layers} layers); "
            "take the head 'scalar_mix', or another"
        )
    if pooling.token_scope == "all_tokens":
        faults["pooling.token_scope"] = (
            "expected one vector for each layer without a head, got 'all_tokens'; take a head"
        )
    return faults
