"""A fraction of a factorial: the cells from which the main effects can be told best.

Regular fractions (2^(k-p)) need factors that are crossed and have equally many levels; a space's
are nested and mixed. So the fraction is D-optimal: its cells make the determinant of X'X largest,
X being the matrix of the effects. It is found as by Fedorov (Theory of Optimal Experiments, 1972),
by exchanging one cell at a time for that which helps most, until none helps; a small prior on
every effect (DuMouchel and Jones, Technometrics 36, 1994) gives meaning to fractions that are
smaller than the number of effects.

The effects are the main ones, or with two-factor interactions where the fraction has as many
cells as there are such effects. A factor that has no meaning in a cell (a window without a sliding
window) adds nothing there: the level that brings it in has an effect of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.factorial import Cell, factors_of

Effect = tuple[tuple[str, Any], ...]  # the level of a factor, or of two; () is the mean
Matrix = npt.NDArray[np.float64]

PRIOR = 1e-3  # precision of an effect before any run, in runs
NIL = 1e-9  # relative gain of an exchange that is not worth it
STARTS = 4  # first cells to grow a fraction from; the best that comes of them is taken
SOME = 4  # times as many cells as the fraction's tell whether interactions are out of reach
ALIASED = 0.999  # absolute correlation from which two effects cannot be told apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Fraction:
    """Some cells of a factorial, and what can be learned from them."""

    chosen: tuple[int, ...]  # places of the cells, in order
    interactions: bool  # whether two-factor interactions were among the effects
    num_effects: int  # that it was chosen for, the mean included
    num_estimable: int
    efficiency: float  # D-efficiency per run, relative to the whole factorial; can exceed 1
    aliases: tuple[tuple[str, str], ...]  # a main effect, and what cannot be told from it


def fraction(
    cells: Sequence[Cell], size: int, *, seed: int, kept: Sequence[int] = (0,)
) -> Fraction:
    """Return the best fraction of `size` cells that was found, those at `kept` among them.

    The same arguments give the same fraction.
    """
    mains = main_effects(cells)
    wanted = [(), *mains]
    both = pairs(cells, mains)
    matrix = _independent(effect_matrix(cells, wanted))
    interactions = False
    some = cells[:: max(1, len(cells) // (SOME * size))]  # their rank is at most that of all
    if np.linalg.matrix_rank(effect_matrix(some, [*wanted, *both])) <= size:
        fuller = _independent(effect_matrix(cells, [*wanted, *both]))
        interactions = size >= fuller.shape[1]
        matrix = fuller if interactions else matrix
    orders = np.random.default_rng(seed)
    starts = [_exchanged(matrix, _grown(matrix, size, kept, orders), kept) for _ in range(STARTS)]
    chosen = sorted(max(starts, key=lambda places: _log_determinant(matrix[np.array(places)])))
    part = matrix[chosen]
    return Fraction(
        chosen=tuple(chosen),
        interactions=interactions,
        num_effects=matrix.shape[1],
        num_estimable=int(np.linalg.matrix_rank(part)),
        efficiency=efficiency(part, matrix),
        aliases=aliases([cells[place] for place in chosen], mains),
    )


def num_effects(cells: Sequence[Cell], *, interactions: bool) -> int:
    """Return how many effects there are, the mean included: the fewest cells that tell them."""
    mains = main_effects(cells)
    wanted: list[Effect] = [(), *mains, *(pairs(cells, mains) if interactions else ())]
    return int(_independent(effect_matrix(cells, wanted)).shape[1])


def main_effects(cells: Sequence[Cell]) -> list[Effect]:
    """Return each level of each factor but the first, which is what it is compared with."""
    levels = factors_of(cells)
    return [((factor, level),) for factor, known in levels.items() for level in known[1:]]


def pairs(cells: Sequence[Cell], mains: Sequence[Effect]) -> list[Effect]:
    """Return the interactions of two factors whose levels meet in some cell."""
    known = {effect[0] for effect in mains}
    found: dict[Effect, None] = {}
    for cell in cells:
        own = [item for item in cell.levels.items() if item in known]
        found |= dict.fromkeys(itertools.combinations(own, 2))
    return list(found)


def effect_matrix(cells: Sequence[Cell], effects: Sequence[Effect]) -> Matrix:
    """Return an indicator of each effect in each cell: (cells, effects)."""
    place = {effect: column for column, effect in enumerate(effects)}
    order = max(map(len, effects), default=0)
    matrix = np.zeros((len(cells), len(effects)))
    for row, cell in enumerate(cells):
        for size in range(order + 1):
            for effect in itertools.combinations(cell.levels.items(), size):
                if effect in place:
                    matrix[row, place[effect]] = 1.0
    return matrix


def _independent(matrix: Matrix) -> Matrix:
    """Return the columns that are no combination of those before them."""
    kept: list[int] = []
    basis = np.empty((len(matrix), 0))
    for column in range(matrix.shape[1]):
        rest = matrix[:, column] - basis @ (basis.T @ matrix[:, column])
        rest -= basis @ (basis.T @ rest)
        length = float(np.linalg.norm(rest))
        if length > 1e-8:
            kept.append(column)
            basis = np.column_stack([basis, rest / length])
    return matrix[:, kept]


def _information(part: Matrix) -> Matrix:
    return part.T @ part + PRIOR * np.eye(part.shape[1])


def _log_determinant(part: Matrix) -> float:
    return float(np.linalg.slogdet(_information(part))[1])


def _grown(
    matrix: Matrix, size: int, kept: Sequence[int], orders: np.random.Generator
) -> list[int]:
    """Return cells taken one after the other, each the best then; the second one by lot."""
    chosen = list(kept)
    if len(chosen) < size:
        left = np.setdiff1d(np.arange(len(matrix)), chosen)
        chosen.append(int(orders.choice(left)))
    while len(chosen) < size:
        inverse = np.linalg.inv(_information(matrix[chosen]))
        gains = np.einsum("ij,jk,ik->i", matrix, inverse, matrix, optimize=True)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
    return chosen


def _exchanged(matrix: Matrix, chosen: list[int], kept: Sequence[int]) -> list[int]:
    """Exchange chosen cells for others while that makes the determinant larger.

    Taking in row x and leaving out row y multiplies it by (1 + x'Ax)(1 - y'Ay) + (x'Ay)², where A
    is the inverse of the information.
    """
    chosen = list(chosen)
    free = [place for place, cell in enumerate(chosen) if cell not in kept]
    while free:
        rows = matrix[[chosen[place] for place in free]]
        inverse = np.linalg.inv(_information(matrix[chosen]))
        across = rows @ inverse
        own = np.einsum("ij,ij->i", across, rows)
        others = np.einsum("ij,jk,ik->i", matrix, inverse, matrix, optimize=True)
        ratio = np.outer(1 - own, 1 + others) + (across @ matrix.T) ** 2
        ratio[:, chosen] = 0.0
        out, into = np.unravel_index(int(ratio.argmax()), ratio.shape)
        if ratio[out, into] <= 1 + NIL:
            break
        chosen[free[int(out)]] = int(into)
    return chosen


def efficiency(part: Matrix, whole: Matrix) -> float:
    """Return the D-efficiency of some rows per run, relative to all of them.

    The p-th root of the ratio of det(X'X / runs) for p effects. The leaves of a nested space show
    its levels unequally often, so that a part can be better than the whole; 0 means that not all
    effects can be estimated.
    """
    logs = []
    for rows in (part, whole):
        sign, value = np.linalg.slogdet(rows.T @ rows / len(rows))
        if sign <= 0 or np.linalg.matrix_rank(rows) < rows.shape[1]:
            return 0.0
        logs.append(float(value))
    return float(np.exp((logs[0] - logs[1]) / whole.shape[1]))


def aliases(cells: Sequence[Cell], mains: Sequence[Effect]) -> tuple[tuple[str, str], ...]:
    """Return each main effect with another effect that cannot be told from it in these cells.

    The other is a main effect or an interaction of two other factors; both are centred where
    their factors have a meaning, and cannot be told apart if their correlation is 1 or -1.
    """
    seen = {item for cell in cells for item in cell.levels.items()}
    shown = [effect for effect in mains if effect[0] in seen]
    centred = _centred(cells, shown)
    place = {effect[0]: column for column, effect in enumerate(shown)}
    others = pairs(cells, shown)
    products = [centred[:, place[a]] * centred[:, place[b]] for a, b in others]
    columns = _normal(np.column_stack([centred, *products]))
    correlations = np.abs(_normal(centred).T @ columns)
    everything = [*shown, *others]
    found = []
    for row, effect in enumerate(shown):
        for column in np.flatnonzero(correlations[row] > ALIASED):
            other = everything[int(column)]
            if effect[0][0] not in {factor for factor, _ in other} and (
                len(other) > 1 or int(column) > row
            ):
                found.append((name(effect), name(other)))
    return tuple(found)


def _centred(cells: Sequence[Cell], mains: Sequence[Effect]) -> Matrix:
    matrix = effect_matrix(cells, mains) if mains else np.zeros((len(cells), 0))
    for column, ((factor, _),) in enumerate(mains):
        has = np.array([factor in cell.levels for cell in cells])
        matrix[has, column] -= matrix[has, column].mean()
    return matrix


def _normal(columns: Matrix) -> Matrix:
    """Return the columns with mean 0 and length 1; one that does not vary becomes 0."""
    moved = columns - columns.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=0)
    return np.where(lengths > 1e-9, moved / np.where(lengths > 1e-9, lengths, 1.0), 0.0)


def name(effect: Effect) -> str:
    """Return an effect in words.

    >>> name((("attention.mask", "prefix"), ("pooling.num_heads", 8)))
    'attention.mask=prefix & pooling.num_heads=8'
    """
    return " & ".join(f"{factor}={level}" for factor, level in effect)
