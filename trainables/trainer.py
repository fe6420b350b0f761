"""A trial on one worker: what is built, trained, reported, kept and scored."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainables import (
    adaptation,
    checkpoint,
    contrastive,
    data,
    designs,
    encoding,
    engine,
    evaluation,
    kernels,
    packing,
    probes,
)
from trainables.build import assemble
from trainables.config import Split, TrialConfig
from trainables.cost import Cost, count_cost
from trainables.events import Outcome, Report, Scored, Session
from trainables.heartbeat import beat
from trainables.identity import digest, probe_keys, training_seed
from trainables.memory import Memory, is_out_of_memory
from trainables.model.embedder import Embedder
from trainables.model.tokens import Padded
from trainables.objective import contrastive_loss, temperature
from trainables.overlay import as_dict
from trainables.team import Encoder, Team

PROJECT = "poolsearch"
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "mteb")


@dataclass
class _Progress:
    """What a checkpoint has to remember besides weights and RNG."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # since the last report
    reports: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """The state of one trial on one worker."""

    def __init__(self, config: TrialConfig, session: Session) -> None:
        """Check the design, warm its backbone up if it asks for it, and build it."""
        self.config = config
        self.session = session
        self._write("config.json", as_dict(config))
        designs.check_design(config, designs.shape(config.backbone))
        self.tokenizer = session.warm.tokenizer(config.backbone.model)
        self.data = data.open_data(config, self.tokenizer)
        self.adapted = self._warm_up()
        self.progress = _Progress(seconds=self.adapted.seconds if self.adapted else 0.0)
        objective = config.objective
        trainee = contrastive.Trainee(
            self._build(), objective.temperature, learned=objective.learned_temperature
        )
        self.temperature = objective.temperature
        self.engine = engine.initialize(trainee, config.engine, config.training)
        workers, stage = config.engine.num_workers, config.engine.zero_stage
        self.team = Team(session.rank, workers, alike=stage == 3 and workers > 1)
        self.memory = Memory(session.folder / "memory.json", config.training.mini_batch_tokens)

    @cached_property
    def cost(self) -> Cost:
        """What the design costs; counted after the first steps, which need not wait for it."""
        return count_cost(self.config)

    def _warm_up(self) -> adaptation.Adapted | None:
        """Warm the backbone up, if the design asks for it."""
        if self.config.adaptation.kind == "none":
            return None
        rank, folder = self.session.rank, self.session.folder
        return adaptation.warm_up(
            self.config, self.data, rank=rank, folder=folder, seed=training_seed(self.config)
        )

    def _build(self) -> Embedder:
        """Return the embedder as it starts: new but for what a warm-up has trained."""
        torch.manual_seed(training_seed(self.config))
        decoder = self.session.warm.decoder(self.config.backbone, self.config.engine)
        embedder = assemble(self.config, decoder)
        if self.adapted:
            engine.load_weights(embedder, self.session.folder / adaptation.WEIGHTS)
        embedder.to(engine.device())
        self._probe(embedder)
        if self.config.engine.compile:
            kernels.compile_layers(embedder.backbone.decoder)
        torch.manual_seed(
            training_seed(self.config) + 1 + self.session.rank
        )  # workers' dropout differs
        return embedder

    def _probe(self, embedder: Embedder) -> None:
        """Check the built design, but for what equal ones have passed and what it does not use."""
        passed, keys = self.session.warm.passed, probe_keys(self.config)
        if not self.config.training.gradient_checkpointing:
            keys.pop("checkpointing")
        probes.check_design(embedder, [name for name, key in keys.items() if key not in passed])
        passed.update(keys.values())

    def train(self) -> Iterator[Report]:
        """Yield the reports of the steps that are left, after those of a checkpoint."""
        checkpoints = self.session.folder / "checkpoints"
        saved = checkpoint.load(self.engine, checkpoints)
        if saved is not None:
            self.progress = _Progress(**saved["progress"])
        yield from (Report(**report) for report in self.progress.reports)
        training = self.config.training
        while self.progress.step < training.steps:
            beat(self.session.folder)
            started = time.perf_counter()
            self.progress.losses.append(self._train_step(self.progress.step))
            self.progress.step += 1
            self.progress.seconds += time.perf_counter() - started
            if self.progress.step % training.report_every and self.progress.step < training.steps:
                continue
            report = self._report()
            checkpoint.save(
                self.engine, checkpoints, report.step, {"progress": asdict(self.progress)}
            )
            yield report

    def _train_step(self, step: int) -> float:
        """Take one optimiser step on this worker's part of the global batch; return the loss."""
        rank, workers = self.session.rank, self.config.engine.num_workers
        batch = self.data.batch_at(step)
        shares = [batch.share(number, workers).texts for number in range(workers)]
        lengths = [[len(ids) for ids, _ in rows] for rows in shares]
        budget = self.memory.mini_batch_tokens
        # As many on every worker: they take each pass together.
        number = max(packing.num_mini_batches(each, budget) for each in lengths)
        alike = self.config.engine.zero_stage == 3 and workers > 1
        blocks = packing.num_equal_blocks(lengths, number) if alike else None
        packed = packing.pack(shares[rank], number, self.tokenizer.padding, blocks)
        packed = packed.to(self.engine.device)
        self.engine.train()
        self._set_progress(step)

        def loss(embeddings: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
            return self._loss(embeddings[packed.order], log_scale, len(batch.rows) // workers)

        name = f"step {step + 1} ({batch})"
        most = max(sum(b.ids.numel() for b in blocks) for blocks in packed.mini_batches)
        try:
            return contrastive.train_step(self.engine, packed.mini_batches, loss, name)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Raised out here, as the first error would keep all tensors of the step alive.
        raise self.memory.halve(f"step {step + 1}", most, can_halve=number < len(packed.order))

    def _loss(
        self, embeddings: torch.Tensor, log_scale: torch.Tensor, num_queries: int
    ) -> torch.Tensor:
        """Return this worker's part of the loss."""
        settings = self.config.objective
        self.temperature = temperature(log_scale, settings)
        queries, positives, negatives = embeddings.tensor_split([num_queries, 2 * num_queries])
        return contrastive_loss(
            queries,
            positives,
            negatives,
            config=settings,
            rank=self.session.rank,
            log_scale=log_scale,
        )

    def _set_progress(self, step: int) -> None:
        """Tell the backbone how much of the training is done; an untrained model is finished."""
        steps = self.config.training.steps
        self.engine.module.embedder.backbone.progress = step / steps if steps else 1.0

    def _report(self) -> Report:
        progress, _ = self.progress, self.cost  # a design that cannot be counted ends here
        report = Report(
            step=progress.step,
            loss=float(np.mean(progress.losses)),
            quick_score=self._report_score(),
            temperature=self.temperature,
            seconds=progress.seconds,
        )
        progress.losses.clear()
        progress.reports.append(asdict(report))
        return report

    def _report_score(self) -> float:
        """Return what reports are compared by."""
        tasks = self.config.evaluation.report_tasks
        if not tasks:
            return float(np.mean([self._quick_score(held) for held in self.data.held_out]))
        result = self._evaluate(tasks, "choosing")
        if result.failures:
            reasons = [f"{task}: {reason}" for task, reason in result.failures.items()]
            raise engine.TrainingError(f"evaluation.report_tasks: {'; '.join(reasons)}")
        return result.mean

    def _quick_score(self, held_out: data.HeldOut) -> float:
        def encode(texts: list[str], role: str | None) -> npt.NDArray[np.float32]:
            return self.encode(texts, role, getattr(held_out.instructions, role or "other"))

        return evaluation.quick_score(encode, held_out.triples, batch_size=encoding.HANDED_OVER)

    @torch.no_grad()  # in inference mode stage 3 would leave parameters that cannot be trained
    def encode(
        self,
        texts: list[str],
        prompt_type: str | None,
        instruction: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the embeddings of `texts`, one row each; queries are cut as in training."""
        self.engine.eval()
        self._set_progress(self.progress.step)
        written, limit = self._written(prompt_type)
        return encoding.encode_packed(
            self._embed,
            self.tokenizer,
            texts,
            max_tokens=limit,
            instruction=written if instruction is None else instruction,
            mini_batch_tokens=self.config.evaluation.mini_batch_tokens,
            device=self.engine.device,
            team=self.team,
        )

    def _written(self, role: str | None) -> tuple[str, int]:
        """Return what is written before texts of a role, and at how many tokens they are cut."""
        instruction: str = getattr(self.config.instructions, role or "other")
        if role == "query":
            return instruction, self.config.training.max_query_tokens
        return instruction, self.config.evaluation.max_tokens

    def _embed(self, blocks: list[Padded]) -> torch.Tensor:
        beat(self.session.folder)
        embeddings: torch.Tensor = self.engine(blocks)[0]
        return embeddings

    def score(self) -> Iterator[Scored | Outcome]:
        """Save the weights, score the tasks and write the values behind the scores.

        Told task by task, texts that tasks share are encoded anew for each of them.
        """
        folder, settings = self.session.folder, self.config.evaluation
        engine.save_weights(self.engine.module.embedder, folder / "weights.safetensors")
        names = evaluation.task_names(settings.tasks, settings.split)
        order = evaluation.by_lot(names) if settings.task_by_task else (None,)
        parts = []
        for task in order:
            parts.append(self._evaluate(settings.tasks, settings.split, task))
            result = evaluation.joined(parts)
            if len(parts) < len(order):
                yield Scored(step=self.progress.step, scores=result.scores, num_tasks=len(order))
        items = folder / "items.parquet"
        if self.session.rank == 0:
            result.write_items(items)
            name = f"{PROJECT}/{digest(self.config)}"
            result.write_results(folder / "mteb", name, f"seed-{self.config.seed}")
        outcome = self._outcome(result, items)
        self._write("outcome.json", asdict(outcome))
        yield outcome

    def _evaluate(
        self, tasks: Sequence[str], split: Split, only: str | None = None
    ) -> evaluation.Evaluation:
        """Score tasks, or the one of them that is named, with all workers' help."""
        asks_mteb = self.config.evaluation.prompts == "mteb"

        def score(encode: Encoder) -> evaluation.Evaluation:
            return evaluation.evaluate(
                encode,
                tasks,
                split=split,
                only=only,
                batch_size=encoding.HANDED_OVER,
                alike=self._written,
                prompted=(lambda words: partial(encode, instruction=words)) if asks_mteb else None,
            )

        result: evaluation.Evaluation = self.team.work(
            self.encode, score, lambda result: result.summary
        )
        return result

    def _outcome(self, result: evaluation.Evaluation, items: Path) -> Outcome:
        return Outcome(
            scores=result.scores,
            categories=result.categories,
            failures=result.failures,
            items=str(items),
            cost=asdict(self.cost),
            adaptation=asdict(self.adapted) if self.adapted else {},
            seconds=self.progress.seconds,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file into the trial's folder; a kill leaves a whole one, or none."""
        if self.session.rank == 0:
            self.session.folder.mkdir(parents=True, exist_ok=True)
            whole = self.session.folder / name
            begun = whole.with_suffix(".partial")
            begun.write_text(json.dumps(values, indent=1))
            begun.replace(whole)

    def close(self) -> None:
        """Let go of the engine and of all that it holds."""
        engine.release(self.engine)
        del self.engine
        if self.config.engine.compile:
            kernels.forget_compiled()
        engine.free_memory()
