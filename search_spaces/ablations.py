"""The two ablations that arXiv 2409.02727 left out, and their product.

`MASKS` and `HEADS` hold one entry for each file of `trainables/model/masks` and `heads`. An entry
says what has no meaning with it, so that no degenerate design is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from search_spaces.drawing import CONTROL, Overlay, Trial, choose, instructed
from trainables.config import TrialConfig
from trainables.layers import fault, numbers
from trainables.shape import Shape

SCOPES = ("last_token", "mean", "weighted_mean", "all_tokens")
LAYERS = (  # the control's first
    *("last", "all", "last_2", "last_4", "last_8"),
    *("first_third", "middle_third", "last_third", "every_2", "every_4"),
)
SHARES = (8, 2, 1)  # the backbone's width over the head's
NUM_HEADS = (1, 8)


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask, and what goes with it."""

    name: str
    _: KW_ONLY
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scopes: tuple[str, ...] = SCOPES
    adapts: bool = True  # MNTP can get the backbone used to it
    needs_instruction: bool = False
    reads_text: bool = True
    deepest: int = 2  # layer that has to be read, or it would be a simpler mask; -1: the last


@dataclass(frozen=True, slots=True)
class Head:
    """A pooling head, and what it has a meaning over."""

    name: str
    _: KW_ONLY
    attends: bool = True  # it has a width, and attention heads, of its own
    num_latents: tuple[int, ...] = ()
    fewest: int = 2  # vectors of layers; all tokens of one layer are enough
    most: int | None = None
    all_tokens: bool = True

    def takes(self, num_layers: int, scope: str) -> bool:
        """Return whether it can read so many layers under a token scope."""
        fewest = 1 if scope == "all_tokens" else self.fewest
        fits = fewest <= num_layers <= (self.most or num_layers)
        return fits and (self.all_tokens or scope != "all_tokens")


MASKS = (
    Mask("causal", adapts=False, deepest=1),
    Mask("bidirectional"),
    Mask("prefix", needs_instruction=True),
    Mask("last_k_bidirectional", sizes={"bidirectional_layers": (2, 4, 8)}, deepest=-1),
    Mask("sliding_window", sizes={"window": (4, 16, 64)}),
    Mask("gradual"),
    Mask(
        "latent_readout",
        sizes={"num_latents": (4, 16)},
        scopes=("mean", "all_tokens"),
        adapts=False,
        reads_text=False,
    ),
    Mask("two_stream", scopes=SCOPES[1:]),  # the last token sees the whole first stream
)
HEADS = (
    Head("none", attends=False, fewest=1, most=1, all_tokens=False),
    Head("scalar_mix", attends=False, all_tokens=False),
    Head("self_attention"),
    Head("cross_attention", num_latents=(1, 16, 64)),
    Head("latent_attention", num_latents=(16, 64), fewest=1),
)


