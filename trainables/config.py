"""What one trial is: frozen, checked dataclasses and a strict overlay.

This module imports neither torch nor transformers, so that programs start at once and a space can
be checked anywhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from trainables.faults import ConfigError as ConfigError
from trainables.faults import check, distinct_texts, number, one_of, some_text, whole

Mask = Literal["causal", "bidirectional"]
TokenScope = Literal["last_token", "mean"]
Head = Literal["none", "cross_attention"]
Precision = Literal["bf16", "fp32"]
Split = Literal["choosing", "confirming"]
ZeroStage = Literal[0, 1, 2, 3]

EMBEDDED_MODEL = "smollm2-135m"
EMBEDDED_TRAIN_DATA = "boolq"
EMBEDDED_TASKS = ("Lee50STS", "BoolQRetrieval", "TRECClassification", "NewsgroupSetsClustering")

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The decoder LLM that is adapted."""

    model: str = EMBEDDED_MODEL  # the embedded one by name, a folder, or a hub id
    num_layers: int | None = 6  # the first layers that are kept; None keeps all

    def __post_init__(self) -> None:
        """Check the fields."""
        layers = self.num_layers
        check(
            {
                "model": some_text(self.model),
                "num_layers": None if layers is None else whole(layers, at_least=1),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Which token sees which inside the backbone."""

    mask: Mask = "causal"

    def __post_init__(self) -> None:
        """Check the fields."""
        check({"mask": one_of(self.mask, Mask)})


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingConfig:
    """How the backbone's hidden states become one vector.

    `token_scope` turns each layer that is read into one vector per text. Without a head the last
    layer's vector is the embedding. The head `cross_attention` lets learned latents attend over
    the vectors of the last `num_layers` layers.
    """

    token_scope: TokenScope = "last_token"
    head: Head = "none"
    num_layers: int = 1  # hidden states that are read, counted from the last layer
    hidden_size: int = 256  # width of latents, of attention and of the embedding
    num_heads: int = 4
    num_latents: int = 16
    ffn_size: int = 512  # inner width of the GEGLU block

    def __post_init__(self) -> None:
        """Check the fields and refuse degenerate designs."""
        counts = ("num_layers", "hidden_size", "num_heads", "num_latents", "ffn_size")
        faults = {name: whole(getattr(self, name), at_least=1) for name in counts}
        faults |= {
            "token_scope": one_of(self.token_scope, TokenScope),
            "head": one_of(self.head, Head),
        }
        check(faults)
        check({"num_layers": self._degenerate(), "num_heads": self._indivisible()})

    def _degenerate(self) -> str | None:
        if self.head == "none" and self.num_layers != 1:
            return (
                f"expected 1 without a head (only the last layer is read), got {self.num_layers}"
            )
        if self.head == "cross_attention" and self.num_layers == 1:
            return (
                "expected at least 2 with head 'cross_attention', got 1: over one key the softmax "
                "is constant and no query would get a gradient; read more layers"
            )
        return None

    def _indivisible(self) -> str | None:
        if self.head != "none" and self.hidden_size % self.num_heads:
            return f"expected a divisor of hidden_size {self.hidden_size}, got {self.num_heads}"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters on the backbone's projections (Hu et al., arXiv 2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0  # the paper has 0.1, which costs a fifth of a step on a CPU
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        in_range = isinstance(self.dropout, int | float) and 0 <= self.dropout < 1
        check(
            {
                "rank": whole(self.rank, at_least=1),
                "alpha": number(self.alpha, above=0),
                "dropout": None
                if in_range
                else f"expected a number in [0, 1), got {self.dropout!r}",
                "targets": distinct_texts(self.targets),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Contrastive fine-tuning: InfoNCE with in-batch and hard negatives."""

    data: str = (
        EMBEDDED_TRAIN_DATA  # embedded name, JSONL/parquet file, `datasets` folder, or hub id
    )
    steps: int = 16  # optimiser steps; 0 leaves the model untrained
    batch_size: int = 16  # queries per step over all workers
    num_hard_negatives: int = 1  # per query
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 2
    max_grad_norm: float = 1.0
    temperature: float = 0.05
    max_query_tokens: int = 32
    max_passage_tokens: int = 48
    report_every: int = 8  # steps between reports; weak trials stop at reports

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "data": some_text(self.data),
                "steps": whole(self.steps, at_least=0),
                "batch_size": whole(self.batch_size, at_least=2),
                "num_hard_negatives": whole(self.num_hard_negatives, at_least=0),
                "learning_rate": number(self.learning_rate, above=0),
                "head_learning_rate": number(self.head_learning_rate, above=0),
                "weight_decay": number(self.weight_decay, at_least=0),
                "warmup_steps": whole(self.warmup_steps, at_least=0),
                "max_grad_norm": number(self.max_grad_norm, above=0),
                "temperature": number(self.temperature, above=0),
                "max_query_tokens": whole(self.max_query_tokens, at_least=2),
                "max_passage_tokens": whole(self.max_passage_tokens, at_least=2),
                "report_every": whole(self.report_every, at_least=1),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """DeepSpeed settings; a study has one, as arms under different ones cannot be compared."""

    zero_stage: ZeroStage = 2
    precision: Precision = "bf16"
    num_workers: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "zero_stage": one_of(self.zero_stage, ZeroStage),
                "precision": one_of(self.precision, Precision),
                "num_workers": whole(self.num_workers, at_least=1),
            }
        )


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
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what concerns several parts at once."""
        kept, read = self.backbone.num_layers, self.pooling.num_layers
        batch, workers = self.training.batch_size, self.engine.num_workers
        check(
            {
                "pooling.num_layers": None
                if kept is None or read <= kept
                else f"expected at most backbone.num_layers {kept}, got {read}",
                "training.batch_size": None
                if batch % workers == 0
                else f"expected a multiple of engine.num_workers {workers}, got {batch}",
                "seed": whole(self.seed, at_least=0),
            }
        )


def as_dict(config: TrialConfig) -> dict[str, Any]:
    """Return the configuration as nested plain values, as JSON has them.

    >>> as_dict(TrialConfig())["attention"]
    {'mask': 'causal'}
    """
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(values: Mapping[str, Any]) -> TrialConfig:
    """Return the configuration that `as_dict` gave; missing fields take their defaults.

    >>> from_dict(as_dict(TrialConfig(seed=3))) == TrialConfig(seed=3)
    True
    """
    return overlay(TrialConfig(), flatten(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names.

    >>> flatten({"attention": {"mask": "causal"}, "seed": 1})
    {'attention.mask': 'causal', 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def field_names(base: object, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields of a configuration, the deepest only."""
    names: list[str] = []
    for part in dataclasses.fields(base):  # type: ignore[arg-type]
        value = getattr(base, part.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{part.name}.")
        else:
            names.append(prefix + part.name)
    return names


def overlay(base: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """Return `base` with each dotted name in `values` replaced.

    >>> overlay(TrialConfig(), {"pooling.token_scope": "mean"}).pooling.token_scope
    'mean'

    Raises:
        ConfigError: With every name that is no field of `base` and every value out of range.
    """
    known = field_names(base)
    faults: dict[str, str | None] = {
        name: _unknown(name, known) for name in values if name not in known
    }
    config, found = _replaced(base, {n: v for n, v in values.items() if n in known}, "")
    check(faults | found)
    return config


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) or known
    return f"not a parameter; did you mean {near[0]!r}?"


def _replaced(
    base: ConfigT, values: Mapping[str, Any], prefix: str
) -> tuple[ConfigT, dict[str, str | None]]:
    """Replace the parts first, then their owner, collecting the faults by whole name."""
    changes: dict[str, Any] = {}
    faults: dict[str, str | None] = {}
    found: dict[str, str | None]
    for part in dataclasses.fields(base):  # type: ignore[arg-type]
        name, current = part.name, getattr(base, part.name)
        if dataclasses.is_dataclass(current):
            inner = {
                k.removeprefix(f"{name}."): v
                for k, v in values.items()
                if k.startswith(f"{name}.")
            }
            if inner:
                changes[name], found = _replaced(current, inner, f"{prefix}{name}.")
                faults |= found
        elif name in values:
            changes[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
    if not changes:
        return base, faults
    try:
        return dataclasses.replace(base, **changes), faults  # type: ignore[type-var]
    except ConfigError as error:
        lines = (line.split(": ", 1) for line in str(error).splitlines())
        found = {name: fault for name, fault in lines}
        if faults:  # what concerns several parts was checked with values that nobody gave
            found = {name: fault for name, fault in found.items() if "." not in name}
        return base, {prefix + name: fault for name, fault in found.items()} | faults
