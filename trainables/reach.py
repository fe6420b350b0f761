"""Which states depend on which tokens: as the masks of a backbone say, and as it turns out.

A layer is measured by changing one state before it and looking at which states move behind it; the
whole backbone by changing one token. Both passes have the same shapes, so what does not depend on
the change is equal to the bit. Nothing is taken on trust, least of all a mask made by a library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.backbone import Backbone
from trainables.model.layer_masks import allowed_pairs
from trainables.model.tokens import Layer, Tokens

DRAWS = 8  # replacements at most, of which one must be seen: a small weight may drown in bf16

Pads = Sequence[tuple[int, int]]
Moved = Bool[Tensor, "rows columns"]


class Copies(NamedTuple):
    """Copies of a text, padded or not; each has a column of its own that will be changed."""

    ids: Int[Tensor, "rows tokens"]
    real: Bool[Tensor, "rows tokens"]
    instruction: Bool[Tensor, "rows tokens"]
    changed: Int[Tensor, " rows"]  # latents are the columns behind the tokens


class Wrong(NamedTuple):
    """A state that sees a token it should not, or does not see one that it should."""

    layer: int
    state: int  # place in its text
    token: int | None  # place in the text; None for padding
    sees: bool


def copies(
    text: Int[Tensor, " tokens"], num_instruction: int, num_latents: int, pads: Pads
) -> Copies:
    """Return one copy of `text` for each column that is worth changing, under each padding.

    These are the ends of the instruction, of the text and of the latents, the middle, and padding.
    """
    length = len(text)
    places = (0, num_instruction - 1, num_instruction, length // 2, length - 1)
    rows = []
    for left, right in pads:
        width = left + length + right
        columns = {left + place for place in places} | {width, width + num_latents - 1}
        columns |= {0, width - 1}  # padding, if there is any
        real = functional.pad(torch.ones_like(text, dtype=torch.bool), (left, right))
        instruction = real & (torch.arange(width, device=text.device) < left + num_instruction)
        ids = functional.pad(text, (left, right))
        rows += [(ids, real, instruction, c) for c in sorted(columns) if c < width + num_latents]
    ids, real, instruction = (torch.stack(field) for field in list(zip(*rows, strict=True))[:3])
    changed = torch.tensor([column for *_, column in rows], device=text.device)
    return Copies(ids, real, instruction, changed)


@torch.no_grad()
def wrong_layer(backbone: Backbone, rows: Copies) -> Wrong | None:
    """Return a state that a layer computes from other states than its mask says, if there is one.

    Unlike `wrong_state` this finds a wrong mask behind layers through which all is known already.
    """
    tokens = Tokens.of(rows.real, rows.instruction).with_latents(backbone.num_latents)
    found: list[Wrong] = []

    def examine(layer: Layer, window: int | None) -> Callable[..., None]:
        masks = [allowed_pairs(attends, tokens, layer, window) for attends in _streams(backbone)]

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            for stream in range(len(masks)):
                expected = _expected(masks, stream, rows.changed)
                moved = _behind(module, args, kwargs, output, stream, rows.changed, expected)
                found.extend(_first(moved, expected, expected, tokens, rows, layer.number))

        return hook

    places = zip(backbone.decoder.layers, backbone.layers(), backbone.windows, strict=True)
    with _hooked([(module, examine(layer, window)) for module, layer, window in places]):
        backbone.states(rows.ids, rows.real, rows.instruction)
    return found[0] if found else None


@contextlib.contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _streams(backbone: Backbone) -> list[Callable[..., Tensor]]:
    """Return the masks of the passes that run side by side; all read the first one's keys."""
    first = getattr(backbone.mask, "first_stream", None)
    return [attends for attends in (first, backbone.mask.attends) if attends]


def _expected(
    masks: Sequence[Bool[Tensor, "rows queries keys"]], stream: int, changed: Int[Tensor, " rows"]
) -> Bool[Tensor, "passes columns"]:
    """Return the states of all passes that depend on the changed column of one pass."""
    itself = functional.one_hot(changed, masks[0].shape[-1]).bool()
    rows = torch.arange(len(changed), device=changed.device)
    parts = []
    for number, mask in enumerate(masks):
        seen = mask[rows, :, changed] if stream == 0 else torch.zeros_like(itself)
        parts.append(seen | itself if number == stream else seen)
    return torch.cat(parts)


