"""Digests and labels: equal for equal designs, different for different ones, and lasting."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from typing import Any

import pytest

from tests.trainables.fields import OTHER
from trainables.catalogue import SIZES
from trainables.config import TrialConfig
from trainables.identity import design_digest, digest, label, used
from trainables.overlay import as_dict, flatten, from_dict, overlay

DESIGN = ("backbone", "instructions", "attention", "adaptation", "pooling")
# What each file reads of the sizes that some others read.
MASKS: dict[str, set[str]] = {
    "causal": set(),
    "bidirectional": set(),
    "prefix": set(),
    "last_k_bidirectional": {"bidirectional_layers"},
    "sliding_window": {"window"},
    "gradual": {"transition"},
    "latent_readout": {"num_latents"},
    "two_stream": set(),
}
HEADS: dict[str, set[str]] = {
    "none": set(),
    "scalar_mix": set(),
    "self_attention": {"hidden_size", "num_heads", "head_size", "ffn_size"},
    "cross_attention": set(SIZES["heads"]),
    "latent_attention": set(SIZES["heads"]),
}
# What must be set for a field to be read, or free, where the rest of OTHER leaves it otherwise.
READ: dict[str, dict[str, Any]] = {
    "attention.bidirectional_layers": {"attention.mask": "last_k_bidirectional"},
    "attention.transition": {"attention.mask": "gradual"},
    "attention.num_latents": {"attention.mask": "latent_readout"},
    "pooling.head_size": {"pooling.match_parameters": None},
    "engine.zero_stage": {"engine.offload_parameters": False},
}


TOLD_APART_BY_NONE = ("seed", "evaluation.task_by_task")


def made(values: dict[str, Any]) -> TrialConfig:
    return overlay(TrialConfig(), values)


@pytest.mark.parametrize("name", [name for name in OTHER if name not in TOLD_APART_BY_NONE])
def test_a_digest_changes_with_every_field_that_is_read(name: str) -> None:
    config = made(OTHER | READ.get(name, {}))
    other = overlay(config, {name: flatten(as_dict(TrialConfig()))[name]})
    assert name in used(config)
    assert config != other
    assert digest(config) != digest(other)
    assert (design_digest(config) != design_digest(other)) == name.startswith(DESIGN)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SIZES["masks"])
def test_a_mask_is_told_by_the_sizes_that_it_reads(mask: str, name: str) -> None:
    one = made({"attention.mask": mask})
    other = overlay(one, {f"attention.{name}": OTHER[f"attention.{name}"]})
    reads = name in MASKS[mask]
    assert (f"attention.{name}" in used(one)) == reads
    assert (digest(one) != digest(other)) == reads
    assert (label(one) != label(other)) == reads


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", SIZES["heads"])
def test_a_head_is_told_by_the_sizes_that_it_reads(head: str, name: str) -> None:
    one = made({"pooling.head": head, "pooling.layers": "all"})
    other = overlay(one, {f"pooling.{name}": OTHER[f"pooling.{name}"]})
    reads = name in HEADS[head]
    assert (f"pooling.{name}" in used(one)) == reads
    assert (digest(one) != digest(other)) == reads
    assert (label(one) != label(other)) == reads


@pytest.mark.parametrize(
    ("base", "name"),
    [({}, f"adaptation.{n}") for n in ("steps", "batch_size", "learning_rate", "masked_share")]
    + [({}, "pooling.free_width")]
    + [
        (
            {
                "pooling.head": "cross_attention",
                "pooling.match_parameters": 10**6,
                "pooling.free_width": width,
            },
            f"pooling.{width}",
        )
        for width in ("hidden_size", "head_size", "ffn_size")
    ],
)
def test_what_is_not_read_changes_nothing(base: dict[str, Any], name: str) -> None:
    one = made(base)
    other = overlay(one, {name: OTHER[name]})
    assert name not in used(one)
    assert one != other
    assert digest(one) == digest(other)
    assert design_digest(one) == design_digest(other)
    assert label(one) == label(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"pooling.layers": "last"}, {"pooling.layers": "last_1"}),
        ({"pooling.layers": "all"}, {"pooling.layers": "1,2,3,4,5,6"}),
        ({"pooling.layers": "last_2"}, {"pooling.layers": "last_third"}),
        ({"pooling.ffn_size": None}, {"pooling.ffn_size": 1024}),
        ({"lora.alpha": 32}, {"lora.alpha": 32.0}),
        ({"engine.deepspeed": ""}, {"engine.deepspeed": "{}"}),
        (
            {"engine.deepspeed": '{"dump_state":true,"memory_breakdown":true}'},
            {"engine.deepspeed": '{"memory_breakdown": true, "dump_state": true}'},
        ),
        (
            {"attention.mask": "gradual", "attention.transition": 1},
            {"attention.mask": "gradual", "attention.transition": 1.0},
        ),
    ],
)
def test_one_design_has_one_identity(one: dict[str, Any], other: dict[str, Any]) -> None:
    head = {"pooling.head": "latent_attention"}
    assert digest(made(head | one)) == digest(made(head | other))
    assert label(made(head | one)) == label(made(head | other))


A, B = {"name": "a.jsonl"}, {"name": "b.jsonl"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([A, B], [B, A], True),
        ([A | {"weight": 0.3}, B | {"weight": 0.9}], [A | {"weight": 1}, B | {"weight": 3}], True),
        ([A], [A | {"weight": 7}], True),
        ([A], [A | {"query_instruction": "find: "}], True),
        ([A, B], [A | {"weight": 2}, B], False),
        ([A], [A | {"query_instruction": ""}], False),
        ([A], [A | {"document_instruction": "find: "}], False),
    ],
)
def test_one_mix_has_one_identity(one: list[Any], other: list[Any], same: bool) -> None:
    usual = {"instructions.query": "find: "}
    digests = {digest(made(usual | {"training.data": mix})) for mix in (one, other)}
    assert (len(digests) == 1) == same


@pytest.mark.parametrize("name", TOLD_APART_BY_NONE)
def test_a_digest_ignores_what_makes_no_other_trial(name: str) -> None:
    assert digest(made({name: OTHER[name]})) == digest(TrialConfig())


def test_a_digest_is_the_same_in_another_process() -> None:
    program = (
        "from trainables import config as c, identity; print(identity.digest(c.TrialConfig()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == digest(TrialConfig())


def test_a_digest_survives_json() -> None:
    config = made(OTHER)
    assert digest(from_dict(json.loads(json.dumps(as_dict(config))))) == digest(config)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "causal, last_token, none"),
        (
            {"attention.mask": "bidirectional", "pooling.token_scope": "mean"},
            "bidirectional, mean, none",
        ),
        (
            {
                "attention.mask": "last_k_bidirectional",
                "attention.key_value_heads": "multi_head",
                "adaptation.kind": "mntp",
                "pooling.truncate_to": 64,
            },
            "last_k_bidirectional(bidirectional_layers 2), multi_head, mntp, last_token, "
            "none(truncate_to 64)",
        ),
        (
            {"adaptation.kind": "mntp", "adaptation.steps": 100, "pooling.layers": "2,3"},
            "causal, mntp(steps 100), last_token layers 2,3, none",
        ),
        (
            OTHER,
            "sliding_window(window 8), multi_query, mntp(steps 8, batch_size 8, "
            "learning_rate 0.0001, masked_share 0.4), mean without instruction layers last_4, "
            "cross_attention(width 128, heads 8, latents 32, ffn_size 64, output_size 96, "
            "truncate_to 80, match_parameters 500000, free_width head_size)",
        ),
    ],
)
def test_labels_can_be_read(values: dict[str, Any], text: str) -> None:
    assert label(made(values)) == text


def test_labels_tell_all_designs_apart() -> None:
    """Random draws, many of which are equal but for what they do not read."""
    choices = {
        name: [OTHER[name], value]
        for name, value in flatten(as_dict(TrialConfig())).items()
        if name.startswith(("attention", "adaptation", "pooling"))
    }
    choices["attention.mask"] = list(MASKS)
    choices["pooling.head"] = list(HEADS)
    choices["pooling.layers"] = ["last", "last_1", "all", "every_2", "2,4,6", "last_third"]
    choices["pooling.hidden_size"] = [None, 128, 256]
    choices["pooling.ffn_size"] = [None, 512, 1024]
    choices["pooling.free_width"] = ["hidden_size", "head_size", "ffn_size"]
    draw = random.Random(0)
    found: dict[str, set[str]] = {}
    for _ in range(2000):
        config = made({name: draw.choice(values) for name, values in choices.items()})
        found.setdefault(design_digest(config), set()).add(label(config))
    assert all(len(labels) == 1 for labels in found.values())
    labels = list(itertools.chain.from_iterable(found.values()))
    assert len(set(labels)) == len(labels) > 500
