"""The engine's settings: schedules, offload, a user's own DeepSpeed settings, bf16 in stage 0."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.trainables.workers import TIMEOUT_S, Group, opened, reports
from trainables import engine
from trainables.config import (
    BackboneConfig,
    ConfigError,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    Schedule,
    TrainingConfig,
    TrialConfig,
)
from trainables.cost import count_cost
from trainables.deepspeed_overlay import OPEN, OWNED, fault
from trainables.overlay import overlay

STEPS, WARMUP, RATE = 10, 4, 0.5


def share(schedule: Schedule, step: int) -> float:
    """Return the share of the highest rate at a step, counted from 0."""
    if step < WARMUP:
        return step / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[
        schedule
    ]


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_schedule_is_its_formula(schedule: Schedule) -> None:
    optimizer = torch.optim.AdamW([torch.zeros(2, requires_grad=True)], lr=RATE)
    settings = TrainingConfig(schedule=schedule, steps=STEPS, warmup_steps=WARMUP)
    course = engine.schedule(optimizer, settings)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert found == pytest.approx([RATE * share(schedule, step) for step in range(STEPS)])


class TestSettings:
    def test_offload_keeps_torchs_optimizer(self) -> None:
        config = EngineConfig(zero_stage=3, offload_optimizer=True, offload_parameters=True)
        found = engine.deepspeed_settings(config, TrainingConfig())
        assert found["zero_optimization"] == {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "cpu"},
        }
        assert found["zero_force_ds_cpu_optimizer"] is False
        assert "optimizer" not in found

    def test_the_users_own_are_laid_over_them(self) -> None:
        own = {
            "zero_optimization": {
                "reduce_bucket_size": 7,
                "offload_optimizer": {"pin_memory": False},
            },
            "steps_per_print": 5,
        }
        plain = EngineConfig(offload_optimizer=True)
        config = EngineConfig(offload_optimizer=True, deepspeed=json.dumps(own))
        training = TrainingConfig()
        found = engine.deepspeed_settings(config, training)
        expected = engine.deepspeed_settings(plain, training)
        expected["zero_optimization"] = {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": False},
            "reduce_bucket_size": 7,
        }
        assert found == expected | {"steps_per_print": 5}

    @pytest.mark.parametrize("name", OWNED)
    def test_what_a_field_makes_is_refused(self, name: str) -> None:
        given: Any = 1
        for part in reversed(name.split(".")):
            given = {part: given}
        text = fault(json.dumps(given), offload_optimizer=True, offload_param=True)
        expected = f"expected only settings that no field makes, got {name} ({OWNED[name]})"
        assert text == expected

    def test_all_that_we_make_is_owned(self) -> None:
        config = EngineConfig(zero_stage=3, offload_optimizer=True, offload_parameters=True)
        made = engine.deepspeed_settings(config, TrainingConfig())
        assert made.keys() - OWNED.keys() == {"zero_optimization", "steps_per_print"}

    def test_what_nobody_knows_is_refused(self) -> None:
        text = fault('{"pipeline": {}}', offload_optimizer=False, offload_param=False)
        expected = f"pipeline (open are {', '.join(OPEN)})"
        assert text == f"expected only settings that no field makes, got {expected}"

    def test_deepspeed_says_what_it_cannot_take(self) -> None:
        own = '{"zero_optimization": {"stage3_max_live_parameters": -1, "reduce_bucket": 5}}'
        with pytest.raises(ConfigError) as caught:
            engine.check_overlay(EngineConfig(deepspeed=own))
        assert str(caught.value) == (
            "engine.deepspeed: expected settings that DeepSpeed takes, got zero_optimization."
            "stage3_max_live_parameters (Input should be greater than or equal to 0), "
            "zero_optimization.reduce_bucket (Extra inputs are not permitted)"
        )
        engine.check_overlay(EngineConfig())


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialConfig]:
    monkeypatch.chdir(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=2),
        pooling=PoolingConfig(
            head="cross_attention", layers="last_2", hidden_size=32, ffn_size=1601
        ),
        lora=LoraConfig(rank=3),
        training=TrainingConfig(
            data=(DataConfig(name="pairs.jsonl"),),
            steps=4,
            batch_size=8,
            learning_rate=1e-2,
            report_every=1,
        ),
        engine=EngineConfig(precision="fp32"),
        evaluation=EvaluationConfig(tasks=("NoSuchTask",)),
    )
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def groups(root: Path) -> Iterator[dict[int, Group]]:
    """Yield groups of one and of two workers."""
    with opened(1, root) as one, opened(2, root) as two:
        yield {1: one, 2: two}


def seeded(config: TrialConfig, rank: int, settings: EngineConfig, num: int) -> list[float]:
    """Train on numbers alone under other settings than those that seed the weights."""
    from trainables.build import build
    from trainables.tokenizer import Tokenizer

    engine.quiet_deepspeed()
    torch.manual_seed(0)
    wrapped = engine.initialize(build(config), settings, config.training)
    texts = [f"a text of {number} words and numbers" for number in "one two six ten".split()]
    workers = settings.num_workers
    size = len(texts) // workers
    batch = Tokenizer("model")(texts[rank * size : (rank + 1) * size], 16, "")
    found = []
    for step in range(num):
        vectors = wrapped(*batch.to(wrapped.device))
        loss = (vectors[:, :4] - 0.5).square().mean()
        found.append(engine.take_step(wrapped, loss, f"step {step}"))
    engine.release(wrapped)
    return found


def trained(group: Group, config: TrialConfig, **settings: Any) -> list[float]:
    values = {"precision": "fp32", "num_workers": len(group), **settings}
    chosen = EngineConfig(**values)
    tasks = [w.submit(seeded, config, rank, chosen, 5) for rank, w in enumerate(group)]
    first, *others = [task.result(TIMEOUT_S) for task in tasks]
    assert all(other == first for other in others)
    assert first[-1] < first[0]
    return first


@pytest.mark.slow
class TestOffload:
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize(
        ("stage", "offload"),
        [
            (1, ("optimizer",)),
            (2, ("optimizer",)),
            (3, ("optimizer",)),
            (3, ("parameters",)),
            (3, ("optimizer", "parameters")),
        ],
    )
    def test_it_changes_no_loss(
        self,
        groups: dict[int, Group],
        config: TrialConfig,
        workers: int,
        stage: int,
        offload: tuple[str, ...],
    ) -> None:
        wanted = {f"offload_{name}": True for name in offload}
        found = trained(groups[workers], config, zero_stage=stage, **wanted)
        assert found == pytest.approx(trained(groups[workers], config, zero_stage=stage), abs=1e-5)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_a_trial_continues_to_the_same_bits(
        self,
        groups: dict[int, Group],
        config: TrialConfig,
        tmp_path: Path,
        stage: int,
        precision: str,
    ) -> None:
        changes = {
            "engine.zero_stage": stage,
            "engine.offload_optimizer": True,
            "engine.offload_parameters": stage == 3,
            "engine.precision": precision,
        }
        config = overlay(config, changes)
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        expected = [r[0].loss for r in reports(groups[1], config, whole, 4)]
        reports(groups[1], config, parts, 2)
        assert [r[0].loss for r in reports(groups[1], config, parts, 4)] == expected


@pytest.mark.slow
def test_the_users_own_settings_reach_deepspeed(
    groups: dict[int, Group], config: TrialConfig
) -> None:
    text = '{"zero_optimization": {"reduce_bucket_size": 12345}}'
    size = groups[1][0].submit(bucket_size, config, EngineConfig(deepspeed=text)).result(TIMEOUT_S)
    assert size == 12345


@pytest.mark.slow
def test_the_bucket_is_no_larger_than_what_is_trained(
    groups: dict[int, Group], config: TrialConfig
) -> None:
    size = groups[1][0].submit(bucket_size, config, EngineConfig()).result(TIMEOUT_S)
    assert size == count_cost(config).trainable_parameters


def bucket_size(config: TrialConfig, settings: EngineConfig) -> int:
    from trainables.build import build

    wrapped = engine.initialize(build(config), settings, config.training)
    size = int(wrapped.zero_reduce_bucket_size())
    engine.release(wrapped)
    return size


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_bf16_takes_the_first_step_as_fp32_does(
    groups: dict[int, Group], config: TrialConfig, stage: int
) -> None:
    config = overlay(config, {"training.warmup_steps": 0})
    task = groups[1][0].submit(first_update, config, stage)
    before, after = task.result(TIMEOUT_S)
    rate, decay = config.training.head_learning_rate, config.training.weight_decay
    change = (after - before * (1 - rate * decay)).abs()
    assert change.max() == pytest.approx(rate, rel=1e-2)  # Adam's first step is the rate itself


def first_update(config: TrialConfig, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the fp32 weights of the head's queries before and after one step in bf16."""
    from trainables.build import build
    from trainables.masters import WEIGHT, gather

    changed = overlay(config, {"engine.precision": "bf16", "engine.zero_stage": stage})
    torch.manual_seed(0)
    wrapped = engine.initialize(build(changed), changed.engine, config.training)
    name = "pooling.head.latents"
    before = gather(wrapped).parts[WEIGHT][name].clone()
    batch = [torch.randint(5, 300, (8, 9)), torch.ones(8, 9).bool(), torch.zeros(8, 9).bool()]
    loss = (wrapped(*batch) - 0.5).square().mean()
    engine.take_step(wrapped, loss, "step 1")
    after = gather(wrapped).parts[WEIGHT][name].clone()
    engine.release(wrapped)
    return before, after


@pytest.mark.slow
def test_nothing_is_compiled(groups: dict[int, Group], config: TrialConfig) -> None:
    offload = {"offload_optimizer": True, "offload_parameters": True}
    trained(groups[2], config, zero_stage=3, **offload)
    assert groups[2][0].submit(compiled).result(TIMEOUT_S) == []


def compiled() -> list[str]:
    """Return the C++ operators that DeepSpeed has built or loaded in this process."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    return sorted(OpBuilder._loaded_ops)
