from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optuna
import pytest

from search_spaces import fraction as fractions
from search_spaces.drawing import CONTROL, Overlay, Trial, choose
from search_spaces.factorial import Cell, cells, factors_of
from search_spaces.fraction import aliases, effect_matrix, fraction, main_effects, pairs
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.identity import design_digest
from trainables.overlay import overlay
from trainables.shape import Shape

SHAPE = Shape(depth=3, width=48, num_heads=4, num_key_value_heads=2)
BASE = overlay(TrialConfig(), {"backbone.num_layers": 3})


def crossed(*sizes: int) -> list[Cell]:
    """Return a full factorial of crossed factors a, b, c … with so many levels."""
    names = "abcdefgh"[: len(sizes)]
    turns = itertools.product(*(range(size) for size in sizes))
    return [Cell(levels=dict(zip(names, turn, strict=True)), params={}) for turn in turns]


def nested() -> list[Cell]:
    """Return three masks by two scopes, of which one mask has a size of three levels."""
    found = []
    for mask, scope in itertools.product(("causal", "window", "both"), ("last", "mean")):
        for size in (4, 16, 64) if mask == "window" else (None,):
            levels: dict[str, Any] = {"mask": mask, "scope": scope}
            found.append(Cell(levels=levels | ({"size": size} if size else {}), params={}))
    return found


@pytest.mark.parametrize("name", SPACES)
def test_the_walk_finds_all_that_a_search_can_draw_each_once(name: str) -> None:
    found = [
        design_digest(overlay(BASE, cell.params)) for cell in cells(SPACES[name], BASE, SHAPE)
    ]
    assert len(found) == len(set(found))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SPACES[name](study.ask(), BASE, SHAPE) for _ in range(200)]
    assert {design_digest(overlay(BASE, params)) for params in drawn} <= set(found)
    assert design_digest(overlay(BASE, CONTROL)) == found[0]


def test_a_tree_has_its_leaves_as_cells() -> None:
    def space(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
        mask = choose(trial, "mask", ("causal", "window"))
        if mask == "causal":
            return {"mask": mask}
        return {"mask": mask, "size": choose(trial, "size", (4, 16), "window")}

    found = cells(space, BASE, SHAPE)
    assert [cell.params for cell in found] == [
        {"mask": "causal"},
        {"mask": "window", "size": 4},
        {"mask": "window", "size": 16},
    ]
    assert [cell.levels for cell in found] == [cell.params for cell in found]
    assert factors_of(found) == {"mask": ["causal", "window"], "size": [4, 16]}


def test_only_the_given_factors_vary_and_the_others_are_the_controls() -> None:
    factors = ("attention.mask", "pooling.token_scope")
    found = cells(SPACES["attention"], BASE, SHAPE, factors)
    assert set(factors_of(found)) == set(factors)
    assert {cell.params["attention.key_value_heads"] for cell in found} == {"native"}
    assert found[0].params == {name: CONTROL[name] for name in found[0].params if name in CONTROL}
    vectors = [cell.params for cell in found if cell.params["pooling.token_scope"] == "mean"]
    assert {params["pooling.head"] for params in vectors} == {"none"}


def test_half_of_two_to_the_third_is_the_regular_fraction() -> None:
    everything = crossed(2, 2, 2)
    half = fraction(everything, 4, seed=0)
    assert half.efficiency == pytest.approx(1.0)
    assert (half.num_effects, half.num_estimable, half.interactions) == (4, 4, False)
    chosen = [everything[place].levels for place in half.chosen]
    assert {sum(levels.values()) % 2 for levels in chosen} == {0}  # I = ABC, with the control
    assert set(half.aliases) == {
        ("a=1", "b=1 & c=1"),
        ("b=1", "a=1 & c=1"),
        ("c=1", "a=1 & b=1"),
    }


def test_the_whole_tells_main_effects_from_interactions() -> None:
    everything = crossed(2, 3, 2)
    assert aliases(everything, main_effects(everything)) == ()


def test_with_enough_cells_interactions_count_too() -> None:
    everything = crossed(2, 2, 2, 2)
    part = fraction(everything, 12, seed=0)
    assert part.interactions
    assert part.num_estimable == part.num_effects == 1 + 4 + 6


@pytest.mark.parametrize(("everything", "size"), [(crossed(3, 2, 2), 6), (nested(), 6)])
def test_no_fraction_is_better_by_trying_all(everything: list[Cell], size: int) -> None:
    matrix = effect_matrix(everything, [(), *main_effects(everything)])

    def determinant(places: tuple[int, ...]) -> float:
        return float(np.linalg.det(matrix[list(places)].T @ matrix[list(places)]))

    others = itertools.combinations(range(1, len(everything)), size - 1)
    best = max(determinant((0, *places)) for places in others)
    assert best > 0
    assert determinant(fraction(everything, size, seed=0).chosen) == pytest.approx(best)


def test_a_fraction_keeps_what_it_must_and_is_the_same_again() -> None:
    everything = cells(SPACES["attention"], BASE, SHAPE)
    part = fraction(everything, 24, seed=3, kept=[7])
    assert 7 in part.chosen
    assert len(set(part.chosen)) == 24
    assert part == fraction(everything, 24, seed=3, kept=[7])


def test_a_fraction_shows_the_levels_of_each_factor_about_equally_often() -> None:
    everything = crossed(2, 3, 2, 3)
    part = fraction(everything, 12, seed=1)
    for factor, levels in factors_of(everything).items():
        shown = [everything[place].levels[factor] for place in part.chosen]
        counts = [shown.count(level) for level in levels]
        assert max(counts) - min(counts) <= 1, factor


def test_too_small_a_fraction_says_how_much_it_can_tell() -> None:
    everything = nested()
    part = fraction(everything, 3, seed=0)
    assert part.num_effects == 6
    assert part.num_estimable == 3
    assert part.efficiency == 0.0


def test_a_nested_factor_adds_nothing_where_it_has_no_meaning() -> None:
    everything = nested()
    mains = main_effects(everything)
    matrix = effect_matrix(everything, [(), *mains])
    assert np.linalg.matrix_rank(matrix) == matrix.shape[1] == 6
    sized = matrix[:, [1 + mains.index((("size", level),)) for level in (16, 64)]].sum(axis=1)
    masks = {everything[int(row)].levels["mask"] for row in np.flatnonzero(sized)}
    assert masks == {"window"}
    assert (("mask", "window"), ("size", 16)) in pairs(everything, mains)


def test_an_exchange_multiplies_the_determinant_as_the_formula_says() -> None:
    matrix = np.random.default_rng(0).normal(size=(9, 3))
    chosen = fractions._exchanged(matrix, [0, 1, 2, 3], kept=[0])
    logs = [fractions._log_determinant(matrix[p]) for p in ([0, 1, 2, 3], chosen)]
    assert logs[1] > logs[0]
    for place, other in itertools.product(range(1, 4), set(range(9)) - set(chosen)):
        swapped = [*chosen[:place], other, *chosen[place + 1 :]]
        assert fractions._log_determinant(matrix[swapped]) <= logs[1] + 1e-9


def test_the_fewest_cells_that_tell_all_are_as_many_as_the_effects() -> None:
    everything = crossed(2, 3, 2)
    assert fractions.num_effects(everything, interactions=False) == 1 + 1 + 2 + 1
    assert fractions.num_effects(everything, interactions=True) == 5 + 2 + 1 + 2
    for interactions in (False, True):
        size = fractions.num_effects(everything, interactions=interactions)
        part = fraction(everything, size, seed=0)
        assert part.num_estimable == part.num_effects == size
        assert part.interactions == interactions
