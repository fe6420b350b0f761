"""Attention functions of our own in front of transformers': two streams, and packed batches."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

TWO_STREAMS = "two_stream_"  # before the name of the function that both streams call
PACKED = "packed_"


class Block(NamedTuple):
    """One padded batch among those that stand one behind the other in a packed row."""

    texts: int
    tokens: int  # of each text, padding and latents included
    kernel: str  # transformers' name of the attention function
    masks: Sequence[Tensor | None]  # of each layer, as the kernel takes it
    is_causal: bool  # what a layer without a mask is


def read_first_stream(decoder: Any) -> None:
    """Make attention read the keys and values of the batch's first half, for both halves."""
    base = decoder.config._attn_implementation
    for name in (base, "eager"):
        AttentionInterface.register(TWO_STREAMS + name, _two_streams(name))
    decoder.config._attn_implementation = TWO_STREAMS + base


def take_blocks(decoder: Any) -> None:
    """Make attention take packed rows, in which no block sees another; others stay as they are."""
    base = decoder.config._attn_implementation
    AttentionInterface.register(PACKED + base, _in_blocks(base))
    masks = AttentionMaskInterface()
    if base in masks:
        AttentionMaskInterface.register(PACKED + base, masks[base])
    decoder.config._attn_implementation = PACKED + base


def eager(module: nn.Module) -> Any:
    """Return a family's own attention in plain matrix products, or None."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _matrix_products(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """Return what a family's own eager attention does, without repeating keys for their queries.

    The queries of a key head stand one behind the other instead, in fewer and larger products.
    """
    grouped = key.shape[:2]
    queries = query.reshape(*grouped, -1, query.shape[-1])
    logits = (queries @ key.transpose(-1, -2)).mul_(kwargs["scaling"])
    logits = logits.view(*query.shape[:3], -1) + mask
    weights = torch.softmax(logits, dim=-1).view(*grouped, -1, key.shape[-2])
    return (weights @ value).view(*query.shape[:3], -1).transpose(1, 2), None


def _is_plain(function: Any) -> bool:
    """Return whether a family's eager attention is Llama's, with nothing of its own."""
    own, plain = function.__code__, eager_attention_forward.__code__
    parts = ("co_code", "co_names", "co_consts")
    return all(getattr(own, part) == getattr(plain, part) for part in parts)


def _function(name: str, module: nn.Module) -> Callable[..., Any]:
    function: Callable[..., Any] = AttentionInterface().get_interface(name, eager(module))
    return function


def _two_streams(base: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        first = len(query) // 2
        keys, values = (x[:first].repeat(2, 1, 1, 1) for x in (key, value))
        return _function(base, module)(module, query, keys, values, mask, **kwargs)

    return attention


def _in_blocks(base: str) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        blocks: Sequence[Block] | None = None,
        varlen: bool = False,
        read: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if blocks is None:
            return _function(base, module)(module, query, key, value, mask, **kwargs)
        if varlen and all(block.masks[module.layer_idx] is None for block in blocks):
            return _at_once(blocks, query, key, value, kwargs["scaling"]), None
        sizes = [block.texts * block.tokens for block in blocks]
        parts = zip(blocks, *(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True)
        outputs = []
        for block, *states in parts:  # [heads, texts x tokens, width]
            batch = (x.unflatten(1, (block.texts, block.tokens)).transpose(0, 1) for x in states)
            own = block.masks[module.layer_idx]
            options = kwargs | {"is_causal": block.is_causal and own is None}
            function = _function(block.kernel, module)
            if block.kernel == "eager" and _is_plain(function) and not kwargs.get("dropout"):
                function = _matrix_products
            output, _ = function(module, *batch, own, **options)
            outputs.append(output.flatten(0, 1))  # [texts x tokens, heads, width]
        return torch.cat(outputs).unsqueeze(0), None

    return attention


def _at_once(
    blocks: Sequence[Block], query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    """Return what torch's kernel for texts of any length reads of a packed row, on a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = [block.tokens for block in blocks for _ in range(block.texts)]
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    places, longest = ends.to(query.device), max(lengths)
    queries, keys, values = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    read: Any = varlen_attn(
        queries,
        keys,
        values,
        places,
        places,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0) if blocks[0].is_causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    attended: Tensor = read.unsqueeze(0)
    return attended
