"""Designs that are degenerate, or another's alias, are refused by their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPConfig, GPT2Config, LlamaConfig

from trainables.config import BackboneConfig, ConfigError, TrialConfig
from trainables.designs import check_design, shape, shape_of
from trainables.overlay import overlay
from trainables.shape import Shape

SHAPE = Shape(depth=6, width=48, num_heads=4, num_key_value_heads=2)
CROSS = {"pooling.head": "cross_attention", "pooling.layers": "all"}
MEAN = {"pooling.token_scope": "mean"}
INSTRUCTED = {"instructions.query": "find: "}
ONE_KEY = "over one key the softmax is constant"
SEVERAL = "pooling.layers: expected several layers or token_scope 'all_tokens' with head "


def faults(values: dict[str, Any], of: Shape = SHAPE) -> list[str]:
    config = overlay(TrialConfig(), {"backbone.num_layers": None} | values)
    try:
        check_design(config, of)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def shaped(**values: Any) -> Shape:
    return Shape(**{"depth": 6, "width": 48, "num_heads": 4, "num_key_value_heads": 2} | values)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "cross-attention over one state": (
        {"pooling.head": "cross_attention"},
        f"{SEVERAL}'cross_attention', got one state: {ONE_KEY} and no query would get a gradient",
    ),
    "self-attention over one state": (
        {"pooling.head": "self_attention"} | MEAN,
        f"{SEVERAL}'self_attention', got one state: {ONE_KEY}",
    ),
    "a mix of one layer": (
        {"pooling.head": "scalar_mix", "pooling.layers": "last_1"},
        "pooling.layers: expected several layers with head 'scalar_mix', got one: its weight is "
        "always 1",
    ),
    "a mix of all tokens": (
        {
            "pooling.head": "scalar_mix",
            "pooling.layers": "all",
            "pooling.token_scope": "all_tokens",
        },
        "pooling.token_scope: expected one vector for each layer with head 'scalar_mix', got "
        "'all_tokens'; take 'mean'",
    ),
    "one latent as the only key": (
        CROSS | {"pooling.head": "latent_attention", "pooling.num_latents": 1},
        "pooling.num_latents: expected at least 2 with head 'latent_attention', got 1: over one "
        "key the softmax is constant",
    ),
    "one latent to be read": (
        {
            "attention.mask": "latent_readout",
            "attention.num_latents": 1,
            "pooling.token_scope": "all_tokens",
            "pooling.head": "self_attention",
        },
        "attention.num_latents: expected at least 2 with token_scope 'all_tokens', got 1; take "
        "'mean'",
    ),
    "the last of the latents": (
        {"attention.mask": "latent_readout"},
        "pooling.token_scope: expected 'mean' or 'all_tokens' with 'latent_readout', whose "
        "latents have no order, got 'last_token'",
    ),
    "latents without an instruction": (
        {"attention.mask": "latent_readout", "pooling.include_instruction": False} | MEAN,
        "pooling.include_instruction: expected true with 'latent_readout', which reads only the "
        "latents, got false",
    ),
    "layers without a head": (
        {"pooling.layers": "last_2"},
        "pooling.layers: expected one layer without a head, got 'last_2' (2 layers); take the "
        "head 'scalar_mix', or another",
    ),
    "all tokens without a head": (
        {"pooling.token_scope": "all_tokens"},
        "pooling.token_scope: expected one vector for each layer without a head, got "
        "'all_tokens'; take a head",
    ),
    "a window over every text": (
        {"attention.mask": "sliding_window", "attention.window": 47},
        "attention.window: expected less than 47, as texts have at most 48 tokens, got 47: it "
        "would be bidirectional",
    ),
    "a mask that the kernel ignores": (
        {"attention.mask": "sliding_window", "engine.attn_implementation": "flash_attention_2"},
        "engine.attn_implementation: expected 'sdpa' or 'eager' with mask 'sliding_window', which "
        "FlashAttention ignores in silence, got 'flash_attention_2'",
    ),
    "a prefix of nothing": (
        {"attention.mask": "prefix"},
        "attention.mask: expected an instruction for 'prefix', got none: it would be causal; set "
        "instructions.query",
    ),
    "nothing to leave out": (
        {"pooling.include_instruction": False} | MEAN,
        "pooling.include_instruction: expected true without an instruction, got false; set "
        "instructions.query",
    ),
    "an instruction that is never read": (
        {"pooling.include_instruction": False} | INSTRUCTED,
        "pooling.include_instruction: expected true with token_scope 'last_token', which reads no "
        "instruction, got false",
    ),
    "all layers bidirectional": (
        {"attention.mask": "last_k_bidirectional", "attention.bidirectional_layers": 6},
        "attention.bidirectional_layers: expected less than 6, the deepest layer that is read, "
        "got 6: it would be bidirectional",
    ),
    "all layers that are read bidirectional": (
        {
            "attention.mask": "last_k_bidirectional",
            "attention.bidirectional_layers": 2,
            "pooling.head": "scalar_mix",
            "pooling.layers": "first_third",
        },
        "attention.bidirectional_layers: expected less than 2, the deepest layer that is read, "
        "got 2: it would be bidirectional",
    ),
    "the last layer bidirectional for the last token": (
        {"attention.mask": "last_k_bidirectional", "attention.bidirectional_layers": 1},
        "attention.bidirectional_layers: expected at least 2 with token_scope 'last_token', which "
        "sees the whole text in the last layer anyway, got 1: it would be causal",
    ),
    "the last token of two streams": (
        {"attention.mask": "two_stream"},
        "attention.mask: expected another with token_scope 'last_token', which sees the whole "
        "first stream: it would be causal, got 'two_stream'",
    ),
    "two streams of one layer": (
        {"attention.mask": "two_stream", "pooling.layers": "1"} | MEAN,
        "attention.mask: expected another with one layer, as both streams start equal: it would "
        "be bidirectional, got 'two_stream'",
    ),
    "the last token of one bidirectional layer": (
        {"attention.mask": "bidirectional", "pooling.layers": "1"},
        "attention.mask: expected another with one layer and token_scope 'last_token': it would "
        "be causal, got 'bidirectional'",
    ),
    "a cut that keeps everything": (
        {"pooling.truncate_to": 48},
        "pooling.truncate_to: expected less than the vector's 48, got 48",
    ),
    "a cut behind a head": (
        CROSS | {"pooling.hidden_size": 32, "pooling.truncate_to": 33},
        "pooling.truncate_to: expected less than the vector's 32, got 33",
    ),
    "a cut behind a projection": (
        {"pooling.output_size": 32, "pooling.truncate_to": 16},
        "pooling.truncate_to: expected none with an output_size, got 16: it would be a narrower "
        "output_size",
    ),
    "an embedding within itself": (
        {"pooling.truncate_to": 32, "objective.matryoshka": (16, 32, 64)},
        "objective.matryoshka: expected sizes below the embedding's 32, got [32, 64]",
    ),
    "an embedding within its projection": (
        CROSS | {"pooling.output_size": 24, "objective.matryoshka": (24, 12)},
        "objective.matryoshka: expected sizes below the embedding's 24, got [24]",
    ),
    "layers that there are not": (
        {"pooling.layers": "7"},
        "pooling.layers: expected layers of a backbone of 6, got '7'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_its_text(name: str) -> None:
    values, text = REFUSED[name]
    assert faults(values) == [text]


@pytest.mark.parametrize(("structure", "count"), [("multi_head", 4), ("multi_query", 1)])
def test_heads_that_the_decoder_has_already(structure: str, count: int) -> None:
    values = {"attention.key_value_heads": structure}
    assert faults(values, shaped(num_key_value_heads=count)) == [
        f"attention.key_value_heads: expected 'native', as the decoder has {structure!r} "
        f"attention already, got {structure!r}"
    ]
    assert not faults(values)


def test_all_faults_come_together() -> None:
    values = {
        "attention.mask": "prefix",
        "attention.key_value_heads": "multi_head",
        "pooling.head": "cross_attention",
        "pooling.include_instruction": False,
        "pooling.truncate_to": 256,
        "objective.matryoshka": (512,),
        "engine.attn_implementation": "flash_attention_2",
    }
    found = faults(values, shaped(num_key_value_heads=4))
    assert sorted(line.partition(": ")[0] for line in found) == [
        "attention.key_value_heads",
        "attention.mask",
        "engine.attn_implementation",
        "objective.matryoshka",
        "pooling.include_instruction",
        "pooling.layers",
        "pooling.truncate_to",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"attention.mask": "sliding_window", "attention.window": 46},
        {"attention.mask": "last_k_bidirectional", "attention.bidirectional_layers": 5},
        {"attention.mask": "last_k_bidirectional", "attention.bidirectional_layers": 1} | MEAN,
        {"attention.mask": "two_stream"} | MEAN,
        {"attention.mask": "gradual", "training.steps": 0},
        {"attention.mask": "prefix"} | INSTRUCTED,
        {"attention.mask": "latent_readout", "attention.num_latents": 1} | MEAN,
        {"attention.mask": "bidirectional", "pooling.layers": "1"} | MEAN,
        {"attention.mask": "bidirectional", "engine.attn_implementation": "flash_attention_2"},
        {"adaptation.kind": "mntp"},
        {"pooling.include_instruction": False} | MEAN | INSTRUCTED,
        {"pooling.layers": "3"},
        {"pooling.output_size": 48},
        {"pooling.truncate_to": 47, "objective.matryoshka": (46,)},
        CROSS | {"pooling.num_latents": 1},
        CROSS | {"pooling.head": "latent_attention", "pooling.layers": "last"},
    ],
)
def test_its_neighbour_is_not_refused(values: dict[str, Any]) -> None:
    assert not faults(values)


class TestShape:
    def test_it_is_what_the_folder_says(self, tiny_model: Path) -> None:
        whole = Shape(depth=3, width=48, num_heads=4, num_key_value_heads=2)
        assert shape(BackboneConfig(model=str(tiny_model), num_layers=None)) == whole
        assert shape(BackboneConfig(model=str(tiny_model), num_layers=2)).depth == 2

    def test_key_value_heads_are_the_heads_if_nothing_says_otherwise(self) -> None:
        assert shape_of(GPT2Config(n_head=4)).num_key_value_heads == 4
        assert shape_of(LlamaConfig(num_attention_heads=4)).num_key_value_heads == 4

    @pytest.mark.parametrize("exists", [False, True], ids=["no folder", "empty folder"])
    def test_an_unknown_model_is_named(self, tmp_path: Path, exists: bool) -> None:
        folder = tmp_path / "model"
        if exists:
            folder.mkdir()
        with pytest.raises(ConfigError) as caught:
            shape(BackboneConfig(model=str(folder)))
        text = str(caught.value)
        assert text.startswith(
            "backbone.model: expected 'smollm2-135m', a model folder or a reachable hub id, "
            f"got {str(folder)!r} ("
        )
        assert len(text.splitlines()) == 1

    def test_more_layers_than_the_model_has(self, tiny_model: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            shape(BackboneConfig(model=str(tiny_model), num_layers=4))
        assert str(caught.value) == (
            f"backbone.num_layers: expected at most 3, the layers of {tiny_model}, got 4"
        )

    def test_what_is_no_decoder_is_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            shape_of(CLIPConfig())
        assert str(caught.value) == (
            "backbone.model: expected a decoder of texts, got CLIPConfig without "
            "num_attention_heads"
        )


class TestOwnWindows:
    def test_a_window_outside_the_decoder_s_own_is_refused(self) -> None:
        values = {"attention.mask": "sliding_window", "pooling.token_scope": "mean"}
        own = shaped(windows=(8,) * 6)
        assert faults(values | {"attention.window": 6}, own) == []
        assert faults(values | {"attention.window": 7}, own) == [
            "attention.window: expected less than 7, as the decoder's own layers see no further, "
            "got 7: it would be bidirectional"
        ]
        mixed = shaped(windows=(8, None) * 3)
        assert faults(values | {"attention.window": 7}, mixed) == []

    def test_flash_attention_is_refused_where_it_ignores_the_mask(self) -> None:
        values = {
            "attention.mask": "bidirectional",
            "pooling.token_scope": "mean",
            "engine.attn_implementation": "flash_attention_2",
        }
        assert faults(values) == []
        assert faults(values, shaped(windows=(8,) * 6)) == [
            "engine.attn_implementation: expected 'sdpa' or 'eager' with mask 'bidirectional', "
            "which FlashAttention ignores in silence, got 'flash_attention_2'"
        ]
        assert faults(values | {"engine.precision": "fp32"}) == [
            "engine.attn_implementation: expected 'sdpa' or 'eager' with precision 'fp32', "
            "got 'flash_attention_2'"
        ]


def test_a_warm_up_that_would_be_causal_is_refused() -> None:
    values = {
        "attention.mask": "prefix",
        "adaptation.kind": "mntp",
        "pooling.token_scope": "mean",
        "instructions.query": "find the passage: ",
    }
    assert faults(values) == [
        "adaptation.kind: expected 'none' for 'prefix' without instructions.document, got 'mntp': "
        "the warm-up reads passages, which would be causal"
    ]
    assert faults(values | {"instructions.document": "this is a passage: "}) == []
