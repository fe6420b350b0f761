"""How a trial is trained: adapters, texts and steps, the objective, the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables import deepspeed_overlay, mixture
from trainables.faults import (
    check,
    distinct_sizes,
    distinct_texts,
    number,
    number_or_none,
    one_of,
    true_or_false,
    whole,
)
from trainables.mixture import DataConfig

Directions = Literal["query_to_document", "symmetric"]
Precision = Literal["bf16", "fp32"]
ZeroStage = Literal[0, 1, 2, 3]
Schedule = Literal["linear", "cosine", "constant"]
AttentionImplementation = Literal["sdpa", "eager", "flash_attention_2"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_SCALE = 100.0  # of the scores where the temperature is learned (CLIP, arXiv 2103.00020)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters on the backbone's projections (Hu et al., arXiv 2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0  # the paper has 0.1, which costs a fifth of a step on a CPU
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "rank": whole(self.rank, at_least=1),
                "alpha": number(self.alpha, above=0),
                "dropout": number(self.dropout, at_least=0, below=1),
                "targets": distinct_texts(self.targets),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Contrastive fine-tuning: the texts, the steps and the rates."""

    data: tuple[DataConfig, ...] = (DataConfig(),)
    steps: int = 16  # optimiser steps; 0 leaves the model untrained
    batch_size: int = 16  # queries per step over all workers
    num_hard_negatives: int = 1  # per query
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 2
    schedule: Schedule = "linear"  # after the warm-up: falls to 0 so, or stays
    max_grad_norm: float = 1.0
    max_query_tokens: int = 32
    max_passage_tokens: int = 48
    report_every: int = 8  # steps between reports; weak trials stop at reports
    mini_batch_tokens: int = 16384  # of one forward pass; what it does not hold is cached
    gradient_checkpointing: bool = False  # recompute activations in the backward pass

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "data": mixture.fault(self.data),
                "steps": whole(self.steps, at_least=0),
                "batch_size": whole(self.batch_size, at_least=2),
                "num_hard_negatives": whole(self.num_hard_negatives, at_least=0),
                "learning_rate": number(self.learning_rate, above=0),
                "head_learning_rate": number(self.head_learning_rate, above=0),
                "weight_decay": number(self.weight_decay, at_least=0),
                "warmup_steps": whole(self.warmup_steps, at_least=0),
                "schedule": one_of(self.schedule, Schedule),
                "max_grad_norm": number(self.max_grad_norm, above=0),
                "max_query_tokens": whole(self.max_query_tokens, at_least=2),
                "max_passage_tokens": whole(self.max_passage_tokens, at_least=2),
                "report_every": whole(self.report_every, at_least=1),
                "mini_batch_tokens": whole(self.mini_batch_tokens, at_least=1),
                "gradient_checkpointing": true_or_false(self.gradient_checkpointing),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """The contrastive loss: InfoNCE with the negatives of the global batch.

    A negative counts as false, and is left out, where its cosine with the anchor is above that of
    the anchor's positive less `false_negative_margin` (NV-Retriever's TopK-MarginPos, arXiv
    2407.15831, with the trained model's own cosines).
    """

    directions: Directions = "query_to_document"  # symmetric: documents look for their query too
    same_tower_negatives: bool = False  # a query's candidates are the other queries too
    temperature: float = 0.05
    learned_temperature: bool = False  # `temperature` is only the start
    false_negative_margin: float | None = None  # cosine; None leaves no negative out
    matryoshka: tuple[int, ...] = ()  # leading sizes that are trained too (arXiv 2205.13147)

    def __post_init__(self) -> None:
        """Check the fields."""
        margin = self.false_negative_margin
        check(
            {
                "directions": one_of(self.directions, Directions),
                "same_tower_negatives": true_or_false(self.same_tower_negatives),
                "temperature": self._temperature_fault(),
                "learned_temperature": true_or_false(self.learned_temperature),
                "false_negative_margin": number_or_none(margin, at_least=-1, at_most=1),
                "matryoshka": distinct_sizes(self.matryoshka),
            }
        )

    def _temperature_fault(self) -> str | None:
        """Return the fault of a temperature; a learned one starts within its limit."""
        fault = number(self.temperature, above=0)
        if fault or self.learned_temperature is not True:
            return fault
        return number(self.temperature, at_least=1 / MAX_SCALE)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """DeepSpeed settings; a study has one, as arms under different ones cannot be compared."""

    zero_stage: ZeroStage = 2
    precision: Precision = "bf16"
    num_workers: int = 1
    offload_optimizer: bool = False  # AdamW's state and step on the CPU; stages 1 to 3
    offload_parameters: bool = False  # weights in CPU memory until they are used; stage 3
    deepspeed: str = ""  # more DeepSpeed settings, as a JSON object
    attn_implementation: AttentionImplementation = "sdpa"  # transformers' name
    varlen: bool = False  # torch's kernel for packed texts where the mask permits, on GPUs in bf16
    compile: bool = False  # norms and gated units; needs a C++ compiler, and a minute at the start
    liger_kernels: bool = False  # norms and gated units of liger-kernel, on GPUs

    def __post_init__(self) -> None:
        """Check the fields."""
        stage = self.zero_stage
        check(
            {
                "zero_stage": one_of(stage, ZeroStage),
                "precision": one_of(self.precision, Precision),
                "num_workers": whole(self.num_workers, at_least=1),
                "offload_optimizer": _offload(self.offload_optimizer, stage, (1, 2, 3)),
                "offload_parameters": _offload(self.offload_parameters, stage, (3,)),
                "deepspeed": deepspeed_overlay.fault(
                    self.deepspeed,
                    offload_optimizer=self.offload_optimizer,
                    offload_param=self.offload_parameters,
                ),
                "attn_implementation": one_of(self.attn_implementation, AttentionImplementation),
                "varlen": self._varlen_fault(),
                "compile": true_or_false(self.compile),
                "liger_kernels": true_or_false(self.liger_kernels),
            }
        )

    def _varlen_fault(self) -> str | None:
        if self.varlen is True and self.attn_implementation == "flash_attention_2":
            return "expected false with attn_implementation 'flash_attention_2', got true"
        return true_or_false(self.varlen)


def _offload(value: object, stage: int, stages: tuple[int, ...]) -> str | None:
    """Return the fault if something is to be offloaded that the stage leaves where it is."""
    if value is not True or stage in stages:
        return true_or_false(value)
    able = " or ".join(map(str, stages))
    return f"expected zero_stage {able} with it, got {stage}"
