"""Every mask and every head in small designs: the list that a new one gets its line in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.trainables.model import slow_heads
from trainables.config import AttentionConfig

DEPTH = 3
Values = dict[str, Any]


class Pair(NamedTuple):
    """A query and a key by their places in a text that latents may follow."""

    query: int
    key: int
    num_instruction: int
    length: int  # of the text
    layer: int  # from 1
    deepest: int  # layer that is read, from 1
    progress: float
    sizes: AttentionConfig


Weight = Callable[[Pair], float]


class Mask(NamedTuple):
    """With which weight a query reads a key, from 0 to 1, in words of our own."""

    weight: Weight
    first: Weight | None = None  # the mask of a first pass, whose keys are read
    has_latents: bool = False


class Head(NamedTuple):
    """A slow reference, None if there is none, and designs with the head."""

    slow: slow_heads.Slow | None
    designs: tuple[Values, ...]


def causal(pair: Pair) -> bool:
    return pair.key <= pair.query


MASKS = {
    "causal": Mask(causal),
    "bidirectional": Mask(lambda pair: True),
    "prefix": Mask(lambda pair: causal(pair) or max(pair[:2]) < pair.num_instruction),
    "last_k_bidirectional": Mask(
        lambda pair: causal(pair) or pair.layer > pair.deepest - pair.sizes.bidirectional_layers
    ),
    "sliding_window": Mask(lambda pair: abs(pair.query - pair.key) <= pair.sizes.window),
    "gradual": Mask(
        lambda pair: 1 if causal(pair) else min(1, pair.progress / pair.sizes.transition)
    ),
    "latent_readout": Mask(
        lambda pair: causal(pair) or pair.query >= pair.length, has_latents=True
    ),
    "two_stream": Mask(lambda pair: True, first=causal),
}
HEADS = {
    "none": Head(
        slow_heads.none,
        (
            {"pooling.token_scope": "last_token"},
            {
                "pooling.token_scope": "weighted_mean",
                "pooling.layers": "first_third",
                "pooling.include_instruction": False,
                "pooling.output_size": 10,
                "attention.key_value_heads": "multi_query",
            },
        ),
    ),
    "scalar_mix": Head(
        slow_heads.scalar_mix,
        (
            {"pooling.layers": "all", "attention.mask": "prefix"},
            {
                "pooling.token_scope": "weighted_mean",
                "pooling.layers": "1,3",
                "pooling.truncate_to": 5,
                "attention.mask": "bidirectional",
                "attention.key_value_heads": "multi_head",
            },
        ),
    ),
    "self_attention": Head(
        slow_heads.self_attention,
        (
            {
                "pooling.token_scope": "all_tokens",
                "pooling.include_instruction": False,
                "pooling.num_heads": 1,
                "attention.mask": "bidirectional",
            },
            {
                "pooling.token_scope": "mean",
                "pooling.layers": "last_2",
                "pooling.output_size": 40,
                "attention.key_value_heads": "multi_query",
                "attention.mask": "two_stream",
            },
        ),
    ),
    "cross_attention": Head(
        slow_heads.cross_attention,
        (
            {"pooling.layers": "all"},
            {
                "pooling.token_scope": "all_tokens",
                "pooling.layers": "every_2",
                "pooling.hidden_size": None,
                "pooling.ffn_size": None,
                "pooling.num_latents": 1,
                "attention.mask": "sliding_window",
            },
        ),
    ),
    "latent_attention": Head(
        slow_heads.latent_attention,
        (
            {"pooling.token_scope": "all_tokens", "attention.mask": "bidirectional"},
            {
                "pooling.token_scope": "mean",
                "pooling.layers": "all",
                "pooling.hidden_size": 36,  # the decoder's: no projection
                "attention.mask": "last_k_bidirectional",
                "attention.key_value_heads": "multi_head",
            },
        ),
    ),
}
READ_OUTS: tuple[Values, ...] = (
    {"pooling.token_scope": "mean", "pooling.head": "none"},
    {
        "pooling.token_scope": "all_tokens",
        "pooling.layers": "last_2",
        "pooling.head": "cross_attention",
    },
)
SMALL: Values = {
    "backbone.num_layers": None,
    "instructions.query": "find: ",
    "attention.window": 2,
    "attention.bidirectional_layers": 1,
    "attention.num_latents": 3,
    "pooling.hidden_size": 24,
    "pooling.num_heads": 2,
    "pooling.head_size": 6,
    "pooling.num_latents": 3,
    "pooling.ffn_size": 20,
    "lora.rank": 4,
    "engine.precision": "fp32",
}
DESIGNS: dict[str, Values] = {
    f"{mask} {number}": read_out | {"attention.mask": mask}
    for mask in MASKS
    for number, read_out in enumerate(READ_OUTS)
} | {
    f"{head} {number}": values | {"pooling.head": head}
    for head, made in HEADS.items()
    for number, values in enumerate(made.designs)
}
