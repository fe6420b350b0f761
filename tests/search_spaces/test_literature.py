from __future__ import annotations

from typing import Any

import optuna
import pytest

from search_spaces.drawing import CONTROL
from search_spaces.literature import CONTROL_PRESET, PRESETS, literature, offered, scaled
from trainables.config import TrialConfig
from trainables.designs import check_design
from trainables.identity import digest
from trainables.overlay import overlay
from trainables.shape import Shape

MISTRAL = Shape(depth=32, width=4096, num_heads=32, num_key_value_heads=8)
EMBEDDED = Shape(depth=6, width=576, num_heads=9, num_key_value_heads=3)
INSTRUCTED = overlay(TrialConfig(), {"instructions.query": "Find the answer: "})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [MISTRAL, EMBEDDED], ids=["Mistral", "embedded"])
def test_every_preset_is_a_whole_design_that_can_be_built(name: str, shape: Shape) -> None:
    base = overlay(INSTRUCTED, {"backbone.num_layers": shape.depth})
    design = scaled(PRESETS[name].design, shape)
    assert design.keys() >= CONTROL.keys()
    check_design(overlay(base, design), shape)


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_the_papers_on_their_backbone(name: str) -> None:
    assert scaled(PRESETS[name].design, MISTRAL) == PRESETS[name].design


def sizes(name: str, shape: Shape) -> dict[str, Any]:
    made = scaled(PRESETS[name].design, shape)
    names = ("hidden_size", "num_heads", "head_size", "num_latents", "ffn_size")
    return {n: made[f"pooling.{n}"] for n in names if f"pooling.{n}" in made}


def test_sizes_keep_their_ratio_to_the_backbones_width() -> None:
    open_widths = {"hidden_size": None, "ffn_size": None}
    expected = {"num_heads": 32, "head_size": 288, "num_latents": 108}
    assert sizes("tang_yang_5", EMBEDDED) == open_widths | expected
    expected = {"num_heads": 8, "head_size": 576, "num_latents": 72}
    assert sizes("nv_embed", EMBEDDED) == open_widths | expected
    assert sizes("tang_yang_1", EMBEDDED) == {}


def test_the_papers_first_model_is_the_control() -> None:
    assert PRESETS[CONTROL_PRESET].design == CONTROL


def test_models_3_and_5_read_one_vector_of_each_layer_and_2_and_4_all_tokens_of_the_last() -> None:
    designs = {number: PRESETS[f"tang_yang_{number}"].design for number in (2, 3, 4, 5)}
    read = {
        number: (d["attention.mask"], d["pooling.token_scope"], d["pooling.layers"])
        for number, d in designs.items()
    }
    assert read == {
        2: ("causal", "all_tokens", "last"),
        3: ("causal", "last_token", "all"),
        4: ("bidirectional", "all_tokens", "last"),
        5: ("bidirectional", "mean", "all"),
    }


def test_what_needs_an_instruction_or_layers_is_offered_where_there_are() -> None:
    plain = set(offered(TrialConfig(), EMBEDDED))
    assert set(offered(INSTRUCTED, EMBEDDED)) - plain == {"e5_mistral", "gritlm"}
    shallow = Shape(depth=1, width=576, num_heads=9, num_key_value_heads=3)
    assert plain - set(offered(TrialConfig(), shallow)) == {"tang_yang_3", "tang_yang_5"}


def test_the_instruction_is_left_out_where_the_literature_does_and_there_is_one() -> None:
    for base in (TrialConfig(), INSTRUCTED):
        study = optuna.create_study()
        study.enqueue_trial({"preset": "llm2vec"})
        drawn = literature(study.ask(), base, EMBEDDED)
        assert drawn["adaptation.kind"] == "mntp"
        assert drawn["pooling.include_instruction"] is (base is not INSTRUCTED)


def test_presets_are_different_designs_but_for_the_control_with_an_instruction() -> None:
    found: dict[str, list[str]] = {}
    for name in PRESETS:
        key = digest(overlay(INSTRUCTED, scaled(PRESETS[name].design, EMBEDDED)))
        found.setdefault(key, []).append(name)
    assert [names for names in found.values() if len(names) > 1] == [["tang_yang_1", "e5_mistral"]]
