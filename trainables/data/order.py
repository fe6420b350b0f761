"""Which rows a step trains on, from seeds and numbers alone: nothing that a resume could lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_SHIFT = np.uint64(32)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed


class Schedule:
    """Which data set each step draws from, and how many steps before drew from the same.

    Each step goes to the data set that lacks most of its share, so that after any number of steps
    every data set has had its share of them, to about one step.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        """Divide the steps by `shares`, which sum to 1."""
        self._shares = shares
        self._counts = [0] * len(shares)
        self._turns: list[tuple[int, int]] = []

    def __call__(self, step: int) -> tuple[int, int]:
        """Return the place of the data set and its number of earlier steps."""
        while len(self._turns) <= step:
            due = len(self._turns) + 1
            lacking = [s * due - c for s, c in zip(self._shares, self._counts, strict=True)]
            chosen = lacking.index(max(lacking))
            self._turns.append((chosen, self._counts[chosen]))
            self._counts[chosen] += 1
        return self._turns[step]


def permuted(places: NDArray[np.int64], number: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Return where a random permutation of `range(number)` sends `places`, with no memory for it.

    A Feistel network over a rectangle that is hardly larger than `number` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", section 5); what falls outside is sent on.

    >>> sorted(permuted(np.arange(5), 5, seed=(0, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = np.uint64(math.isqrt(max(number - 1, 0)) + 1)
    columns = np.uint64(-(-number // int(rows)))
    keys = np.random.default_rng(seed).integers(0, 2**64, (_ROUNDS, 2), dtype=np.uint64)
    sent = places.astype(np.uint64)
    outside = np.ones(len(sent), bool)
    while outside.any():
        row, column = np.divmod(sent[outside], columns)
        for one, other in keys:
            row = (row + _mixed(column, one)) % rows
            column = (column + _mixed(row, other)) % columns
        sent[outside] = row * columns + column
        outside = sent >= number
    return sent.astype(np.int64)


def _mixed(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Return pseudorandom numbers below 2^63, so that adding a place never wraps around."""
    mixed = (values ^ key) * _FACTOR
    mixed = (mixed ^ (mixed >> _SHIFT)) * _FACTOR
    mixed ^= mixed >> _SHIFT
    return mixed >> np.uint64(1)
