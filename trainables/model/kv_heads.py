"""How many key/value heads a decoder has: as trained, one for each query head, or one for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

Heads = Float[Tensor, "heads width ..."]


class UnsupportedDecoderError(ValueError):
    """A decoder cannot take a design."""


def convert(decoder: Any, structure: str) -> None:
    """Give every layer of `decoder` the head structure "native", "multi_head" or "multi_query".

    Multi-head attention repeats each key/value head for the query heads that share it, which keeps
    the function. Multi-query attention (Shazeer, arXiv 1911.02150) averages them as in Ainslie et
    al. (arXiv 2305.13245, section 2.1), which changes it. To be done before LoRA is added.

    Raises:
        UnsupportedDecoderError: If a layer has no separate key and value projections.
    """
    if structure == "native":
        return
    config = decoder.config
    queries, keys = config.num_attention_heads, config.num_key_value_heads
    for layer in decoder.layers:
        attention: Any = getattr(layer, "self_attn", None)
        _check_norm(decoder, attention)
        for name in ("k_proj", "v_proj"):
            old = getattr(attention, name, None)
            if not isinstance(old, nn.Linear):
                raise UnsupportedDecoderError(
                    f"attention.key_value_heads: {type(decoder).__name__} has no self_attn.{name}"
                )
            change = _repeat(queries // keys) if structure == "multi_head" else _average
            setattr(attention, name, _converted(old, keys, change))
        attention.num_key_value_groups = 1 if structure == "multi_head" else queries
    config.num_key_value_heads = queries if structure == "multi_head" else 1


def _check_norm(decoder: Any, attention: Any) -> None:
    """Refuse a norm over all key heads together: with other heads it would be another function."""
    weight = getattr(getattr(attention, "k_norm", None), "weight", None)
    if weight is not None and weight.numel() != getattr(attention, "head_dim", None):
        raise UnsupportedDecoderError(
            f"attention.key_value_heads: expected 'native' for {type(decoder).__name__}, whose "
            "k_norm joins the key heads"
        )


def _repeat(count: int) -> Callable[[Tensor], Tensor]:
    return lambda heads: heads.repeat_interleave(count, dim=0)


def _average(heads: Heads) -> Float[Tensor, "1 width ..."]:
    return heads.float().mean(0, keepdim=True).to(heads.dtype)


def _converted(old: nn.Linear, num_heads: int, change: Callable[[Tensor], Tensor]) -> nn.Linear:
    """Return a projection whose output heads are `change` of the old one's."""
    weight = change(old.weight.detach().unflatten(0, (num_heads, -1))).flatten(0, 1)
    new = nn.Linear(
        old.in_features, len(weight), bias=old.bias is not None, device="meta", dtype=weight.dtype
    )
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if old.bias is not None:
        bias = change(old.bias.detach().unflatten(0, (num_heads, -1))).flatten(0, 1)
        new.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return new
