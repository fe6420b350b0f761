"""A second pass whose queries read the keys and values of a causal first pass, without a mask.

Cross-attention of the text to itself: the second stream starts as the same embeddings and takes
the same layers, so under a causal mask it would equal the first. It costs two passes.
"""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens
from . import bidirectional, causal


def first_stream(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return the mask of the first pass."""
    return causal.attends(query, key, layer)


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return which keys of the first pass a query of the second sees."""
    return bidirectional.attends(query, key, layer)
