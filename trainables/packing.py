"""Which texts share a forward pass, and which of them are padded to one length.

A mini-batch is what one forward pass takes; its blocks hold texts of like length and are packed
into one row, so that next to nothing is padding (`trainables/model/backbone.py`).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from trainables.model.tokens import Padded
from trainables.tokenizer import Row, pad

MAX_PADDING = 0.05  # of a block's longest text, by which its others may be shorter

Block = list[int]  # positions of texts, longest first


def num_mini_batches(lengths: Sequence[int], budget: int) -> int:
    """Return into how many mini-batches texts of these lengths go, none above `budget` tokens.

    A text that is longer by itself has a mini-batch of its own.

    >>> num_mini_batches([10, 10, 10, 10], budget=25), num_mini_batches([90, 10, 10], budget=25)
    (2, 2)
    """
    least = -(-sum(min(length, budget) for length in lengths) // budget)
    for number in range(max(1, least), len(lengths)):
        parts = _even(lengths, number)
        if all(len(part) == 1 or sum(lengths[i] for i in part) <= budget for part in parts):
            return number
    return len(lengths)


def plan(lengths: Sequence[int], number: int, num_blocks: int | None = None) -> list[list[Block]]:
    """Return the blocks of each of `number` mini-batches with about equally many tokens.

    Args:
        lengths: Of the texts.
        number: Of mini-batches.
        num_blocks: In each of them; None for as many as keep padding low.

    >>> plan([3, 90, 89, 50], number=2), plan([3, 90, 89, 50], number=1, num_blocks=2)
    ([[[1]], [[2], [3], [0]]], [[[1, 2], [3, 0]]])
    """
    parts = _even(lengths, number)
    if num_blocks is None:
        return [_blocks(part, lengths) for part in parts]
    return [[run.tolist() for run in np.array_split(part, num_blocks)] for part in parts]


def num_equal_blocks(shares: Sequence[Sequence[int]], number: int) -> int:
    """Return how many blocks the mini-batches of all workers can have alike, 4 at the most.

    With ZeRO stage 3 every call of a module gathers its weights from all workers, so they have to
    make equally many calls.

    Args:
        shares: The lengths of each worker's texts.
        number: Of mini-batches.
    """
    return min(4, *(len(part) for lengths in shares for part in _even(lengths, number)))


def _even(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Return the texts, longest first, in `number` runs of about equally many tokens."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    ends = list(itertools.accumulate(lengths[place] for place in order))
    cuts = [0]
    for part in range(1, number):
        wanted = ends[-1] * part / number
        cut = bisect.bisect_right(ends, wanted)
        # No run is empty, neither this one nor those that follow.
        cuts.append(min(max(cut, cuts[-1] + 1), len(order) - number + part))
    return [order[a:b] for a, b in itertools.pairwise([*cuts, len(order)])]


def _blocks(part: Sequence[int], lengths: Sequence[int]) -> list[Block]:
    blocks: list[Block] = []
    for place in part:
        longest = lengths[blocks[-1][0]] if blocks else 0
        if longest and lengths[place] >= (1 - MAX_PADDING) * longest:
            blocks[-1].append(place)
        else:
            blocks.append([place])
    return blocks


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokenised texts as they go through the model."""

    mini_batches: list[list[Padded]]
    order: Int[Tensor, " texts"]  # places of the texts' embeddings among those of the mini-batches

    def to(self, device: torch.device) -> Packed:
        """Return the texts on another device."""
        moved = [[block.to(device) for block in blocks] for blocks in self.mini_batches]
        return Packed(moved, self.order.to(device))


def pack(rows: Sequence[Row], number: int, padding: int, num_blocks: int | None = None) -> Packed:
    """Return the texts in `number` mini-batches, padded with the token id `padding`."""
    planned = plan([len(ids) for ids, _ in rows], number, num_blocks)
    places = [place for blocks in planned for block in blocks for place in block]
    return Packed(
        [
            [pad([rows[place] for place in block], padding) for block in blocks]
            for blocks in planned
        ],
        torch.tensor(places).argsort(),
    )
