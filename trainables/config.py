"""What one trial is: frozen, checked dataclasses.

This module imports neither torch nor transformers, so that programs start at once and a space can
be checked anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainables import layers, suites
from trainables.catalogue import designs
from trainables.faults import ConfigError as ConfigError
from trainables.faults import (
    check,
    distinct_texts,
    multiple,
    number,
    one_of,
    some_text,
    text,
    true_or_false,
    whole,
    whole_or_none,
)
from trainables.mixture import EMBEDDED_TRAIN_DATA as EMBEDDED_TRAIN_DATA
from trainables.mixture import DataConfig as DataConfig
from trainables.suites import EMBEDDED_TASKS as EMBEDDED_TASKS
from trainables.suites import Split as Split
from trainables.training_config import MAX_SCALE as MAX_SCALE
from trainables.training_config import PROJECTIONS as PROJECTIONS
from trainables.training_config import AttentionImplementation as AttentionImplementation
from trainables.training_config import Directions as Directions
from trainables.training_config import EngineConfig as EngineConfig
from trainables.training_config import LoraConfig as LoraConfig
from trainables.training_config import ObjectiveConfig as ObjectiveConfig
from trainables.training_config import Precision as Precision
from trainables.training_config import Schedule as Schedule
from trainables.training_config import TrainingConfig as TrainingConfig
from trainables.training_config import ZeroStage as ZeroStage

KeyValueHeads = Literal["native", "multi_head", "multi_query"]
Adaptation = Literal["none", "mntp"]
TokenScope = Literal["last_token", "mean", "weighted_mean", "all_tokens"]
Prompts = Literal["trial", "mteb"]
FreeWidth = Literal["hidden_size", "head_size", "ffn_size"]

EMBEDDED_MODEL = "smollm2-135m"
EMBEDDED_SUITE = "embedded-quick"
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
class EvaluationConfig:
    """What scores a trained design: suites or mteb tasks by name, and which split of them."""

    tasks: tuple[str, ...] = (EMBEDDED_SUITE,)
    split: Split = "choosing"
    report_tasks: tuple[str, ...] = ()  # whose choosing split reports score; none: quick score
    task_by_task: bool = False  # tells scores as they come, for a search that races designs
    max_tokens: int = 48
    mini_batch_tokens: int = 2048  # of the texts in one forward pass, packed
    prompts: Prompts = "trial"  # written before texts: `instructions`, or mteb's where it has any

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "tasks": distinct_texts(self.tasks) or suites.fault(self.tasks),
                "split": one_of(self.split, Split),
                "report_tasks": distinct_texts(self.report_tasks) if self.report_tasks else None,
                "task_by_task": true_or_false(self.task_by_task),
                "max_tokens": whole(self.max_tokens, at_least=2),
                "mini_batch_tokens": whole(self.mini_batch_tokens, at_least=1),
                "prompts": one_of(self.prompts, Prompts),
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
