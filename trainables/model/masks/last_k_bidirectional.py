"""The first layers are causal, the last `bidirectional_layers` see the whole text."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens
from . import bidirectional, causal

READS = ("bidirectional_layers",)


def variant(layer: Layer) -> bool:
    """Return whether the layer is one of the last."""
    return bool(layer.number > layer.depth - layer.settings.bidirectional_layers)


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return the bidirectional mask in the last layers, the causal one before."""
    attends = bidirectional.attends if variant(layer) else causal.attends
    return attends(query, key, layer)
