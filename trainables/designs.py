"""What a design needs of a decoder: its faults, and the widths that depend on the decoder."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AutoConfig

from trainables import layers
from trainables.catalogue import design
from trainables.config import (
    EMBEDDED_MODEL,
    FFN_RATIO,
    BackboneConfig,
    ConfigError,
    PoolingConfig,
    TrialConfig,
)
from trainables.faults import check
from trainables.model.decoder import own_windows
from trainables.model.kv_heads import UnsupportedDecoderError
from trainables.model.pooling import Pooling
from trainables.shape import Shape
from trainables.tokenizer import locate

TOLERANCE = 0.02  # of match_parameters
WIDEST = 2**17  # that a free width is solved for


def shape(config: BackboneConfig) -> Shape:
    """Return the shape of the decoder that a configuration names, from its settings alone.

    Raises:
        ConfigError: If the model cannot be found or has fewer layers than asked for.
    """
    try:
        settings = AutoConfig.from_pretrained(locate(config.model))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"backbone.model: expected {EMBEDDED_MODEL!r}, a model folder or a reachable hub id, "
            f"got {config.model!r} ({reason})"
        ) from error
    whole = shape_of(settings)
    kept = config.num_layers or whole.depth
    if kept > whole.depth:
        raise ConfigError(
            f"backbone.num_layers: expected at most {whole.depth}, "
            f"the layers of {config.model}, got {kept}"
        )
    return dataclasses.replace(whole, depth=kept)


def shape_of(settings: Any) -> Shape:
    """Return the shape that a decoder's own configuration says.

    Raises:
        ConfigError: If it is the configuration of something else.
    """
    try:
        heads = settings.num_attention_heads
        return Shape(
            depth=settings.num_hidden_layers,
            width=settings.hidden_size,
            num_heads=heads,
            num_key_value_heads=getattr(settings, "num_key_value_heads", None) or heads,
            windows=tuple(own_windows(settings)) if any(own_windows(settings)) else (),
        )
    except AttributeError as error:
        raise ConfigError(
            f"backbone.model: expected a decoder of texts, got {type(settings).__name__} "
            f"without {error.name}"
        ) from error


def check_design(config: TrialConfig, shape: Shape) -> None:
    """Refuse a design that is degenerate, or that is another one under a second name.

    Raises:
        ConfigError: With every fault.
    """
    mask, head = design("masks", config.attention.mask), design("heads", config.pooling.head)
    wrong = layers.fault(config.pooling.layers, shape.depth)
    faults = {
        "pooling.layers": wrong,
        "pooling.include_instruction": _unread_instruction(config),
        "attention.key_value_heads": _same_heads(config, shape),
        "engine.attn_implementation": _ignored(config, mask, shape),
        "attention.window": _own_window(config, shape),
    }
    if not wrong:
        read = layers.numbers(config.pooling.layers, shape.depth)
        faults |= _other_masks(config, read[-1])
        faults |= getattr(head, "refuse", lambda pooling, num_layers: {})(
            config.pooling, len(read)
        )
        faults |= _sizes(config, shape)
    check(faults | getattr(mask, "refuse", lambda config: {})(config))


def _unread_instruction(config: TrialConfig) -> str | None:
    pooling, given = config.pooling, config.instructions
    if pooling.include_instruction:
        return None
    if not (given.query or given.document or given.other):
        return "expected true without an instruction, got false; set instructions.query"
    if pooling.token_scope == "last_token":
        return "expected true with token_scope 'last_token', which reads no instruction, got false"
    return None


def _same_heads(config: TrialConfig, shape: Shape) -> str | None:
    wanted = config.attention.key_value_heads
    same = {"multi_head": shape.num_heads, "multi_query": 1}.get(wanted)
    if same != shape.num_key_value_heads:
        return None
    return f"expected 'native', as the decoder has {wanted!r} attention already, got {wanted!r}"


def _own_window(config: TrialConfig, shape: Shape) -> str | None:
    """Refuse a window that the decoder's own windows, in every layer, keep inside."""
    window, own = config.attention.window, shape.windows
    if config.attention.mask != "sliding_window" or not own or None in own:
        return None
    widest = max(filter(None, own))
    if window < widest - 1:
        return None
    return (
        f"expected less than {widest - 1}, as the decoder's own layers see no further, "
        f"got {window}: it would be bidirectional"
    )


def _ignored(config: TrialConfig, mask: Any, shape: Shape) -> str | None:
    kernel = config.engine.attn_implementation
    if kernel != "flash_attention_2":
        return None
    if config.engine.precision == "fp32":
        return "expected 'sdpa' or 'eager' with precision 'fp32', got 'flash_attention_2'"
    is_causal = getattr(mask, "IS_CAUSAL", None)
    if is_causal or (is_causal is False and not shape.windows):
        return None
    return (
        f"expected 'sdpa' or 'eager' with mask {config.attention.mask!r}, which FlashAttention "
        f"ignores in silence, got {kernel!r}"
    )


