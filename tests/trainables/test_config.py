"""Configurations: every fault by its text, overlays by dotted names, identities that last."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from trainables.config import (
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
    as_dict,
    field_names,
    flatten,
    from_dict,
    overlay,
)
from trainables.identity import design_digest, digest, label

INF, NAN = float("inf"), float("nan")
# A value other than the default for every field; all of them together are valid.
OTHER: dict[str, Any] = {
    "backbone.model": "elsewhere/model",
    "backbone.num_layers": 8,
    "attention.mask": "bidirectional",
    "pooling.token_scope": "mean",
    "pooling.head": "cross_attention",
    "pooling.num_layers": 4,
    "pooling.hidden_size": 128,
    "pooling.num_heads": 8,
    "pooling.num_latents": 32,
    "pooling.ffn_size": 64,
    "lora.rank": 8,
    "lora.alpha": 16.0,
    "lora.dropout": 0.1,
    "lora.targets": ("q_proj",),
    "training.data": "pairs.jsonl",
    "training.steps": 100,
    "training.batch_size": 32,
    "training.num_hard_negatives": 2,
    "training.learning_rate": 1e-4,
    "training.head_learning_rate": 1e-4,
    "training.weight_decay": 0.0,
    "training.warmup_steps": 10,
    "training.max_grad_norm": 2.0,
    "training.temperature": 0.02,
    "training.max_query_tokens": 64,
    "training.max_passage_tokens": 128,
    "training.report_every": 10,
    "engine.zero_stage": 3,
    "engine.precision": "fp32",
    "engine.num_workers": 2,
    "evaluation.tasks": ("STS12",),
    "evaluation.split": "confirming",
    "evaluation.max_tokens": 64,
    "evaluation.batch_size": 8,
    "seed": 1,
}
DESIGN = ("backbone", "attention", "pooling")


def message(part: type, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        part(**values)
    return str(caught.value)


def overlay_message(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        overlay(TrialConfig(), values)
    return str(caught.value)


def changed(name: str) -> TrialConfig:
    """Return the configuration of `OTHER` with one field set back to its default."""
    return overlay(TrialConfig(), {n: v for n, v in OTHER.items() if n != name})


def test_defaults_are_valid_and_complete() -> None:
    assert overlay(TrialConfig(), {}) == TrialConfig()
    assert field_names(TrialConfig()) == list(OTHER)


@pytest.mark.parametrize(
    ("part", "values", "text"),
    [
        (BackboneConfig, {"model": ""}, "model: expected a name or a path, got ''"),
        (BackboneConfig, {"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        (BackboneConfig, {"num_layers": 2.0}, "num_layers: expected a whole number, got 2.0"),
        (
            AttentionConfig,
            {"mask": "casual"},
            "mask: expected one of 'causal', 'bidirectional', got 'casual' "
            "(did you mean 'causal'?)",
        ),
        (
            PoolingConfig,
            {"token_scope": "x"},
            "token_scope: expected one of 'last_token', 'mean', got 'x'",
        ),
        (
            PoolingConfig,
            {"head": "cross_atention"},
            "head: expected one of 'none', 'cross_attention', got 'cross_atention' "
            "(did you mean 'cross_attention'?)",
        ),
        (PoolingConfig, {"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        (PoolingConfig, {"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
        (PoolingConfig, {"num_heads": True}, "num_heads: expected a whole number, got True"),
        (PoolingConfig, {"num_latents": -1}, "num_latents: expected at least 1, got -1"),
        (PoolingConfig, {"ffn_size": "8"}, "ffn_size: expected a whole number, got '8'"),
        (
            PoolingConfig,
            {"head": "cross_attention", "num_layers": 2, "hidden_size": 10, "num_heads": 4},
            "num_heads: expected a divisor of hidden_size 10, got 4",
        ),
        (LoraConfig, {"rank": 0}, "rank: expected at least 1, got 0"),
        (LoraConfig, {"alpha": 0}, "alpha: expected more than 0, got 0"),
        (LoraConfig, {"dropout": 1.0}, "dropout: expected a number in [0, 1), got 1.0"),
        (LoraConfig, {"dropout": NAN}, "dropout: expected a number in [0, 1), got nan"),
        (LoraConfig, {"dropout": "0"}, "dropout: expected a number in [0, 1), got '0'"),
        (LoraConfig, {"targets": ()}, "targets: expected at least one name, got none"),
        (TrainingConfig, {"data": ""}, "data: expected a name or a path, got ''"),
        (TrainingConfig, {"steps": -1}, "steps: expected at least 0, got -1"),
        (TrainingConfig, {"batch_size": 1}, "batch_size: expected at least 2, got 1"),
        (
            TrainingConfig,
            {"num_hard_negatives": -1},
            "num_hard_negatives: expected at least 0, got -1",
        ),
        (
            TrainingConfig,
            {"learning_rate": INF},
            "learning_rate: expected a finite number, got inf",
        ),
        (
            TrainingConfig,
            {"head_learning_rate": NAN},
            "head_learning_rate: expected a finite number, got nan",
        ),
        (TrainingConfig, {"weight_decay": -0.1}, "weight_decay: expected at least 0, got -0.1"),
        (TrainingConfig, {"warmup_steps": -1}, "warmup_steps: expected at least 0, got -1"),
        (TrainingConfig, {"max_grad_norm": 0}, "max_grad_norm: expected more than 0, got 0"),
        (TrainingConfig, {"temperature": "1"}, "temperature: expected a number, got '1'"),
        (TrainingConfig, {"max_query_tokens": 1}, "max_query_tokens: expected at least 2, got 1"),
        (
            TrainingConfig,
            {"max_passage_tokens": 1},
            "max_passage_tokens: expected at least 2, got 1",
        ),
        (TrainingConfig, {"report_every": 0}, "report_every: expected at least 1, got 0"),
        (EngineConfig, {"zero_stage": 4}, "zero_stage: expected one of 0, 1, 2, 3, got 4"),
        (EngineConfig, {"zero_stage": True}, "zero_stage: expected one of 0, 1, 2, 3, got True"),
        (
            EngineConfig,
            {"precision": "fp16"},
            "precision: expected one of 'bf16', 'fp32', got 'fp16' (did you mean 'bf16'?)",
        ),
        (EngineConfig, {"num_workers": 0}, "num_workers: expected at least 1, got 0"),
        (EvaluationConfig, {"tasks": ()}, "tasks: expected at least one name, got none"),
        (
            EvaluationConfig,
            {"tasks": ("B", "A", "B", "A", "C")},
            "tasks: expected each name once, got A, B again",
        ),
        (
            EvaluationConfig,
            {"split": "test"},
            "split: expected one of 'choosing', 'confirming', got 'test'",
        ),
        (EvaluationConfig, {"max_tokens": 1}, "max_tokens: expected at least 2, got 1"),
        (EvaluationConfig, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (TrialConfig, {"seed": -1}, "seed: expected at least 0, got -1"),
        (
            TrialConfig,
            {"engine": EngineConfig(num_workers=3)},
            "training.batch_size: expected a multiple of engine.num_workers 3, got 16",
        ),
        (
            TrialConfig,
            {
                "backbone": BackboneConfig(num_layers=2),
                "pooling": PoolingConfig(head="cross_attention", num_layers=3),
            },
            "pooling.num_layers: expected at most backbone.num_layers 2, got 3",
        ),
    ],
)
def test_every_fault_has_its_text(part: type, values: dict[str, Any], text: str) -> None:
    assert message(part, **values) == text


def test_degenerate_designs_are_refused() -> None:
    assert message(PoolingConfig, head="cross_attention", num_layers=1) == (
        "num_layers: expected at least 2 with head 'cross_attention', got 1: over one key the "
        "softmax is constant and no query would get a gradient; read more layers"
    )
    assert message(PoolingConfig, head="none", num_layers=2) == (
        "num_layers: expected 1 without a head (only the last layer is read), got 2"
    )


def test_a_size_of_the_head_does_not_matter_without_one() -> None:
    assert PoolingConfig(head="none", hidden_size=10, num_heads=4).num_heads == 4


def test_faults_of_one_part_are_reported_together() -> None:
    assert message(TrainingConfig, steps=-1, temperature=0, report_every=0).splitlines() == [
        "steps: expected at least 0, got -1",
        "temperature: expected more than 0, got 0",
        "report_every: expected at least 1, got 0",
    ]


def test_faults_of_all_parts_are_reported_together_by_whole_names() -> None:
    values = {
        "pooling.hed": "none",
        "training.steps": -1,
        "training.temperature": 0,
        "attention.mask": "full",
        "seed": -1,
    }
    assert set(overlay_message(values).splitlines()) == {
        "pooling.hed: not a parameter; did you mean 'pooling.head'?",
        "training.steps: expected at least 0, got -1",
        "training.temperature: expected more than 0, got 0",
        "attention.mask: expected one of 'causal', 'bidirectional', got 'full'",
        "seed: expected at least 0, got -1",
    }


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("training.learning_rat", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("pooling", "pooling.head"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    text = overlay_message({name: 1})
    assert text == f"{name}: not a parameter; did you mean {near!r}?"


def test_a_configuration_cannot_be_mutated() -> None:
    config = TrialConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_overlay_leaves_its_base_as_it_was() -> None:
    base = TrialConfig()
    assert overlay(base, OTHER) != base
    assert base == TrialConfig()


def test_values_go_through_json_and_back() -> None:
    config = overlay(TrialConfig(), OTHER)
    plain = as_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert from_dict(plain) == config
    assert flatten(plain).keys() == OTHER.keys()
    assert from_dict({"pooling": {"token_scope": "mean"}}) == overlay(
        TrialConfig(), {"pooling.token_scope": "mean"}
    )


def test_a_digest_is_the_same_in_another_process() -> None:
    program = (
        "from trainables import config as c, identity; print(identity.digest(c.TrialConfig()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == digest(TrialConfig())


def test_a_digest_survives_json() -> None:
    config = overlay(TrialConfig(), OTHER)
    assert digest(from_dict(json.loads(json.dumps(as_dict(config))))) == digest(config)


@pytest.mark.parametrize("name", [name for name in OTHER if name != "seed"])
def test_a_digest_changes_with_every_field(name: str) -> None:
    # These cannot go back alone: the head needs several layers, and its layers the head.
    config, base = overlay(TrialConfig(), OTHER), TrialConfig()
    pair = {"pooling.head", "pooling.num_layers"}
    if name in pair:
        other = overlay(TrialConfig(), {n: v for n, v in OTHER.items() if n not in pair})
    else:
        other = changed(name)
    assert config != other != base
    assert digest(config) != digest(other)
    assert (design_digest(config) != design_digest(other)) == name.startswith(DESIGN)


def test_a_digest_ignores_the_seed() -> None:
    assert digest(TrialConfig(seed=1)) == digest(TrialConfig(seed=2))


def test_a_digest_ignores_what_the_design_does_not_read() -> None:
    wider = overlay(TrialConfig(), {"pooling.hidden_size": 128})
    assert wider != TrialConfig()
    assert digest(wider) == digest(TrialConfig())
    assert design_digest(wider) == design_digest(TrialConfig())


def test_equal_configurations_have_equal_digests() -> None:
    whole = overlay(TrialConfig(), {"lora.alpha": 32, "training.max_grad_norm": 1})
    assert whole == TrialConfig()
    assert digest(whole) == digest(TrialConfig())


def test_labels_tell_designs_apart() -> None:
    assert label(overlay(TrialConfig(), OTHER)) == (
        "bidirectional, mean, cross_attention(4 layers, width 128, heads 8, latents 32)"
    )


def test_the_module_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, trainables.config; "
        "print({'torch', 'transformers', 'deepspeed', 'ray', 'mteb'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
