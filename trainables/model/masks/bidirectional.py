"""Each token sees all tokens of its text (BehnamGhader et al., arXiv 2404.05961)."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens

IS_CAUSAL = False


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return true for every pair."""
    return query.real | key.real
