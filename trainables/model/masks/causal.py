"""Each token sees itself and what stands before it: the decoder as it was trained; the control."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens

IS_CAUSAL = True


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return whether the key stands at the query or before it."""
    return key.position <= query.position
