"""From causal to bidirectional while training goes on (soft mask of Li et al., arXiv 2509.12892).

Later tokens enter the softmax with a weight that grows linearly from 0 to 1 over the first
`transition` of the training; a finished model is bidirectional.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

from ..tokens import Layer, Tokens
from . import bidirectional, causal

READS = ("transition",)


def weight(layer: Layer) -> float:
    """Return the weight of later tokens, in [0, 1]."""
    return min(1.0, layer.progress / float(layer.settings.transition))


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return the causal mask as long as the weight is 0, then the bidirectional one."""
    attends = bidirectional.attends if weight(layer) > 0 else causal.attends
    return attends(query, key, layer)


def log_weight(query: Tokens, key: Tokens, layer: Layer) -> Float[Tensor, ...] | None:
    """Return the logarithm of the weight at later tokens and 0 elsewhere; None if all are 0."""
    if weight(layer) in (0.0, 1.0):
        return None
    return (key.position > query.position) * math.log(weight(layer))
