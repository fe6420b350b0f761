"""The instruction sees all of itself, the rest is causal (Raffel et al., arXiv 1910.10683)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..tokens import Layer, Tokens
from . import causal


def attends(query: Tokens, key: Tokens, layer: Layer) -> Bool[Tensor, "batch queries keys"]:
    """Return whether the key stands before the query, or both belong to the instruction."""
    return causal.attends(query, key, layer) | (query.instruction & key.instruction)


def refuse(config: Any) -> dict[str, str]:
    """Refuse it where what it is meant for has no instruction: it would be causal."""
    given = config.instructions
    if config.adaptation.kind == "mntp" and not given.document:
        return {
            "adaptation.kind": "expected 'none' for 'prefix' without instructions.document, got "
            "'mntp': the warm-up reads passages, which would be causal"
        }
    if given.query or given.document or given.other:
        return {}
    return {
        "attention.mask": "expected an instruction for 'prefix', got none: it would be causal; "
        "set instructions.query"
    }