def _other_masks(config: TrialConfig, deepest: int) -> dict[str, str]:
    """Refuse a mask under which every state that is read is the same as under a simpler one.

    The decoder ends at the deepest layer that is read. A last token sees its whole text under
    every mask but a window, so in that layer it does not matter what the others see.
    """
    mask, last = config.attention.mask, config.pooling.token_scope == "last_token"
    if mask == "last_k_bidirectional":
        return _other_layers(config.attention.bidirectional_layers, deepest, last)
    reason = None
    if mask == "two_stream" and last:
        reason = "token_scope 'last_token', which sees the whole first stream: it would be causal"
    elif mask == "two_stream" and deepest == 1:
        reason = "one layer, as both streams start equal: it would be bidirectional"
    elif mask in ("bidirectional", "gradual", "prefix") and last and deepest == 1:
        reason = "one layer and token_scope 'last_token': it would be causal"
    return {"attention.mask": f"expected another with {reason}, got {mask!r}"} if reason else {}


def _other_layers(count: int, deepest: int, last: bool) -> dict[str, str]:
    fault = None
    if count >= deepest:
        fault = (
            f"expected less than {deepest}, the deepest layer that is read, got {count}: "
            "it would be bidirectional"
        )
    elif count == 1 and last:
        fault = (
            "expected at least 2 with token_scope 'last_token', which sees the whole text in the "
            "last layer anyway, got 1: it would be causal"
        )
    return {"attention.bidirectional_layers": fault} if fault else {}


def _sizes(config: TrialConfig, shape: Shape) -> dict[str, str]:
    """Return the faults of sizes that depend on each other."""
    try:
        pooling = resolve(config, shape).pooling
    except ConfigError as error:
        name, _, fault = str(error).partition(": ")
        return {name: fault}
    pooled, faults = head(pooling, shape), {}
    cut, width = pooling.truncate_to, pooled.head.output_size
    if cut is not None and pooling.output_size is not None:
        faults["pooling.truncate_to"] = (
            f"expected none with an output_size, got {cut}: it would be a narrower output_size"
        )
    elif cut is not None and cut >= width:
        faults["pooling.truncate_to"] = f"expected less than the vector's {width}, got {cut}"
    wide = [size for size in config.objective.matryoshka if size >= pooled.output_size]
    if wide:
        faults["objective.matryoshka"] = (
            f"expected sizes below the embedding's {pooled.output_size}, got {wide}"
        )
    return faults


def head(pooling: PoolingConfig, shape: Shape) -> Pooling:
    """Return the read-out without memory for its weights, to be counted and asked for widths."""
    with torch.device("meta"):
        return Pooling(pooling, shape.width, len(layers.numbers(pooling.layers, shape.depth)))


def resolve(config: TrialConfig, shape: Shape) -> TrialConfig:
    """Return the configuration with every width a number, the free one solved for.

    Raises:
        ConfigError: If no width gives `pooling.match_parameters` within 2 %.
    """
    pooling = config.pooling
    if pooling.match_parameters is not None:
        pooling = _matched(pooling, pooling.match_parameters, shape)
    return dataclasses.replace(config, pooling=_filled(pooling, shape))


def _filled(pooling: PoolingConfig, shape: Shape) -> PoolingConfig:
    """Return the pooling with numbers for the widths that are left to others."""
    hidden = pooling.hidden_size or shape.width
    inner = pooling.ffn_size or FFN_RATIO * hidden
    return dataclasses.replace(pooling, hidden_size=hidden, ffn_size=inner)


def _matched(pooling: PoolingConfig, wanted: int, shape: Shape) -> PoolingConfig:
    """Return the pooling whose free width brings its parameters closest to the wanted number."""
    name = pooling.free_width
    if name not in getattr(design("heads", pooling.head), "READS", ()):
        raise ConfigError(
            f"pooling.match_parameters: expected none with head {pooling.head!r}, "
            f"which has no {name}, got {wanted:,}"
        )

    def made(width: int) -> PoolingConfig:
        return dataclasses.replace(pooling, **{name: width})  # type: ignore[arg-type]

    def count(width: int) -> int:
        return sum(p.numel() for p in head(_filled(made(width), shape), shape).parameters())

    best = _closest(count, wanted, shape.width)
    if abs(count(best) - wanted) > TOLERANCE * wanted:
        raise ConfigError(
            f"pooling.match_parameters: expected a number within 2 % of one that {name} reaches, "
            f"got {wanted:,}; {name} {best} gives {count(best):,}; take such a number, or another "
            "pooling.free_width"
        )
    return made(best)


def _closest(count: Callable[[int], int], wanted: int, own: int) -> int:
    """Return the width whose `count` comes closest to `wanted`, by bisection.

    The count rises with the width but at the backbone's `own`, where a projection falls away.

    >>> [_closest(lambda width: 10 * width - 35 * (width == 4), n, own=4) for n in (6, 42, 58)]
    [4, 5, 6]
    """

    def other(place: int) -> int:
        return place + (place >= own)

    below = bisect.bisect(range(1, WIDEST - 1), wanted, key=lambda place: count(other(place)))
    near = (other(max(1, below)), other(below + 1), own)
    return min(near, key=lambda width: abs(count(width) - wanted))


@contextlib.contextmanager
def refused_by_name() -> Iterator[None]:
    """Turn a decoder's refusal into a fault of the configuration."""
    try:
        yield
    except UnsupportedDecoderError as error:
        raise ConfigError(str(error)) from error
