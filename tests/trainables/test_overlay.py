"""Overlays by dotted names, and configurations as plain values and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.trainables.fields import OTHER
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import as_dict, field_names, flatten, from_dict, overlay


def message(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        overlay(TrialConfig(), values)
    return str(caught.value)


def test_every_field_can_be_replaced() -> None:
    assert field_names(TrialConfig()) == list(OTHER)
    found, usual = flatten(as_dict(overlay(TrialConfig(), OTHER))), flatten(as_dict(TrialConfig()))
    assert found == json.loads(json.dumps(OTHER))
    assert not [name for name in OTHER if found[name] == usual[name]]


def test_nothing_leaves_everything_as_it_was() -> None:
    base = TrialConfig()
    assert overlay(base, {}) is base
    assert overlay(base, OTHER) != base == TrialConfig()


def test_a_part_has_names_of_its_own() -> None:
    assert overlay(TrialConfig().pooling, {"layers": "all"}).layers == "all"


def test_faults_of_all_parts_are_reported_together_by_whole_names() -> None:
    values = {
        "pooling.hed": "none",
        "pooling.layers": 4,
        "training.steps": -1,
        "objective.temperature": 0,
        "adaptation.kind": "mlm",
        "seed": -1,
    }
    assert set(message(values).splitlines()) == {
        "pooling.hed: not a parameter; did you mean 'pooling.head'?",
        'pooling.layers: expected "last", "last_K", "first_third", "middle_third", "last_third", '
        '"every_N", "all" or "1,2,3", got 4; write "last_4" for that many layers, or "4" for one '
        "alone (in a shell '\"4\"')",
        "training.steps: expected at least 0, got -1",
        "objective.temperature: expected more than 0, got 0",
        "adaptation.kind: expected one of 'none', 'mntp', got 'mlm'",
        "seed: expected at least 0, got -1",
    }


def test_faults_of_a_list_of_parts_are_told_by_their_places() -> None:
    given = [{"name": "a"}, {"name": "", "weight": -1}, {"wieght": 1}, {"query_instruction": 2}]
    assert set(message({"training.data": given, "training.steps": -1}).splitlines()) == {
        "training.data.1.name: expected a name or a path, got ''",
        "training.data.1.weight: expected more than 0, got -1",
        "training.data.2.wieght: not a parameter; did you mean 'weight'?",
        "training.data.3.query_instruction: expected a text, got 2",
        "training.steps: expected at least 0, got -1",
    }
    assert message({"training.data": ["a"]}) == (
        "training.data: expected a list of data sets, got ('a',)"
    )


def test_what_concerns_several_parts_comes_with_the_rest() -> None:
    values = {"pooling.layers": "last_8", "training.batch_size": 3, "engine.num_workers": 2}
    assert message(values | {"seed": -1}).splitlines() == [
        "pooling.layers: expected layers of a backbone of 6, got 'last_8'",
        "training.batch_size: expected a multiple of engine.num_workers 2, got 3",
        "seed: expected at least 0, got -1",
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("training.learning_rat", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("pooling.num_layers", "pooling.layers"),
        ("pooling", "pooling.head"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    assert message({name: 1}) == f"{name}: not a parameter; did you mean {near!r}?"


def test_values_go_through_json_and_back() -> None:
    config = overlay(TrialConfig(), OTHER)
    plain = as_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert from_dict(plain) == config
    assert flatten(plain).keys() == OTHER.keys()
    assert from_dict({}) == TrialConfig()
    assert from_dict({"pooling": {"token_scope": "mean"}}) == overlay(
        TrialConfig(), {"pooling.token_scope": "mean"}
    )
