"""What one trial is: frozen, checked dataclasses.

This module imports neither torch nor transformers, so that programs start at once and a space can
be checked anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables import deepspeed_overlay, layers, mixture
from trainables.catalogue import designs
from trainables.faults import ConfigError as ConfigError
from trainables.faults import (
    check,
    distinct_sizes,
    distinct_texts,
    multiple,
    number,
    number_or_none,
    one_of,
    some_text,
    text,
    true_or_false,
    whole,
    whole_or_none,
)
from trainables.mixture import EMBEDDED_TRAIN_DATA as EMBEDDED_TRAIN_DATA
from trainables.mixture import DataConfig as DataConfig

KeyValueHeads = Literal["native", "multi_head", "multi_query"]
Adaptation = Literal["none", "mntp"]
TokenScope = Literal["last_token", "mean", "weighted_mean", "all_tokens"]
FreeWidth = Literal["hidden_size", "head_size", "ffn_size"]
Directions = Literal["query_to_document", "symmetric"]
Precision = Literal["bf16", "fp32"]
Split = Literal["choosing", "confirming"]
ZeroStage = Literal[0, 1, 2, 3]
Schedule = Literal["linear", "cosine", "constant"]
AttentionImplementation = Literal["sdpa", "eager", "flash_attention_2"]

EMBEDDED_MODEL = "smollm2-135m"
EMBEDDED_TASKS = ("Lee50STS", "BoolQRetrieval", "TRECClassification", "NewsgroupSetsClustering")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_SCALE = 100.0  # of the scores where the temperature is learned (CLIP, arXiv 2103.00020)
FFN_RATIO = 4  # of a head's ffn_size over its hidden_size, where no ffn_size is given


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The decoder LLM that is adapted."""

    model: str = EMBEDDED_MODEL  # the embedded one by name, a folder, or a hub id
    num_layers: int | None = 6  # the first layers that are kept; None keeps all

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "model": some_text(self.model),
                "num_layers": whole_or_none(self.num_layers, at_least=1),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionConfig:
    """What is written before a text, by the part that the text plays; nothing by default."""

    query: str = ""
    document: str = ""
    other: str = ""  # texts of symmetric tasks: similarity, classification, clustering

    def __post_init__(self) -> None:
        """Check the fields."""
        check({name: text(getattr(self, name)) for name in ("query", "document", "other")})


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Which token sees which inside the backbone, and with which heads.

    A mask reads only some of the sizes; `trainables/model/masks/` has one file for each mask.
    """

    mask: str = "causal"
    key_value_heads: KeyValueHeads = "native"
    bidirectional_layers: int = 2  # last_k_bidirectional: the last layers without a causal mask
    window: int = 16  # sliding_window: tokens seen on either side
    transition: float = 0.5  # gradual: share of the training after which it is bidirectional
    num_latents: int = 8  # latent_readout: learned vectors behind the text

    def __post_init__(self) -> None:
        """Check the fields."""
        counts = ("bidirectional_layers", "window", "num_latents")
        faults = {name: whole(getattr(self, name), at_least=1) for name in counts}
        faults |= {
            "mask": one_of(self.mask, designs("masks")),
            "key_value_heads": one_of(self.key_value_heads, KeyValueHeads),
            "transition": number(self.transition, above=0, at_most=1),
        }
        check(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptationConfig:
    """What gets the backbone used to its attention before the contrastive training.

    `mntp` is masked next-token prediction (BehnamGhader et al., arXiv 2404.05961, section 2.1):
    some tokens are hidden and predicted from the state of the position before them.
    """

    kind: Adaptation = "none"
    steps: int = 16
    batch_size: int = 16  # passages per step over all workers
    learning_rate: float = 1e-3
    masked_share: float = 0.2  # of the tokens

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "kind": one_of(self.kind, Adaptation),
                "steps": whole(self.steps, at_least=1),
                "batch_size": whole(self.batch_size, at_least=2),
                "learning_rate": number(self.learning_rate, above=0),
                "masked_share": number(self.masked_share, above=0, at_most=1),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingConfig:
    """How the backbone's hidden states become one vector.

    `layers` says which hidden states are read: "last", "last_4", "first_third", "middle_third",
    "last_third", "every_2", "all", or numbers such as "2,4,6". `token_scope` turns each into one
    vector per text, or leaves all tokens to the head. The head makes one vector of them; it reads
    only some of the sizes, and `trainables/model/heads/` has one file for each head.
    """

    token_scope: TokenScope = "last_token"
    include_instruction: bool = True  # whether the instruction's tokens are read
    layers: str = "last"
    head: str = "none"
    hidden_size: int | None = 256  # width of the head and of its vector; None: the backbone's
    num_heads: int = 4
    head_size: int = 64  # width of each head
    num_latents: int = 16
    ffn_size: int | None = 512  # inner width of the GEGLU block; None: four times hidden_size
    output_size: int | None = None  # width of a last linear projection; None: no projection
    truncate_to: int | None = None  # first dimensions that are kept; None: all
    match_parameters: int | None = None  # trainable parameters that the free width is solved for
    free_width: FreeWidth = "ffn_size"

    def __post_init__(self) -> None:
        """Check the fields."""
        counts = ("num_heads", "head_size", "num_latents")
        optional = ("hidden_size", "ffn_size", "output_size", "truncate_to", "match_parameters")
        faults = {name: whole(getattr(self, name), at_least=1) for name in counts}
        faults |= {name: whole_or_none(getattr(self, name), at_least=1) for name in optional}
        faults |= {
            "token_scope": one_of(self.token_scope, TokenScope),
            "include_instruction": true_or_false(self.include_instruction),
            "layers": layers.fault(self.layers),
            "head": one_of(self.head, designs("heads")),
            "free_width": one_of(self.free_width, FreeWidth),
        }
        check(faults)


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
                "varlen": true_or_false(self.varlen),
                "compile": true_or_false(self.compile),
                "liger_kernels": true_or_false(self.liger_kernels),
            }
        )


def _offload(value: object, stage: int, stages: tuple[int, ...]) -> str | None:
    """Return the fault if something is to be offloaded that the stage leaves where it is."""
    if value is not True or stage in stages:
        return true_or_false(value)
    able = " or ".join(map(str, stages))
    return f"expected zero_stage {able} with it, got {stage}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """The mteb tasks that score a trained design, and which half of their items."""

    tasks: tuple[str, ...] = EMBEDDED_TASKS
    split: Split = "choosing"
    max_tokens: int = 48
    batch_size: int = 32  # texts per forward pass

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "tasks": distinct_texts(self.tasks),
                "split": one_of(self.split, Split),
                "max_tokens": whole(self.max_tokens, at_least=2),
                "batch_size": whole(self.batch_size, at_least=1),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One design, its training and its evaluation: everything that decides a trial's numbers."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    instructions: InstructionConfig = field(default_factory=InstructionConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what concerns several parts at once."""
        trained = ["training"] + ["adaptation"] * (self.adaptation.kind != "none")
        faults = {"pooling.layers": layers.fault(self.pooling.layers, self.backbone.num_layers)}
        for part in trained:
            batch, workers = getattr(self, part).batch_size, self.engine.num_workers
            faults[f"{part}.batch_size"] = multiple(batch, "engine.num_workers", workers)
        check(faults | {"seed": whole(self.seed, at_least=0)})
