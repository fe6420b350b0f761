from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import optuna
import pytest

from search_spaces.ablations import HEADS, MASKS, layer_scopes
from search_spaces.drawing import CONTROL, Space
from search_spaces.literature import CONTROL_PRESET
from search_spaces.spaces import SPACES
from trainables import layers
from trainables.catalogue import designs
from trainables.config import TrialConfig
from trainables.designs import check_design
from trainables.identity import digest, used
from trainables.overlay import overlay
from trainables.shape import Shape

DECODERS = {
    "one layer": Shape(depth=1, width=48, num_heads=4, num_key_value_heads=2),
    "two layers, MHA": Shape(depth=2, width=48, num_heads=4, num_key_value_heads=4),
    "six layers, GQA": Shape(depth=6, width=576, num_heads=9, num_key_value_heads=3),
    "thirty layers, MQA": Shape(depth=30, width=2048, num_heads=8, num_key_value_heads=1),
}
INSTRUCTION = {"instructions.query": "Find the answer: "}
SIX = DECODERS["six layers, GQA"]


def base_of(shape: Shape, **changes: Any) -> TrialConfig:
    return overlay(TrialConfig(), {"backbone.num_layers": shape.depth} | changes)


def draws(space: Space, base: TrialConfig, shape: Shape, count: int = 150) -> list[dict[str, Any]]:
    """Optuna itself refuses a name whose choices change from one draw to the next."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), base, shape) for _ in range(count)]


@dataclass
class Witness:
    """A trial that takes the first choice and keeps what it was asked."""

    wanted: dict[str, Any]
    asked: dict[str, Any] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = choices
        plain = name.partition("[")[0]
        return self.wanted.get(plain, choices[0])


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("instruction", [{}, INSTRUCTION], ids=["plain", "instructed"])
class TestEverySpace:
    def test_no_design_is_degenerate(
        self, name: str, decoder: str, instruction: dict[str, Any]
    ) -> None:
        shape = DECODERS[decoder]
        base = base_of(shape, **instruction)
        for drawn in draws(SPACES[name], base, shape):
            check_design(overlay(base, drawn), shape)

    def test_no_parameter_without_a_meaning(
        self, name: str, decoder: str, instruction: dict[str, Any]
    ) -> None:
        shape = DECODERS[decoder]
        base = base_of(shape, **instruction)
        for drawn in draws(SPACES[name], base, shape):
            assert drawn.keys() <= used(overlay(base, drawn)).keys()

    def test_the_control_is_in_it_by_its_plain_names(
        self, name: str, decoder: str, instruction: dict[str, Any]
    ) -> None:
        shape = DECODERS[decoder]
        base = base_of(shape, **instruction)
        study = optuna.create_study()
        study.enqueue_trial(CONTROL | {"preset": CONTROL_PRESET})
        drawn = SPACES[name](study.ask(), base, shape)
        assert digest(overlay(base, drawn)) == digest(overlay(base, CONTROL))

    def test_the_control_pins_all_that_is_no_size(
        self, name: str, decoder: str, instruction: dict[str, Any]
    ) -> None:
        shape = DECODERS[decoder]
        base = base_of(shape, **instruction)
        varied = set().union(*draws(SPACES[name], base, shape))
        sizes = {"bidirectional_layers", "window", "num_latents"}
        sizes |= {"hidden_size", "num_heads", "head_size", "ffn_size"}
        assert {n for n in varied if n.partition(".")[2] not in sizes} <= CONTROL.keys()


def test_the_ablations_draw_every_mask_and_head_that_there_is() -> None:
    base = base_of(SIX, **INSTRUCTION)
    drawn = draws(SPACES["joint"], base, SIX, 300)
    assert {d["attention.mask"] for d in drawn} == set(designs("masks"))
    assert {d["pooling.head"] for d in drawn} == set(designs("heads"))
    assert {mask.name for mask in MASKS} == set(designs("masks"))
    assert {head.name for head in HEADS} == set(designs("heads"))


def test_every_scope_meets_every_mask_that_takes_it() -> None:
    drawn = draws(SPACES["attention"], base_of(SIX, **INSTRUCTION), SIX, 600)
    found = {(d["attention.mask"], d["pooling.token_scope"]) for d in drawn}
    assert found == {(mask.name, scope) for mask in MASKS for scope in mask.scopes}


def test_joint_varies_all_that_the_ablations_vary_but_the_adaptation() -> None:
    base = base_of(SIX, **INSTRUCTION)
    names = {name: set().union(*draws(space, base, SIX)) for name, space in SPACES.items()}
    both = names["attention"] | names["pooling"]
    assert names["joint"] == both - {"adaptation.kind"}
    assert not {name for name in names["pooling"] if name.startswith("attention.")}
    assert "pooling.hidden_size" not in names["attention"]


@pytest.mark.parametrize("mask", [mask.name for mask in MASKS])
def test_the_pooling_space_suits_the_bases_mask(mask: str) -> None:
    base = base_of(SIX, **{"attention.mask": mask}, **INSTRUCTION)
    for drawn in draws(SPACES["pooling"], base, SIX):
        check_design(overlay(base, drawn), SIX)


def test_what_needs_an_instruction_is_offered_only_with_one() -> None:
    plain = draws(SPACES["attention"], base_of(SIX), SIX, 400)
    assert "prefix" not in {d["attention.mask"] for d in plain}
    assert not any("pooling.include_instruction" in d for d in plain)
    query = draws(SPACES["attention"], base_of(SIX, **INSTRUCTION), SIX, 400)
    prefixed = [d for d in query if d["attention.mask"] == "prefix"]
    assert {d["adaptation.kind"] for d in prefixed} == {"none"}  # passages have no instruction
    both = base_of(SIX, **{"instructions.document": "Passage: "})
    prefixed = [
        d for d in draws(SPACES["attention"], both, SIX, 400) if d["attention.mask"] == "prefix"
    ]
    assert {d["adaptation.kind"] for d in prefixed} == {"none", "mntp"}
    assert {d.get("pooling.include_instruction") for d in prefixed} == {None, True, False}


@pytest.mark.parametrize(
    ("decoder", "offered"),
    [
        ("two layers, MHA", {"native", "multi_query"}),
        ("six layers, GQA", {"native", "multi_head", "multi_query"}),
        ("thirty layers, MQA", {"native", "multi_head"}),
    ],
)
def test_heads_that_the_decoder_has_already_are_not_offered(
    decoder: str, offered: set[str]
) -> None:
    shape = DECODERS[decoder]
    drawn = draws(SPACES["attention"], base_of(shape), shape)
    assert {d["attention.key_value_heads"] for d in drawn} == offered


def test_one_head_and_many_have_the_same_width() -> None:
    for drawn in draws(SPACES["attention"], base_of(SIX), SIX):
        if "pooling.num_heads" in drawn:
            assert drawn["pooling.num_heads"] * drawn["pooling.head_size"] == 256


def test_windows_are_narrower_than_texts() -> None:
    names = ("training.max_query_tokens", "training.max_passage_tokens", "evaluation.max_tokens")
    base = base_of(SIX, **dict.fromkeys(names, 6))
    windows = {
        d["attention.mask"]: d.get("attention.window") for d in draws(SPACES["joint"], base, SIX)
    }
    assert windows["sliding_window"] == 4
    base = base_of(SIX, **dict.fromkeys(names, 5))
    masks = {d["attention.mask"] for d in draws(SPACES["joint"], base, SIX)}
    assert "sliding_window" not in masks


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 12, 30])
def test_layer_scopes_are_there_and_distinct(depth: int) -> None:
    scopes = layer_scopes(depth)
    read = [layers.numbers(scope, depth) for scope in scopes]
    assert len(read) == len(set(read))
    assert scopes[0] == "last"


def test_all_tokens_are_of_the_last_layer_in_ablation_1() -> None:
    for drawn in draws(SPACES["attention"], base_of(SIX), SIX):
        one = drawn["pooling.token_scope"] == "all_tokens" or drawn["pooling.head"] == "none"
        assert drawn["pooling.layers"] == ("last" if one else "all")


def test_a_matched_search_leaves_heads_without_a_width_alone() -> None:
    base = base_of(SIX, **{"pooling.match_parameters": 3_000_000})
    for drawn in draws(SPACES["joint"], base, SIX, 60):
        check_design(overlay(base, drawn), SIX)
        has_width = "pooling.num_heads" in drawn
        assert ("pooling.match_parameters" in drawn) is not has_width
    assert "pooling.match_parameters" not in draws(SPACES["joint"], base_of(SIX), SIX, 60)[0]


def test_a_width_that_is_solved_for_is_not_drawn() -> None:
    changes = {"pooling.match_parameters": 3_000_000, "pooling.free_width": "hidden_size"}
    witness = Witness({"pooling.head": "self_attention", "pooling.token_scope": "all_tokens"})
    SPACES["pooling"](witness, base_of(SIX, **changes), SIX)
    assert "pooling.num_heads" in witness.asked
    assert "pooling.hidden_size" not in witness.asked


def test_heads_are_wider_than_what_embeddings_are_cut_to() -> None:
    base = base_of(SIX, **{"objective.matryoshka": (64, 128)})
    drawn = draws(SPACES["pooling"], base, SIX)
    assert {d.get("pooling.hidden_size") for d in drawn} == {None, 288, 576}
    for design in drawn:
        check_design(overlay(base, design), SIX)


def test_restricted_choices_have_a_name_of_their_own() -> None:
    witness = Witness({"attention.mask": "latent_readout"})
    drawn = SPACES["joint"](witness, base_of(SIX), SIX)
    assert witness.asked["pooling.token_scope[latent_readout]"] == ("mean", "all_tokens")
    assert drawn["pooling.token_scope"] == "mean"
    assert not any("[" in name for name in drawn)
