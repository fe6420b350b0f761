"""Each token sees `window` tokens on either side (Beltagy et al., arXiv 2004.05150)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens

READS = ("window",)


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return whether the key is at most `window` tokens away."""
    near: Tensor = (query.position - key.position).abs() <= layer.settings.window
    return near


def refuse(config: Any) -> dict[str, str]:
    """Refuse a window that covers every text."""
    training, window = config.training, config.attention.window
    longest = max(
        training.max_query_tokens, training.max_passage_tokens, config.evaluation.max_tokens
    )
    if window < longest - 1:
        return {}
    return {
        "attention.window": f"expected less than {longest - 1}, as texts have at most {longest} "
        f"tokens, got {window}: it would be bidirectional"
    }
