"""Our training step: tokenising, packing and `contrastive.train_step`, as a trial has it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.profiler import record_function

from tests.benchmarks.training_setting import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    TEMPERATURE,
    Batch,
    Setting,
)
from trainables import contrastive, engine, lora, packing
from trainables.build import build
from trainables.config import (
    BackboneConfig,
    EngineConfig,
    ObjectiveConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.objective import contrastive_loss
from trainables.tokenizer import Row, Tokenizer, pad

OBJECTIVE = ObjectiveConfig(temperature=TEMPERATURE)

Split = Callable[[Sequence[int]], int]  # from the texts' lengths to a number of mini-batches
Step = Callable[[Batch], float]


class PlainEngine:
    """What `train_step` asks of DeepSpeed's engine, in plain torch, for machines without it."""

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self.module = module
        lora.fold(module)
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            engine.parameter_groups(module, config), weight_decay=config.weight_decay
        )
        self.max_grad_norm = config.max_grad_norm

    def __call__(self, batches: contrastive.MiniBatch) -> Any:
        return self.module(batches)

    def train(self) -> None:
        self.module.train()

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """One worker has nothing to reduce at the last mini-batch."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Trainer:
    """A model in an engine; DeepSpeed's on a CPU, as the project trains there."""

    def __init__(self, setting: Setting, *, deepspeed: bool = True) -> None:
        config = trial_config(setting)
        self.setting = setting
        self.tokenizer = Tokenizer(setting.model)
        torch.manual_seed(0)
        trainee = contrastive.Trainee(build(config), TEMPERATURE, learned=False)
        trainee.to(setting.device)
        if deepspeed:
            _join()
            self.engine = engine.initialize(trainee, config.engine, config.training)
        else:
            self.engine = PlainEngine(trainee, config.training)
        self.engine.train()

    def step(
        self, split: Split | None = None, *, packed: bool = True, varlen: bool = False
    ) -> Step:
        """Return one optimiser step, which returns the loss.

        Args:
            split: Into how many mini-batches texts of given lengths go; one without it.
            packed: Whether a mini-batch is one packed row, or one padded batch.
            varlen: Whether a packed row takes torch's kernel for texts of any length.
        """
        return partial(self._step, split or (lambda lengths: 1), packed, varlen)

    def _step(self, split: Split, packed: bool, varlen: bool, batch: Batch) -> float:
        size = len(batch)
        self.engine.module.embedder.backbone.varlen = varlen
        with record_function("tokenise"):
            rows = self._rows(batch)
        with record_function("pack"):
            made = _packed(rows, split, self.tokenizer.padding, packed=packed)
            made = made.to(torch.device(self.setting.device))

        def loss(embeddings: Tensor, log_scale: Tensor) -> Tensor:
            queries, positives, negatives = embeddings[made.order].tensor_split([size, 2 * size])
            return contrastive_loss(
                queries, positives, negatives, config=OBJECTIVE, rank=0, log_scale=log_scale
            )

        return contrastive.train_step(self.engine, made.mini_batches, loss, "step")

    def _rows(self, batch: Batch) -> list[Row]:
        columns = zip(*batch, strict=True)
        return [
            r for texts in columns for r in self.tokenizer.rows(texts, self.setting.max_tokens)
        ]


def trial_config(setting: Setting) -> TrialConfig:
    """Return the plain control: causal, last token, no head."""
    kernel: Any = setting.kernel
    return TrialConfig(
        backbone=BackboneConfig(model=setting.model, num_layers=setting.num_layers),
        engine=EngineConfig(zero_stage=2, precision="bf16", attn_implementation=kernel),
        training=TrainingConfig(
            batch_size=setting.batch_size,
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_GRAD_NORM,
            warmup_steps=0,
            steps=10**6,
        ),
    )


def _packed(rows: list[Row], split: Split, padding: int, *, packed: bool) -> packing.Packed:
    number = split([len(ids) for ids, _ in rows])
    if packed:
        return packing.pack(rows, number, padding)
    size = -(-len(rows) // number)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return packing.Packed([[pad(part, padding)] for part in parts], torch.arange(len(rows)))


def _join() -> None:
    if dist.is_initialized():
        return
    engine.quiet_deepspeed()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine.join_process_group(0, 1, f"127.0.0.1:{port}")