def _behind(
    module: nn.Module,
    args: Any,
    kwargs: Any,
    output: Any,
    stream: int,
    changed: Int[Tensor, " rows"],
    expected: Bool[Tensor, "passes columns"],
) -> Bool[Tensor, "passes columns"]:
    """Return which states behind a layer move with the changed column of one pass before it."""
    states, *others = args
    rows = torch.arange(len(changed), device=changed.device) + stream * len(changed)
    size = states.float().pow(2).mean().sqrt()
    moved = torch.zeros_like(expected)
    for _ in range(DRAWS):
        other = states.clone()
        noise = torch.randn(len(rows), states.shape[-1], device=states.device)
        other[rows, changed] = (size * noise).to(states.dtype)
        moved |= (_states(module.forward(other, *others, **kwargs)) != _states(output)).any(-1)
        if moved[expected].all():
            break
    return moved


def _states(output: Any) -> Float[Tensor, "passes columns dim"]:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _first(
    moved: Tensor, may: Tensor, must: Tensor, tokens: Tokens, rows: Copies, number: int
) -> list[Wrong]:
    """Return the first real state that moves and may not, or must and does not."""
    passes = len(moved) // len(rows.changed)
    real = tokens.real[:, -moved.shape[1] :].repeat(passes, 1)
    wrong = (((moved & ~may) | (must & ~moved)) & real).nonzero()
    if not len(wrong):
        return []
    row, column = wrong[0].tolist()
    sees, text = bool(moved[row, column]), row % len(rows.changed)
    state = tokens.position[:, -moved.shape[1] :][text, column]
    place = rows.changed[text]
    token = int(tokens.position[text, place]) if tokens.real[text, place] else None
    return [Wrong(number, int(state), token, sees)]


@torch.no_grad()
def wrong_state(backbone: Backbone, rows: Copies) -> Wrong | None:
    """Return a state that is read and depends on other tokens than the masks say, if there is one.

    What only passes from layer to layer may be seen; what a single layer hands over must be.
    """
    tokens = Tokens.of(rows.real, rows.instruction).with_latents(backbone.num_latents)
    may, must = _reach(backbone, tokens, rows)
    for number, moved in zip(backbone.read, _ahead(backbone, rows, must), strict=True):
        found = _first(moved, may[number], must[number], tokens, rows, number)
        if found:
            return found[0]
    return None


def _reach(
    backbone: Backbone, tokens: Tokens, rows: Copies
) -> tuple[dict[int, Moved], dict[int, Moved]]:
    """Return which states behind each layer may and must depend on the changed token."""
    itself = functional.one_hot(rows.changed, tokens.real.shape[1]).bool()
    itself[rows.changed >= rows.ids.shape[1]] = False  # latents are no tokens that one can change
    streams, may, must = _streams(backbone), {}, {}
    seen, handed = [itself] * len(streams), itself
    for layer, window in zip(backbone.layers(), backbone.windows, strict=True):
        masks = [allowed_pairs(attends, tokens, layer, window) for attends in streams]
        handed = handed | _step(masks[-1], itself)
        seen = [old | _step(mask, seen[0]) for old, mask in zip(seen, masks, strict=True)]
        may[layer.number] = seen[-1][:, -backbone.num_latents :]  # -0: all columns
        must[layer.number] = handed[:, -backbone.num_latents :]
    return may, must


def _step(
    allowed: Bool[Tensor, "rows queries keys"], seen: Bool[Tensor, "rows keys"]
) -> Bool[Tensor, "rows queries"]:
    return (allowed & seen.unsqueeze(1)).any(-1)


def _ahead(backbone: Backbone, rows: Copies, must: dict[int, Moved]) -> list[Moved]:
    """Return which states of the layers that are read move with the changed token."""
    places = torch.arange(len(rows.changed), device=rows.changed.device)
    is_token = rows.changed < rows.ids.shape[1]
    row, column = places[is_token], rows.changed[is_token]
    before, _ = backbone.states(rows.ids, rows.real, rows.instruction)
    moved = [torch.zeros_like(must[number]) for number in backbone.read]
    size = backbone.decoder.config.vocab_size
    for draw in range(1, DRAWS + 1):
        other = rows.ids.clone()
        other[row, column] = (other[row, column] + draw * (size // (DRAWS + 1)) + 1) % size
        after, _ = backbone.states(other, rows.real, rows.instruction)
        moved = [
            sofar | (old != new).any(-1)
            for sofar, old, new in zip(moved, before, after, strict=True)
        ]
        if all(m[must[n]].all() for m, n in zip(moved, backbone.read, strict=True)):
            break
    return moved
