"""A space as a factorial: all its cells, for an ablation rather than an optimum.

A space is a tree, since what it asks depends on what was answered before; so its factorial is a
nested one, whose cells are the leaves. The walk asks the space itself, again and again, and takes
another turn each time: what a search may draw and what a factorial holds cannot come apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.drawing import CONTROL, Overlay, Space
from trainables.config import TrialConfig
from trainables.shape import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One design of a factorial."""

    levels: dict[str, Any]  # of each factor that has a meaning in it, by its plain name
    params: Overlay


class _Walk:
    """A trial that takes the given turns, and the first one after them."""

    def __init__(self, turns: Sequence[int], factors: Collection[str]) -> None:
        """Vary `factors`, or all without any; the others are as in the control."""
        self._turns = turns
        self._factors = factors
        self.asked: list[tuple[str, int, int]] = []  # factor, turn taken, number of choices
        self.levels: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the choice at this walk's turn."""
        factor = name.partition("[")[0]
        if self._factors and factor not in self._factors:
            usual = CONTROL.get(factor)
            return usual if usual in choices else choices[0]
        place = len(self.asked)
        turn = self._turns[place] if place < len(self._turns) else 0
        self.asked.append((factor, turn, len(choices)))
        self.levels[factor] = choices[turn]
        return choices[turn]


def cells(
    space: Space, base: TrialConfig, shape: Shape, factors: Collection[str] = ()
) -> list[Cell]:
    """Return every cell of a space once, in the order of its choices: first that of all firsts.

    With `factors`, only these vary, and every other parameter is as in the control, or the first
    of its choices where the control has none.
    """
    return list(each_cell(space, base, shape, factors))


def each_cell(
    space: Space, base: TrialConfig, shape: Shape, factors: Collection[str] = ()
) -> Iterator[Cell]:
    """Yield the cells of `cells`, for spaces that may have too many."""
    turns: list[int] | None = []
    while turns is not None:
        walk = _Walk(turns, factors)
        params = space(walk, base, shape)
        yield Cell(levels=walk.levels, params=params)
        turns = _next(walk.asked)


def _next(asked: Sequence[tuple[str, int, int]]) -> list[int] | None:
    """Return the turns of the walk after one, or None after the last.

    >>> _next([("mask", 0, 2), ("head", 2, 3)]), _next([("mask", 1, 2), ("head", 2, 3)])
    ([1], None)
    """
    left = list(asked)
    while left and left[-1][1] + 1 == left[-1][2]:
        left.pop()
    return [turn for _, turn, _ in left[:-1]] + [left[-1][1] + 1] if left else None


def factors_of(found: Sequence[Cell]) -> dict[str, list[Any]]:
    """Return the levels of each factor that varies, in the order in which they come."""
    levels: dict[str, list[Any]] = {}
    for cell in found:
        for factor, level in cell.levels.items():
            known = levels.setdefault(factor, [])
            if level not in known:
                known.append(level)
    return {factor: known for factor, known in levels.items() if len(known) > 1}
