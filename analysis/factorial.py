"""Main effects and interactions of a factorial, as weights on its cells.

A contrast is a weighted sum of cells whose weights sum to 0, so any score that cells have (of a
task, a seed, an item) gives one value of it, and the tests of two arms test it unchanged.

*Matched*: the two levels are compared within each combination of the other factors that both have,
and the combinations count equally; a factor that only some of the cells have (a width, where there
is a head) is averaged over. In a whole factorial this is the classical difference of marginal
means. An interaction is the difference of two such differences: what two levels bring together
beyond what each brings.

*Additive*: of a fraction, where less than half of the cells have such a partner, the main effect
is that of least squares with main effects alone, which is right if factors do not interact.

Which of the two is used depends on the design alone, never on the scores. Letters: C cells, S
seeds, T tasks or items.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from analysis.arrays import FloatArray
from analysis.table import is_missing

Levels = Mapping[str, str]  # of one cell, by factor; a factor without a meaning in it is absent
Method = Literal["matched", "additive"]
LEAST_MATCHED = 0.5  # share of the cells of two levels; below it, the levels are not matched


@dataclass(frozen=True, kw_only=True, slots=True)
class CellContrast:
    """One factor's level, or two factors' together, against the reference; `weights` is (C,)."""

    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    weights: FloatArray
    method: Method = "matched"

    @property
    def label(self) -> str:
        """The levels in words."""
        pairs = zip(self.factors, self.levels, strict=True)
        return " with ".join(f"{factor} {level}" for factor, level in pairs)

    @property
    def reference(self) -> str:
        """What they are compared with, in words."""
        if len(self.factors) == 1:
            return f"{self.factors[0]} {self.references[0]}"
        return "the sum of their own effects"


def levels_of(params: Mapping[str, object], factors: Sequence[str]) -> Levels:
    """The levels of one cell as text; a value that is missing has no meaning in it.

    >>> levels_of({"mask": "causal", "layers": [1, 2], "width": None}, ["mask", "layers", "width"])
    {'mask': 'causal', 'layers': '[1, 2]'}
    """
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name in factors
        if not is_missing(value := params.get(name))
    }


def factors_of(cells: Sequence[Levels]) -> dict[str, list[str]]:
    """The factors that vary, and the levels of each in the order of the cells."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for factor, level in cell.items():
            known = found.setdefault(factor, [])
            if level not in known:
                known.append(level)
    return {factor: levels for factor, levels in found.items() if len(levels) > 1}


def main_effects(cells: Sequence[Levels]) -> list[CellContrast]:
    """Each level of each factor against the first that the cells have; put the control first.

    Levels that can be told from the reference neither by partners nor by least squares are left
    out.
    """
    found = []
    for factor, levels in factors_of(cells).items():
        for level in levels[1:]:
            contrast = level_contrast(cells, factor, level, levels[0])
            if contrast:
                found.append(contrast)
    return found


def level_contrast(
    cells: Sequence[Levels], factor: str, level: str, reference: str
) -> CellContrast | None:
    """Any two levels of a factor; None where the cells cannot tell them apart."""
    sides = [_having(cells, {factor: each}) for each in (level, reference)]
    others = _shared(cells, sides, {factor})
    weights, share = _matched(cells, sides, (1.0, -1.0), others)
    method: Method = "matched"
    if share < LEAST_MATCHED:
        least = _additive(cells, others, factor, level, reference)
        if least is not None:
            weights, method = least, "additive"
        elif share == 0:
            return None
    return CellContrast(
        factors=(factor,),
        levels=(level,),
        references=(reference,),
        weights=weights,
        method=method,
    )


def interactions(cells: Sequence[Levels]) -> list[CellContrast]:
    """Every two levels of two factors against the references, where all four cells meet."""
    found = []
    for (one, ones), (two, twos) in combinations(factors_of(cells).items(), 2):
        for level in ones[1:]:
            for other in twos[1:]:
                weights, share = _crossed(cells, (one, level, ones[0]), (two, other, twos[0]))
                if share > 0:
                    found.append(
                        CellContrast(
                            factors=(one, two),
                            levels=(level, other),
                            references=(ones[0], twos[0]),
                            weights=weights,
                        )
                    )
    return found


def contrast_values(scores: FloatArray, contrast: CellContrast) -> FloatArray:
    """The contrast's value (S, T) for each seed and task, of scores (C, S, T).

    `contrasts.compare([values])` tests it over seeds and tasks, with one seed over tasks alone.
    """
    return np.asarray(np.tensordot(contrast.weights, scores, axes=1), dtype=np.float64)


def _crossed(
    cells: Sequence[Levels], one: tuple[str, str, str], two: tuple[str, str, str]
) -> tuple[FloatArray, float]:
    """(level, other) - (level, reference) - (reference, other) + (reference, reference)."""
    sides = [_having(cells, {one[0]: a, two[0]: b}) for a in one[1:] for b in two[1:]]
    others = _shared(cells, sides, {one[0], two[0]})
    return _matched(cells, sides, (1.0, -1.0, -1.0, 1.0), others)


def _having(cells: Sequence[Levels], levels: Levels) -> list[int]:
    return [
        at
        for at, cell in enumerate(cells)
        if all(cell.get(factor) == level for factor, level in levels.items())
    ]


def _shared(
    cells: Sequence[Levels], sides: Sequence[Sequence[int]], without: set[str]
) -> list[str]:
    """The other factors that have a meaning in every cell of the sides."""
    there = [cells[at] for side in sides for at in side]
    names = dict.fromkeys(name for cell in there for name in cell if name not in without)
    return [name for name in names if all(name in cell for cell in there)]


def _matched(
    cells: Sequence[Levels],
    sides: Sequence[Sequence[int]],
    signs: Sequence[float],
    others: Sequence[str],
) -> tuple[FloatArray, float]:
    """Weights (C,), and the share of the sides' cells that have partners on all sides."""
    groups = [_grouped(cells, side, others) for side in sides]
    common = [key for key in groups[0] if all(key in group for group in groups)]
    weights, used = np.zeros(len(cells)), 0
    for group, sign in zip(groups, signs, strict=True):
        for key in common:
            weights[group[key]] += sign / (len(common) * len(group[key]))
            used += len(group[key])
    return weights, used / max(sum(map(len, sides)), 1)


def _grouped(
    cells: Sequence[Levels], side: Sequence[int], others: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for at in side:
        groups.setdefault(tuple(cells[at][name] for name in others), []).append(at)
    return groups


def _additive(
    cells: Sequence[Levels], others: Sequence[str], factor: str, level: str, reference: str
) -> FloatArray | None:
    """Weights (C,) of least squares on the cells with all factors; None if they are confounded."""
    at = [n for n, cell in enumerate(cells) if all(name in cell for name in (factor, *others))]
    first = np.array([float(cells[each][factor] == level) for each in at])
    columns = [[1.0] * len(at)]
    for name in (factor, *others):
        known = dict.fromkeys(cells[each][name] for each in at)
        kept = (
            [k for k in known if k not in (level, reference)] if name == factor else [*known][1:]
        )
        columns += [[float(cells[each][name] == each_level) for each in at] for each_level in kept]
    rest = np.array(columns).T
    own = first - rest @ np.linalg.lstsq(rest, first)[0]
    if own @ own < 1e-9:
        return None
    weights = np.zeros(len(cells))
    weights[at] = own / (own @ own)
    return weights
