"""Configurations: every field is checked at construction, and every fault has its text."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from trainables.config import (
    AdaptationConfig,
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    InstructionConfig,
    LoraConfig,
    ObjectiveConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.faults import number

INF, NAN = float("inf"), float("nan")
MASKS = (
    "'bidirectional', 'causal', 'gradual', 'last_k_bidirectional', 'latent_readout', 'prefix', "
    "'sliding_window', 'two_stream'"
)
HEADS = "'cross_attention', 'latent_attention', 'none', 'scalar_mix', 'self_attention'"
LAYERS = (
    'expected "last", "last_K", "first_third", "middle_third", "last_third", "every_N", "all" '
    'or "1,2,3"'
)
SCOPES = "'last_token', 'mean', 'weighted_mean', 'all_tokens'"

Fault = tuple[type, dict[str, Any], str]


def message(part: type, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        part(**values)
    return str(caught.value)


def wholes(part: type, at_least: int, *names: str) -> list[Fault]:
    """Return what fields say that take whole numbers from `at_least` on."""
    return [
        fault
        for name in names
        for fault in (
            (part, {name: at_least - 1}, f"expected at least {at_least}, got {at_least - 1}"),
            (part, {name: 2.0}, "expected a whole number, got 2.0"),
            (part, {name: True}, "expected a whole number, got True"),
        )
    ]


def positives(part: type, *names: str) -> list[Fault]:
    """Return what fields say that take finite numbers above 0."""
    return [
        fault
        for name in names
        for fault in (
            (part, {name: 0}, "expected more than 0, got 0"),
            (part, {name: NAN}, "expected a finite number, got nan"),
            (part, {name: "1"}, "expected a number, got '1'"),
        )
    ]


FAULTS: list[Fault] = [
    (BackboneConfig, {"model": ""}, "expected a name or a path, got ''"),
    *wholes(BackboneConfig, 1, "num_layers"),
    *[
        (InstructionConfig, {role: None}, "expected a text, got None")
        for role in ("query", "document", "other")
    ],
    (
        AttentionConfig,
        {"mask": "casual"},
        f"expected one of {MASKS}, got 'casual' (did you mean 'causal'?)",
    ),
    (
        AttentionConfig,
        {"key_value_heads": "multihead"},
        "expected one of 'native', 'multi_head', 'multi_query', got 'multihead' "
        "(did you mean 'multi_head'?)",
    ),
    *wholes(AttentionConfig, 1, "bidirectional_layers", "window", "num_latents"),
    *positives(AttentionConfig, "transition"),
    (AttentionConfig, {"transition": 1.5}, "expected at most 1, got 1.5"),
    (
        AdaptationConfig,
        {"kind": "MNTP"},
        "expected one of 'none', 'mntp', got 'MNTP'",
    ),
    *wholes(AdaptationConfig, 1, "steps"),
    *wholes(AdaptationConfig, 2, "batch_size"),
    *positives(AdaptationConfig, "learning_rate", "masked_share"),
    (AdaptationConfig, {"masked_share": 1.5}, "expected at most 1, got 1.5"),
    (PoolingConfig, {"token_scope": "x"}, f"expected one of {SCOPES}, got 'x'"),
    (PoolingConfig, {"include_instruction": 1}, "expected true or false, got 1"),
    (PoolingConfig, {"layers": "first"}, f"{LAYERS}, got 'first'"),
    (PoolingConfig, {"layers": "2,2"}, "expected rising numbers, got '2,2'"),
    (
        PoolingConfig,
        {"layers": 4},
        f'{LAYERS}, got 4; write "last_4" for that many layers, or "4" for one alone '
        "(in a shell '\"4\"')",
    ),
    (PoolingConfig, {"layers": (2, 4)}, f'{LAYERS}, got (2, 4); write "2,4"'),
    (
        PoolingConfig,
        {"head": "cross_atention"},
        f"expected one of {HEADS}, got 'cross_atention' (did you mean 'cross_attention'?)",
    ),
    *wholes(PoolingConfig, 1, "hidden_size", "num_heads", "head_size", "num_latents", "ffn_size"),
    *wholes(PoolingConfig, 1, "output_size", "truncate_to", "match_parameters"),
    (
        PoolingConfig,
        {"free_width": "num_latents"},
        "expected one of 'hidden_size', 'head_size', 'ffn_size', got 'num_latents'",
    ),
    *wholes(LoraConfig, 1, "rank"),
    *positives(LoraConfig, "alpha"),
    (LoraConfig, {"dropout": -0.1}, "expected at least 0, got -0.1"),
    (LoraConfig, {"dropout": 1.0}, "expected less than 1, got 1"),
    (LoraConfig, {"dropout": NAN}, "expected a finite number, got nan"),
    (LoraConfig, {"targets": ()}, "expected at least one name, got none"),
    (LoraConfig, {"targets": ("",)}, "expected a list of names, got ('',)"),
    (DataConfig, {"name": ""}, "expected a name or a path, got ''"),
    *positives(DataConfig, "weight"),
    (DataConfig, {"query_instruction": 3}, "expected a text, got 3"),
    (DataConfig, {"document_instruction": 3}, "expected a text, got 3"),
    (TrainingConfig, {"data": "boolq"}, "expected a list of data sets, got 'boolq'"),
    (TrainingConfig, {"data": ("boolq",)}, "expected a list of data sets, got ('boolq',)"),
    (TrainingConfig, {"data": ()}, "expected at least one data set, got none"),
    (
        TrainingConfig,
        {"data": (DataConfig(), DataConfig(weight=2))},
        "expected each data set once, got boolq again",
    ),
    *wholes(TrainingConfig, 0, "steps", "num_hard_negatives", "warmup_steps"),
    *wholes(TrainingConfig, 1, "report_every", "mini_batch_tokens"),
    *wholes(TrainingConfig, 2, "batch_size", "max_query_tokens", "max_passage_tokens"),
    *positives(TrainingConfig, "learning_rate", "head_learning_rate"),
    (
        TrainingConfig,
        {"schedule": "step"},
        "expected one of 'linear', 'cosine', 'constant', got 'step'",
    ),
    *positives(TrainingConfig, "max_grad_norm"),
    (TrainingConfig, {"weight_decay": -0.1}, "expected at least 0, got -0.1"),
    (TrainingConfig, {"weight_decay": INF}, "expected a finite number, got inf"),
    (TrainingConfig, {"gradient_checkpointing": 1}, "expected true or false, got 1"),
    (
        ObjectiveConfig,
        {"directions": "symetric"},
        "expected one of 'query_to_document', 'symmetric', got 'symetric' "
        "(did you mean 'symmetric'?)",
    ),
    (ObjectiveConfig, {"same_tower_negatives": 1}, "expected true or false, got 1"),
    *positives(ObjectiveConfig, "temperature"),
    (
        ObjectiveConfig,
        {"temperature": 0.005, "learned_temperature": True},
        "expected at least 0.01, got 0.005",
    ),
    (ObjectiveConfig, {"learned_temperature": "yes"}, "expected true or false, got 'yes'"),
    (ObjectiveConfig, {"false_negative_margin": 1.5}, "expected at most 1, got 1.5"),
    (ObjectiveConfig, {"false_negative_margin": -1.5}, "expected at least -1, got -1.5"),
    (ObjectiveConfig, {"false_negative_margin": True}, "expected a number, got True"),
    *[
        (
            ObjectiveConfig,
            {"matryoshka": sizes},
            f"expected a list of different whole numbers, got {sizes!r}",
        )
        for sizes in (64, (64, 64), (0,), (64.0,))
    ],
    (EngineConfig, {"zero_stage": 4}, "expected one of 0, 1, 2, 3, got 4"),
    (EngineConfig, {"zero_stage": True}, "expected one of 0, 1, 2, 3, got True"),
    (
        EngineConfig,
        {"precision": "fp16"},
        "expected one of 'bf16', 'fp32', got 'fp16' (did you mean 'bf16'?)",
    ),
    *wholes(EngineConfig, 1, "num_workers"),
    (EngineConfig, {"offload_optimizer": 1}, "expected true or false, got 1"),
    (
        EngineConfig,
        {"offload_optimizer": True, "zero_stage": 0},
        "expected zero_stage 1 or 2 or 3 with it, got 0",
    ),
    (EngineConfig, {"offload_parameters": "yes"}, "expected true or false, got 'yes'"),
    (EngineConfig, {"offload_parameters": True}, "expected zero_stage 3 with it, got 2"),
    (EngineConfig, {"varlen": 0}, "expected true or false, got 0"),
    (EngineConfig, {"compile": "yes"}, "expected true or false, got 'yes'"),
    (EngineConfig, {"liger_kernels": None}, "expected true or false, got None"),
    (EngineConfig, {"deepspeed": {}}, "expected a text, got {}"),
    (EngineConfig, {"deepspeed": "[1]"}, "expected a JSON object, got '[1]'"),
    (EngineConfig, {"deepspeed": "{"}, "expected a JSON object, got '{'"),
    (
        EngineConfig,
        {"deepspeed": '{"bf16": {}, "zero_optimisation": {}, "zero_optimization": {"stage": 3}}'},
        "expected only settings that no field makes, got zero_optimisation (did you mean "
        "zero_optimization?), bf16 (set engine.precision), zero_optimization.stage (set "
        "engine.zero_stage)",
    ),
    (
        EngineConfig,
        {
            "deepspeed": '{"zero_optimization": {"offload_param": {"pin_memory": false}}}',
            "zero_stage": 3,
        },
        "expected only settings that no field makes, got zero_optimization.offload_param (set "
        "engine.offload_parameters)",
    ),
    (
        EngineConfig,
        {"attn_implementation": "flash"},
        "expected one of 'sdpa', 'eager', 'flash_attention_2', got 'flash'",
    ),
    (EvaluationConfig, {"tasks": ()}, "expected at least one name, got none"),
    (
        EvaluationConfig,
        {"tasks": ("B", "A", "B", "A", "C")},
        "expected each name once, got A, B again",
    ),
    (EvaluationConfig, {"split": "test"}, "expected one of 'choosing', 'confirming', got 'test'"),
    (EvaluationConfig, {"report_tasks": ("A", "A")}, "expected each name once, got A again"),
    (EvaluationConfig, {"task_by_task": 1}, "expected true or false, got 1"),
    *wholes(EvaluationConfig, 2, "max_tokens"),
    *wholes(EvaluationConfig, 1, "mini_batch_tokens"),
    (EvaluationConfig, {"prompts": "none"}, "expected one of 'trial', 'mteb', got 'none'"),
    *wholes(TrialConfig, 0, "seed"),
]


def test_defaults_are_valid() -> None:
    assert TrialConfig() == TrialConfig(pooling=PoolingConfig(layers="last"))


@pytest.mark.parametrize(
    ("part", "values", "text"), FAULTS, ids=[f"{p.__name__}-{v}" for p, v, _ in FAULTS]
)
def test_every_fault_has_its_text(part: type, values: dict[str, Any], text: str) -> None:
    assert message(part, **values) == f"{next(iter(values))}: {text}"


def test_every_field_has_a_fault() -> None:
    parts = [part.default_factory for part in dataclasses.fields(TrialConfig)[:-1]]
    assert all(isinstance(part, type) for part in parts)
    fields = {(p, f.name) for p in parts for f in dataclasses.fields(p)}  # type: ignore[arg-type]
    faulty = {(part, name) for part, values, _ in FAULTS for name in values}
    fields |= {(DataConfig, part.name) for part in dataclasses.fields(DataConfig)}
    assert fields | {(TrialConfig, "seed")} == faulty


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            {"engine": EngineConfig(num_workers=3)},
            "training.batch_size: expected a multiple of engine.num_workers 3, got 16",
        ),
        (
            {
                "engine": EngineConfig(num_workers=4),
                "adaptation": AdaptationConfig(kind="mntp", batch_size=6),
            },
            "adaptation.batch_size: expected a multiple of engine.num_workers 4, got 6",
        ),
        (
            {"backbone": BackboneConfig(num_layers=2), "pooling": PoolingConfig(layers="last_3")},
            "pooling.layers: expected layers of a backbone of 2, got 'last_3'",
        ),
    ],
)
def test_what_concerns_several_parts_is_told_by_whole_names(
    parts: dict[str, Any], text: str
) -> None:
    assert message(TrialConfig, **parts) == text


def test_a_part_that_nobody_reads_is_not_shared() -> None:
    training, engine = TrainingConfig(batch_size=9), EngineConfig(num_workers=3)
    assert TrialConfig(training=training, engine=engine).adaptation.batch_size == 16


def test_the_backbone_may_keep_all_layers() -> None:
    pooling = PoolingConfig(layers="last_99")
    assert TrialConfig(backbone=BackboneConfig(num_layers=None), pooling=pooling).seed == 0


def test_faults_of_one_part_are_reported_together() -> None:
    assert message(TrainingConfig, steps=-1, learning_rate=0, report_every=0).splitlines() == [
        "steps: expected at least 0, got -1",
        "learning_rate: expected more than 0, got 0",
        "report_every: expected at least 1, got 0",
    ]


def test_bounds_are_as_they_say() -> None:
    assert number(1, at_least=1, at_most=1) is None
    assert number(1, above=1) == "expected more than 1, got 1"
    assert number(1, below=1) == "expected less than 1, got 1"


def test_a_configuration_cannot_be_mutated() -> None:
    config = TrialConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "module", ["config", "overlay", "layers", "catalogue", "shape", "deepspeed_overlay"]
)
def test_a_module_imports_neither_torch_nor_transformers(module: str) -> None:
    program = (
        f"import sys, trainables.{module}; "
        "print({'torch', 'transformers', 'deepspeed', 'ray', 'mteb'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