def attention(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
    """Ablation 1: the backbone's mask, heads and adaptation, and attention in the head.

    The mask is crossed with the token scope. A head reads all tokens of the last layer, or one
    vector of each layer; its width is the base's, which one head has whole or many share.
    """
    mask, drawn = _mask(trial, base, shape)
    drawn["adaptation.kind"] = choose(trial, "adaptation.kind", _adaptations(mask, base))
    drawn |= _tokens(trial, base, mask)
    scope, words = drawn["pooling.token_scope"], layer_scopes(shape.depth)[:2]  # last, all
    heads = tuple(head for head in HEADS if head.attends or head.name == "none")
    head = _head(trial, heads, scope, words, shape)
    fitting = _fitting(head, scope, words, shape)
    drawn["pooling.head"] = head.name
    drawn["pooling.layers"] = fitting[0] if scope == "all_tokens" else fitting[-1]
    return drawn | _heads_of(trial, head, base, base.pooling.hidden_size or shape.width)


def pooling(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
    """Ablation 2: which tokens and layers are read, by which head of which sizes.

    The mask is the base's.
    """
    return _read_out(trial, base, shape, _entry(base.attention.mask))


def joint(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
    """Both ablations at once, but for the adaptation, which costs a second training."""
    mask, drawn = _mask(trial, base, shape)
    return drawn | _read_out(trial, base, shape, mask)


def _entry(mask: str) -> Mask:
    """Return the entry of a mask; one that the spaces do not draw has the usual one."""
    return {known.name: known for known in MASKS}.get(mask, Mask(mask))


def layer_scopes(depth: int) -> tuple[str, ...]:
    """Return words for the layers of a decoder, equal ones once; a middle layer comes last.

    >>> layer_scopes(2)
    ('last', 'all', '1')
    >>> layer_scopes(6)
    ('last', 'all', 'last_2', 'last_4', 'first_third', 'middle_third', 'every_2', '3')
    """
    found: dict[tuple[int, ...], str] = {}
    for scope in (*LAYERS, str(max(1, depth // 2))):
        if fault(scope, depth):
            continue
        read = numbers(scope, depth)
        if len(read) > 1 or not scope.startswith("every"):
            found.setdefault(read, scope)
    return tuple(found.values())


def _mask(trial: Trial, base: TrialConfig, shape: Shape) -> tuple[Mask, Overlay]:
    """Draw the mask, its sizes and the backbone's heads."""
    offered = {mask.name: mask for mask in MASKS if _is_offered(mask, base, shape)}
    mask = offered[choose(trial, "attention.mask", tuple(offered))]
    drawn: Overlay = {"attention.mask": mask.name}
    for size, choices in _sizes(mask, base, shape).items():
        drawn[f"attention.{size}"] = choose(trial, f"attention.{size}", choices, mask.name)
    heads = _key_value_heads(shape)
    drawn["attention.key_value_heads"] = choose(trial, "attention.key_value_heads", heads)
    return mask, drawn


def _is_offered(mask: Mask, base: TrialConfig, shape: Shape) -> bool:
    if mask.needs_instruction and not instructed(base):
        return False
    return shape.depth >= mask.deepest and all(_sizes(mask, base, shape).values())


def _sizes(mask: Mask, base: TrialConfig, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the choices for a mask's sizes, below those at which it would be bidirectional."""
    training = base.training
    longest = max(
        training.max_query_tokens, training.max_passage_tokens, base.evaluation.max_tokens
    )
    limits = {"bidirectional_layers": shape.depth, "window": longest - 1}
    return {
        name: tuple(size for size in sizes if size < limits.get(name, math.inf))
        for name, sizes in mask.sizes.items()
    }


def _key_value_heads(shape: Shape) -> tuple[str, ...]:
    """Return the decoder's own structure and those that are another."""
    counts = {"multi_head": shape.num_heads, "multi_query": 1}
    others = (name for name, count in counts.items() if count != shape.num_key_value_heads)
    return ("native", *others)


def _adaptations(mask: Mask, base: TrialConfig) -> tuple[str, ...]:
    """Return the adaptations that change something; passages are what MNTP is trained on."""
    sees = base.instructions.document or not mask.needs_instruction
    return ("none", "mntp") if mask.adapts and sees else ("none",)


def _tokens(trial: Trial, base: TrialConfig, mask: Mask) -> Overlay:
    """Draw which tokens are read."""
    context = "" if mask.scopes == SCOPES else mask.name
    scope = choose(trial, "pooling.token_scope", mask.scopes, context)
    drawn: Overlay = {"pooling.token_scope": scope}
    if instructed(base) and scope != "last_token" and mask.reads_text:
        name = "pooling.include_instruction"
        drawn[name] = choose(trial, name, (True, False))
    return drawn


def _deep_enough(mask: Mask, depth: int) -> tuple[str, ...]:
    """Return the words for layers whose deepest is one that the mask has a meaning for."""
    least = depth if mask.deepest == -1 else min(mask.deepest, depth)
    return tuple(w for w in layer_scopes(depth) if numbers(w, depth)[-1] >= least)


def _fitting(head: Head, scope: str, words: Sequence[str], shape: Shape) -> tuple[str, ...]:
    """Return those words for layers that a head can read under a token scope."""
    counts = {word: len(numbers(word, shape.depth)) for word in words}
    return tuple(word for word, count in counts.items() if head.takes(count, scope))


def _head(
    trial: Trial, heads: Sequence[Head], scope: str, words: Sequence[str], shape: Shape
) -> Head:
    """Draw a head that can read some of the layers under the token scope."""
    offered = {head.name: head for head in heads if _fitting(head, scope, words, shape)}
    context = scope if scope == "all_tokens" else ""
    return offered[choose(trial, "pooling.head", tuple(offered), context)]


def _read_out(trial: Trial, base: TrialConfig, shape: Shape, mask: Mask) -> Overlay:
    """Draw tokens, head, layers and the head's sizes."""
    drawn = _tokens(trial, base, mask)
    scope, words = drawn["pooling.token_scope"], _deep_enough(mask, shape.depth)
    head = _head(trial, HEADS, scope, words, shape)
    drawn["pooling.head"] = head.name
    fitting = _fitting(head, scope, words, shape)
    control = (mask.name, head.name) == (CONTROL["attention.mask"], CONTROL["pooling.head"])
    context = "" if control else ", ".join(fitting)
    drawn["pooling.layers"] = choose(trial, "pooling.layers", fitting, context)
    width = shape.width
    if head.attends:
        width = choose(trial, "pooling.hidden_size", _hidden_sizes(base, shape))
        drawn["pooling.hidden_size"] = width
    if head.num_latents:
        name = "pooling.num_latents"
        drawn[name] = choose(trial, name, head.num_latents, head.name)
    return drawn | _heads_of(trial, head, base, width)


def _hidden_sizes(base: TrialConfig, shape: Shape) -> tuple[int, ...]:
    """Return widths of a head that leave room for the sizes that an embedding is cut to."""
    given = base.pooling
    if given.match_parameters is not None and given.free_width == "hidden_size":
        return (given.hidden_size or shape.width,)  # it is solved for
    cuts = (given.truncate_to or 0, *base.objective.matryoshka)
    least = 0 if given.output_size else max(cuts)
    return tuple(shape.width // s for s in SHARES if shape.width // s > least) or (shape.width,)


def _heads_of(trial: Trial, head: Head, base: TrialConfig, width: int) -> Overlay:
    """Draw how many attention heads share the width; without any there is nothing to match."""
    if not head.attends:
        matching = base.pooling.match_parameters is not None
        return {"pooling.match_parameters": None} if matching else {}
    num_heads = choose(trial, "pooling.num_heads", NUM_HEADS)
    return {"pooling.num_heads": num_heads, "pooling.head_size": max(1, width // num_heads)}
