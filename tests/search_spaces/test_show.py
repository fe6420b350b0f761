from __future__ import annotations

import pytest

from search_spaces.factorial import Cell, cells, factors_of
from search_spaces.show import conditions, describe, main
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.shape import EMBEDDED


def cell(**levels: str) -> Cell:
    return Cell(levels=dict(levels), params={})


GROWN = [
    cell(mask="causal", head="none"),
    cell(mask="causal", head="self", width="8"),
    cell(mask="causal", head="cross", width="8"),
    cell(mask="causal", head="cross", width="16"),
    cell(mask="window", head="none", size="4"),
    cell(mask="window", head="none", size="8"),
]


def test_a_condition_says_what_must_be_or_must_not() -> None:
    assert conditions("mask", GROWN) == []
    assert conditions("width", GROWN) == ["mask is causal", "head is not none"]
    assert conditions("size", GROWN) == ["mask is window", "head is none"]


@pytest.mark.parametrize("name", SPACES)
def test_conditions_are_true_of_every_space(name: str) -> None:
    found = cells(SPACES[name], TrialConfig(), EMBEDDED)
    for factor in factors_of(found):
        if not conditions(factor, found):
            continue
        having = [each for each in found if factor in each.levels]
        for said in conditions(factor, found):
            other, _, levels = said.partition(" is ")
            barred = levels.startswith("not ")
            named = levels.removeprefix("not ").split(" or ")
            assert all((str(each.levels[other]) in named) != barred for each in having)


def test_the_number_of_designs_and_of_factors_come_first() -> None:
    assert describe("mine", GROWN)[0] == "mine: 6 designs; factors: 4"
    assert "  --fraction main: 6 designs tell the main effects" in describe("mine", GROWN)


def test_a_space_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["literature", "--trial-hours", "0.5", "--seeds", "2", "--gpu-price", "3"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert said.endswith("  9 designs x 2 seeds x 0.5 h = 9 GPU-hours, 27 in money\n")


def test_all_faults_come_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atention", "--seeds", "0", "--layers", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "space: expected one of 'attention', 'pooling', 'joint', 'literature', got 'atention' "
        "(did you mean 'attention'?)",
        "seeds: expected at least 1, got 0",
        "layers: expected at least 1, got 0",
    ]
    assert main(["attention", "--factors", "attention.mas"]) == 2
    assert "did you mean 'attention.mask'?" in capsys.readouterr().err
