"""Learned vectors behind the text see the text and each other; the text, causal, never sees them.

Cross-attention from latents to the text in every layer, through the decoder's own heads. The
latents' last states are what the pooling reads.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens
from . import causal

READS = ("num_latents",)
LATENTS = True


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return whether the query is a latent or the key stands before it."""
    return query.latent | causal.attends(query, key, layer)


def refuse(config: Any) -> dict[str, str]:
    """Refuse what cannot be read of latents, which have no order and no instruction."""
    pooling = config.pooling
    faults = {}
    if pooling.token_scope not in ("mean", "all_tokens"):
        faults["pooling.token_scope"] = (
            "expected 'mean' or 'all_tokens' with 'latent_readout', whose latents have no order, "
            f"got {pooling.token_scope!r}"
        )
    elif pooling.token_scope == "all_tokens" and config.attention.num_latents == 1:
        faults["attention.num_latents"] = (
            "expected at least 2 with token_scope 'all_tokens', got 1; take 'mean'"
        )
    if not pooling.include_instruction:
        faults["pooling.include_instruction"] = (
            "expected true with 'latent_readout', which reads only the latents, got false"
        )
    if config.adaptation.kind != "none":
        faults["adaptation.kind"] = (
            "expected 'none' with 'latent_readout', whose text stays causal: there is nothing new "
            f"to get used to, got {config.adaptation.kind!r}"
        )
    return faults
