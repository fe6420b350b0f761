"""A cached step's gradients against those of the whole batch: every stage, one and two workers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainables.model.making import shaken
from tests.trainables.workers import TIMEOUT_S, Group
from trainables import engine, packing
from trainables.build import build
from trainables.config import (
    BackboneConfig,
    EngineConfig,
    LoraConfig,
    ObjectiveConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.contrastive import Trainee, train_step
from trainables.objective import contrastive_loss
from trainables.overlay import overlay
from trainables.tokenizer import Row, Tokenizer, pad

pytestmark = pytest.mark.slow

NUM_QUERIES = 8
LEARNED = ObjectiveConfig(
    directions="symmetric", same_tower_negatives=True, learned_temperature=True
)
Gradients = dict[str, Tensor]


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    monkeypatch.chdir(root)
    return TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=2),
        pooling=PoolingConfig(
            token_scope="mean", head="cross_attention", layers="last_2", ffn_size=1600
        ),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(batch_size=NUM_QUERIES, max_grad_norm=1e9),
        engine=EngineConfig(precision="fp32"),
    )


def texts(rank: int, num_workers: int) -> list[Row]:
    """Return the tokens of this worker's queries, then of its positives."""
    with Path("pairs.jsonl").open() as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, NUM_QUERIES)]
    size = NUM_QUERIES // num_workers
    mine = rows[rank * size : (rank + 1) * size]
    words = [row["query"] for row in mine] + [row["positive"] for row in mine]
    return Tokenizer("model").rows(words, 24)


def trainee(config: TrialConfig) -> Trainee:
    """Return a model in which no tensor is 0, as that would hide gradients."""
    torch.manual_seed(3)
    made: Trainee = shaken(Trainee(build(config), LEARNED.temperature, learned=True))
    return made


def loss_of(embeddings: Tensor, log_scale: Tensor, rank: int = 0) -> Tensor:
    queries, positives = embeddings.chunk(2)
    return contrastive_loss(
        queries, positives, positives[:0], config=LEARNED, rank=rank, log_scale=log_scale
    )


def plain(config: TrialConfig) -> tuple[float, Gradients]:
    """Return the loss of all texts and its gradients, from one padded batch and plain autograd."""
    model = trainee(config)
    batch = pad(texts(0, 1), 0)
    loss = loss_of(*model([batch]))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), dict(
        zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)
    )


def cached(config: TrialConfig, rank: int, number: int) -> tuple[float, Gradients]:
    """Return the same of one engine step over `number` mini-batches, gathered from the workers."""
    from deepspeed.utils import safe_get_full_grad

    engine.quiet_deepspeed()
    wrapped = engine.initialize(trainee(config), config.engine, config.training)
    found: Gradients = {}

    def look() -> None:
        for name, parameter in wrapped.module.named_parameters():
            if parameter.requires_grad:
                found[name] = safe_get_full_grad(parameter).detach().clone()

    wrapped.step = look  # instead of the optimiser's
    rows = texts(rank, config.engine.num_workers)
    packed = packing.pack(rows, number, 0)
    wrapped.train()

    def loss(embeddings: Tensor, log_scale: Tensor) -> Tensor:
        return loss_of(embeddings[packed.order], log_scale, rank)

    value = train_step(wrapped, packed.mini_batches, loss, "step 1")
    engine.release(wrapped)
    return value, found


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_are_those_of_the_whole_batch(
    one: Group, two: Group, config: TrialConfig, stage: int, num_workers: int, number: int
) -> None:
    changes = {"engine.zero_stage": stage, "engine.num_workers": num_workers}
    config = overlay(config, changes)
    expected_loss, expected = plain(config)
    group = one if num_workers == 1 else two
    tasks = [worker.submit(cached, config, rank, number) for rank, worker in enumerate(group)]
    for task in tasks:
        loss, found = task.result(TIMEOUT_S)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            distance = (found[name].reshape_as(gradient) - gradient).norm()
            assert distance <= 1e-5 * gradient.norm(), name
