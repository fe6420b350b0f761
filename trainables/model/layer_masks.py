"""What each layer's attention is told: which key a query sees, as its kernel takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .tokens import Layer, Tokens

Mask = Bool[Tensor, "batch 1 queries keys"] | Float[Tensor, "batch 1 queries keys"]


def allowed_pairs(
    attends: Callable[[Tokens, Tokens, Layer], Tensor],
    tokens: Tokens,
    layer: Layer,
    window: int | None,
) -> Bool[Tensor, "batch queries keys"]:
    """Return which key each query sees: what the mask says, within the decoder's own window.

    Padding is never seen, but by itself: a row without a key would be no number.
    """
    query, key = tokens.queries(), tokens.keys()
    allowed = attends(query, key, layer) & key.real & query.real
    if window is not None:
        allowed = allowed & ((query.position - key.position).abs() < window)
    itself = torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    return allowed | (itself & ~query.real)


def layer_masks(
    mask: Any,
    tokens: Tokens,
    layers: Sequence[Layer],
    windows: Sequence[int | None],
    dtype: torch.dtype,
    *,
    added: bool,
) -> list[Mask]:
    """Return each layer's mask; like layers share one.

    Args:
        mask: A module of `masks/`.
        tokens: Of the batch, latents included.
        layers: Where the masks are asked for.
        windows: The decoder's own, of each layer.
        dtype: Of a mask that is added to the logits.
        added: Whether the kernel adds its mask; a boolean one would leak there.
    """
    variant: Callable[[Layer], Any] = getattr(mask, "variant", lambda layer: None)
    made: dict[Any, Mask] = {}
    masks = []
    for layer, window in zip(layers, windows, strict=True):
        kind = (variant(layer), window)
        if kind not in made:
            made[kind] = _layer_mask(mask, tokens, layer, window, dtype, added=added)
        masks.append(made[kind])
    return masks


def _layer_mask(
    mask: Any,
    tokens: Tokens,
    layer: Layer,
    window: int | None,
    dtype: torch.dtype,
    *,
    added: bool,
) -> Mask:
    streams = [getattr(mask, "first_stream", None), mask.attends]
    allowed = torch.cat(
        [allowed_pairs(attends, tokens, layer, window) for attends in streams if attends]
    ).unsqueeze(1)
    bias = getattr(mask, "log_weight", lambda *_: None)(tokens.queries(), tokens.keys(), layer)
    if bias is None and not added:
        return allowed
    logits = torch.zeros_like(allowed, dtype=dtype) if bias is None else bias.unsqueeze(1)
    return torch.where(allowed, logits.to(dtype), torch.finfo(dtype).min)
