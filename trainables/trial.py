"""One trial from its configuration to its scores: `run` is the seam of the whole system.

`run` is a generator. It yields a `Report` at each reporting step and one `Outcome` at the end; who
drives it (a terminal, Ray, a simulator) stops it early by closing it. Everything that belongs to a
trial lives inside the generator, so a closed one leaves nothing behind.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainables import data, engine, evaluation, probes
from trainables.backbone import Embedder, Tokenizer, build, trainable_parameters
from trainables.config import TrialConfig
from trainables.identity import digest
from trainables.objective import info_nce

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "mteb")


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where a trial runs: this worker's rank and the folder that its checkpoints live in."""

    rank: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where training stands after `step` optimiser steps."""

    step: int
    loss: float  # mean since the last report
    quick_score: float  # nDCG@10 on held-out training pairs
    seconds: float  # of training, over all attempts


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished trial is worth."""

    scores: dict[str, float]
    categories: dict[str, str]
    failures: dict[str, str]  # tasks that could not be scored, with the reason
    items: str  # parquet file of the values behind the scores
    trainable_parameters: int
    seconds: float
    versions: dict[str, str]


@dataclass
class _Progress:
    """What a checkpoint has to remember besides weights and RNG."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # since the last report
    reports: list[dict[str, Any]] = field(default_factory=list)


def run(config: TrialConfig, session: Session) -> Iterator[Report | Outcome]:
    """Train and score one design; every worker of the trial runs this with its own rank.

    A checkpoint in the session's folder is continued, and its reports are yielded again.

    Raises:
        ProbeError: If the built model does not do what the design says.
        TrainingError: If the loss is not finite.
    """
    engine.quiet_deepspeed()
    torch.manual_seed(_seed(config))
    embedder = build(config).to(engine.device())
    probes.check_design(embedder, config.attention.mask)
    torch.manual_seed(_seed(config) + 1 + session.rank)  # dropout differs between workers
    trainer = _Trainer(config, session, embedder)
    try:
        yield from trainer.train()
        yield trainer.score()
    finally:
        trainer.close()


class _Trainer:
    """The state of one trial on one worker."""

    def __init__(self, config: TrialConfig, session: Session, embedder: Embedder) -> None:
        self.config = config
        self.session = session
        self.tokenizer = Tokenizer(config.backbone.model)
        self.data = data.load_triples(
            config.training.data, num_hard_negatives=config.training.num_hard_negatives
        )
        self.num_parameters = trainable_parameters(embedder)
        self.engine = engine.initialize(embedder, config)
        self.progress = _Progress()

    def train(self) -> Iterator[Report]:
        """Yield the reports of the steps that are left, after those of a checkpoint."""
        checkpoints = self.session.folder / "checkpoints"
        saved = engine.load_checkpoint(self.engine, checkpoints)
        if saved is not None:
            self.progress = _Progress(**saved["progress"])
        yield from (Report(**report) for report in self.progress.reports)
        training = self.config.training
        while self.progress.step < training.steps:
            started = time.perf_counter()
            self.progress.losses.append(self._train_step(self.progress.step))
            self.progress.step += 1
            self.progress.seconds += time.perf_counter() - started
            if self.progress.step % training.report_every and self.progress.step < training.steps:
                continue
            report = self._report()
            engine.save_checkpoint(
                self.engine, checkpoints, report.step, {"progress": asdict(self.progress)}
            )
            yield report

    def _train_step(self, step: int) -> float:
        """Take one optimiser step on this worker's part of the global batch; return its loss."""
        training, rank = self.config.training, self.session.rank
        batch = data.batch_at(
            self.data, step, batch_size=training.batch_size, seed=self.config.seed
        )
        share = training.batch_size // self.config.engine.num_workers
        mine = batch[rank * share : (rank + 1) * share]
        negatives = [text for triple in mine for text in triple.negatives]
        self.engine.train()
        queries = self._embed([triple.query for triple in mine], training.max_query_tokens)
        passages = self._embed(
            [triple.positive for triple in mine] + negatives, training.max_passage_tokens
        )
        loss = info_nce(
            queries,
            passages[: len(mine)],
            passages[len(mine) :],
            temperature=training.temperature,
            rank=rank,
        )
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"loss: expected a finite number, got {value} at step {step + 1}")
        self.engine.backward(loss)
        self.engine.step()
        return value

    def _embed(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        ids, mask = self.tokenizer(texts, max_tokens)
        target = self.engine.device
        embeddings: torch.Tensor = self.engine(ids.to(target), mask.to(target))
        return embeddings

    def _report(self) -> Report:
        progress = self.progress
        report = Report(
            step=progress.step,
            loss=float(np.mean(progress.losses)),
            quick_score=evaluation.quick_score(self.encode, self.data.held_out),
            seconds=progress.seconds,
        )
        progress.losses.clear()
        progress.reports.append(asdict(report))
        return report

    @torch.inference_mode()
    def encode(self, texts: list[str], prompt_type: str | None) -> npt.NDArray[np.float32]:
        """Return the embeddings of `texts`, one row each; queries are cut as in training."""
        self.engine.eval()
        settings, training = self.config.evaluation, self.config.training
        limit = training.max_query_tokens if prompt_type == "query" else settings.max_tokens
        starts = range(0, len(texts), settings.batch_size)
        parts = [self._embed(texts[i : i + settings.batch_size], limit) for i in starts]
        return torch.cat(parts).cpu().numpy()

    def score(self) -> Outcome:
        """Save the weights, score the tasks and write the values behind the scores."""
        folder, settings = self.session.folder, self.config.evaluation
        engine.save_weights(self.engine.module, folder / "weights.safetensors")
        result = evaluation.evaluate(
            self.encode,
            settings.tasks,
            split=settings.split,
            batch_size=settings.batch_size,
        )
        items = folder / "items.parquet"
        if self.session.rank == 0:
            result.write_items(items)
        return Outcome(
            scores=result.scores,
            categories=result.categories,
            failures=result.failures,
            items=str(items),
            trainable_parameters=self.num_parameters,
            seconds=self.progress.seconds,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def close(self) -> None:
        """Let go of the engine and of all that it holds."""
        engine.release(self.engine)
        del self.engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _seed(config: TrialConfig) -> int:
    """Return the seed of a trial's own randomness, from its digest and its seed."""
    text = f"{digest(config)}-{config.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
