"""What a worker keeps from trial to trial changes no bit of the next one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoConfig, AutoModel, LlamaForCausalLM

from tests.trainables.workers import TIMEOUT_S, drive_warm, numbers, opened
from trainables.build import load_decoder
from trainables.config import (
    BackboneConfig,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.identity import probe_keys
from trainables.model.backbone import Backbone
from trainables.overlay import overlay
from trainables.probes import PROBES
from trainables.warm import Warm

STEPS = 3
CROSS = {"pooling.token_scope": "mean", "pooling.head": "cross_attention", "pooling.layers": "all"}
LATENTS = {"attention.mask": "latent_readout", "attention.num_latents": 3}
TRIALS: dict[str, dict[str, Any]] = {
    "control": {},
    "multi_head": {"attention.key_value_heads": "multi_head", **CROSS},
    "multi_query": {"attention.key_value_heads": "multi_query", "lora.dropout": 0.2},
    "warm-up": {
        "attention.mask": "bidirectional",
        "pooling.token_scope": "mean",
        "adaptation.kind": "mntp",
        "adaptation.steps": 2,
        "adaptation.batch_size": 4,
    },
    "two_stream": {"attention.mask": "two_stream", "pooling.token_scope": "mean"},
    "latents": {**LATENTS, "pooling.token_scope": "mean"},
    "a middle layer": {"pooling.layers": "1"},
    "window": {"attention.mask": "sliding_window", "attention.window": 3, **CROSS},
    "checkpointing": {"training.gradient_checkpointing": True, "lora.rank": 2},
    "stage 0": {"engine.zero_stage": 0},
    "stage 3": {"engine.zero_stage": 3, **CROSS},
    "fp32": {"engine.precision": "fp32"},
    "the control again": {"seed": 0},
}


@pytest.fixture(scope="module")
def language_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the output embeddings that a warm-up needs."""
    folder = tmp_path_factory.mktemp("language") / "model"
    shutil.copytree(tiny_model, folder)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model))
    model.model.load_state_dict(AutoModel.from_pretrained(tiny_model).state_dict())
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def config(language_model: Path, tiny_pairs: Path) -> TrialConfig:
    return TrialConfig(
        backbone=BackboneConfig(model=str(language_model), num_layers=2),
        pooling=PoolingConfig(hidden_size=32, ffn_size=64),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(
            data=(DataConfig(name=str(tiny_pairs)),),
            steps=STEPS,
            batch_size=8,
            learning_rate=1e-2,
            warmup_steps=1,
            report_every=1,
        ),
        evaluation=EvaluationConfig(tasks=("NoSuchTask",)),
    )


@pytest.mark.slow
def test_a_trial_is_the_same_to_the_bit_in_a_warm_worker(
    config: TrialConfig, tmp_path: Path
) -> None:
    configs = {name: overlay(config, changes) for name, changes in TRIALS.items()}
    with opened(1, tmp_path) as (worker,):
        warm = {}
        for name, each in configs.items():
            task = worker.submit(drive_warm, each, tmp_path / "warm" / name, STEPS)
            warm[name] = numbers([(report,) for report in task.result(TIMEOUT_S)])
    for name, each in configs.items():
        with opened(1, tmp_path) as (worker,):
            task = worker.submit(drive_warm, each, tmp_path / "fresh" / name, STEPS)
            fresh = numbers([(report,) for report in task.result(TIMEOUT_S)])
        assert warm[name] == fresh, name
    assert warm["the control again"] == warm["control"]
    assert len({str(found) for found in warm.values()}) == len(warm) - 1


def test_what_is_hung_on_a_decoder_is_not_there_the_next_time(config: TrialConfig) -> None:
    kept, plain = Warm(), load_decoder(config.backbone, config.engine)
    first: Any = kept.decoder(config.backbone, config.engine)
    first.layers[0].register_forward_pre_hook(lambda module, args: None)
    first.layers = first.layers[:1]
    first.config.is_causal = False
    weight = first.layers[0].mlp.up_proj.weight
    weight.requires_grad_(True).grad = torch.ones_like(weight)
    weight.ds_id = 3  # as DeepSpeed does
    second: Any = kept.decoder(config.backbone, config.engine)
    assert len(second.layers) == 2
    assert not second.layers[0]._forward_pre_hooks
    assert second.config.to_dict() == plain.config.to_dict()
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name))
        assert (parameter.requires_grad, parameter.grad) == (False, None)
        assert not vars(parameter)
    shared = first.layers[0].mlp.up_proj.weight.data_ptr()
    assert second.layers[0].mlp.up_proj.weight.data_ptr() == shared


def test_numbers_that_were_changed_are_loaded_again(
    config: TrialConfig, caplog: pytest.LogCaptureFixture
) -> None:
    kept, plain = Warm(), load_decoder(config.backbone, config.engine)
    edited: Any = kept.decoder(config.backbone, config.engine)
    edited.layers[1].mlp.up_proj.weight.view(-1)[5] += 1
    again = kept.decoder(config.backbone, config.engine)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name))
    expected = "the frozen weights in memory were changed: loading them again"
    assert [r.message for r in caplog.records if r.name == "trainables.warm"] == [expected]


def test_stage_3_takes_apart_what_is_its_own(config: TrialConfig) -> None:
    kept, stage = Warm(), EngineConfig(zero_stage=3)
    decoders: list[Any] = [kept.decoder(config.backbone, stage) for _ in range(2)]
    weights = [decoder.layers[0].mlp.up_proj.weight for decoder in decoders]
    assert torch.equal(*weights)
    assert weights[0].data_ptr() != weights[1].data_ptr()


def test_a_probe_is_repeated_for_whatever_it_depends_on(config: TrialConfig) -> None:
    keys = probe_keys(config)
    assert tuple(keys) == PROBES
    assert probe_keys(overlay(config, {"seed": 3, "training.steps": 9})) == keys
    head = probe_keys(overlay(config, CROSS | {"pooling.layers": "last"}))
    assert {name for name in PROBES if head[name] != keys[name]} == {*PROBES} - {"reach"}
    for name, value in {
        "attention.mask": "bidirectional",
        "pooling.layers": "1",
        "backbone.num_layers": 1,
        "engine.precision": "fp32",
    }.items():
        other = probe_keys(overlay(config, {name: value}))
        assert not set(other.values()) & set(keys.values()), name


class _BegunError(Exception):
    pass


def passes_before_training(config: TrialConfig, folder: Path) -> int:
    """Return how often a warm trial's backbone runs on numbers before the first step."""
    count = 0

    def look(module: nn.Module, args: Any) -> None:
        nonlocal count
        if isinstance(module, Backbone):
            if len(args[0]) > 1:  # packed, as in training alone
                raise _BegunError
            count += not next(module.parameters()).is_meta

    with register_module_forward_pre_hook(look), pytest.raises(_BegunError):
        drive_warm(config, folder, 1)
    return count


@pytest.mark.slow
def test_equal_designs_are_probed_once(config: TrialConfig, tmp_path: Path) -> None:
    with opened(1, tmp_path) as (worker,):

        def passes(changes: dict[str, Any]) -> int:
            folder = tmp_path / str(changes)
            task = worker.submit(passes_before_training, overlay(config, changes), folder)
            return task.result(TIMEOUT_S)

        first = passes({})
        assert first > passes({"lora.rank": 2}) > passes({"seed": 1}) == 0
        assert passes({"attention.mask": "bidirectional"}) == first
