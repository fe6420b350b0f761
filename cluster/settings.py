"""What one study is: its space, its budget, and the configuration that its trials start from."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.study import priors, pruners, samplers, storage
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check, distinct_texts, number, one_of, whole, whole_or_none
from trainables.overlay import as_dict, flatten

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Mode = Literal["search", "factorial"]
Told = Literal["main", "pairs"]  # main effects; two-factor interactions too
IDENTITY = "study.id"  # the file that tells a study from others of its name
SCORE = "score"  # the one that is maximised
OBJECTIVES = (
    SCORE,
    "embedding_size",
    "flops_per_token",
    "trainable_parameters",
    "head_parameters",
)
TUNED = {  # how far from the base's own, as a factor either way
    "training.learning_rate": 4.0,
    "training.head_learning_rate": 4.0,
    "objective.temperature": 3.0,
}
SPAN = 4.0  # of a setting that is named without one
TUNABLE = (  # numbers that every design reads and that make no other budget
    *TUNED,
    "training.weight_decay",
    "training.max_grad_norm",
    "lora.alpha",
    "lora.dropout",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Everything that decides what a study finds; how much runs at once does not."""

    name: str = "embedded"
    space: str = "joint"
    mode: Mode = "search"
    fraction: int | Told | None = None  # cells, or what they must tell; None: all cells
    factors: tuple[str, ...] = ()  # that vary in a factorial; none: all that the space varies
    tune: int = 0  # settings tried in each cell of a factorial; 0: the base's alone
    tuned: Mapping[str, float | None] | None = None  # their spans; None: `TUNED`, or `SPAN`
    num_trials: int = 10
    num_finalists: int = 2  # designs trained again beside the control
    num_seeds: int = 3  # fresh seeds of each of them
    smallest_effect: float = 0.01  # of interest, in units of the score
    seed: int = 0  # of the proposals
    objectives: tuple[str, ...] = (SCORE,)
    sampler: str = "tpe"
    num_startup: int | None = None  # designs that end before sampler and pruner learn of them
    pruner: str = "percentile"
    first_rung: int | None = None  # steps; the reporting interval by default
    factor: int = 3  # eta: one of so many goes on from a rung
    race: float = 0.0  # how likely an equal design is dropped while it is scored; 0: no race
    first: tuple[priors.Known, ...] = ()  # designs to try after the control
    warm_start: str | None = None  # an earlier study
    storage: str | None = None  # a database; the journal in the study's folder by default
    base: TrialConfig = field(default_factory=TrialConfig)

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "name": None
                if NAME.fullmatch(self.name)
                else f"expected letters, digits, '.', '_' or '-', got {self.name!r}",
                "space": one_of(self.space, tuple(SPACES)),
                "objectives": self._objectives_fault(),
                "sampler": one_of(self.sampler, tuple(samplers.SAMPLERS))
                or self._one_objective_fault(samplers.ONE_OBJECTIVE, self.sampler, "another"),
                "num_startup": whole_or_none(self.num_startup, at_least=1),
                "pruner": one_of(self.pruner, pruners.NAMES)
                or self._one_objective_fault(pruners.NAMES[:-1], self.pruner, "'none'"),
                "first_rung": whole_or_none(self.first_rung, at_least=1) or self._rung_fault(),
                "factor": whole(self.factor, at_least=2),
                "race": number(self.race, at_least=0, below=1) or self._race_fault(),
                "storage": storage.fault(self.storage),
                **{f"first.{i}": priors.fault(known) for i, known in enumerate(self.first)},
                "mode": one_of(self.mode, Mode),
                "fraction": self._fraction_fault(),
                "factors": distinct_texts(self.factors) if self.factors else None,
                "tune": None if self.tune == 0 else whole(self.tune, at_least=2),
                **self._tuned_faults(),
                "num_trials": whole(self.num_trials, at_least=1),
                "num_finalists": whole(self.num_finalists, at_least=1),
                "num_seeds": whole(self.num_seeds, at_least=1),
                "smallest_effect": number(self.smallest_effect, above=0, at_most=1),
                "seed": whole(self.seed, at_least=0),
            }
        )

    def _objectives_fault(self) -> str | None:
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            return one_of(unknown[0], OBJECTIVES)
        if SCORE not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            return f"expected each once and {SCORE!r} among them, got {self.objectives!r}"
        return None

    def _one_objective_fault(self, which: Sequence[str], got: str, instead: str) -> str | None:
        if len(self.objectives) == 1 or got not in which:
            return None
        return f"with several objectives expected {instead}, got {got!r}"

    def _rung_fault(self) -> str | None:
        """Return the fault of a first rung that no trial comes to before its end."""
        training = self.base.training
        first, every = self.first_rung or training.report_every, training.report_every
        if self.pruner not in pruners.WITH_RUNGS or -(-first // every) * every < training.steps:
            return None
        return (
            f"expected a reporting step before the last, {training.steps}, got {first}; give "
            "another one, or a smaller training.report_every"
        )

    def _tuned_faults(self) -> dict[str, str | None]:
        faults: dict[str, str | None] = {}
        base = flatten(as_dict(self.base))
        for name, span in (self.tuned or {}).items():
            fault = one_of(name, TUNABLE) or (span and number(span, above=1))
            if not fault and base[name] <= 0:
                fault = (
                    "expected a setting above 0, as multiples of it are tried, got "
                    f"{base[name]}; give it another with --set"
                )
            faults[f"tuned.{name}"] = fault or None
        return faults

    def _race_fault(self) -> str | None:
        if not self.race or len(self.objectives) == 1:
            return None
        return f"with several objectives expected 0, got {self.race}"

    def _fraction_fault(self) -> str | None:
        """Return the fault of a fraction: a number of cells, or a word for what they tell."""
        if self.fraction is None:
            return None
        if isinstance(self.fraction, str):
            return one_of(self.fraction, Told)
        return whole(self.fraction, at_least=2)


def to_plain(config: StudyConfig) -> dict[str, Any]:
    """Return the study's settings as plain values."""
    values = {part.name: getattr(config, part.name) for part in dataclasses.fields(config)}
    shown = {"base": as_dict(config.base), "storage": storage.hidden(config.storage)}
    return json.loads(json.dumps(values | shown))  # type: ignore[no-any-return]


def study_identity(folder: Path) -> str:
    """Return what tells the study in a folder from others of its name, made at the first call."""
    file = folder / IDENTITY
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_text(uuid.uuid4().hex)
        partial.replace(file)
    return file.read_text()


def write_once(config: StudyConfig, folder: Path) -> None:
    """Keep the settings in the study's folder, or compare them with those kept there.

    Raises:
        ConfigError: If the folder holds a study with other settings; every difference is named.
    """
    check_kept(config, folder)
    file = folder / "study.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(to_plain(config), indent=2) + "\n")
        partial.replace(file)


def check_kept(config: StudyConfig, folder: Path, unknown: Collection[str] = ()) -> None:
    """Compare a study's settings with those that its folder keeps, if it does.

    Fields that are `unknown`, as what was given for them is refused, are not compared.

    Raises:
        ConfigError: If they differ; every difference is named.
    """
    file = folder / "study.json"
    if not file.exists():
        return
    kept, given = flatten(json.loads(file.read_text())), flatten(to_plain(config))
    faults = [
        f"{name}: study {config.name!r} has {kept.get(name)!r}, got {given.get(name)!r}"
        for name in sorted(kept.keys() | given.keys())
        if kept.get(name) != given.get(name)
        and not any(f"{name}.".startswith(f"{each}.") for each in unknown)
    ]
    if faults:
        remedy = "a study keeps its settings; use them, or give a new --study name"
        raise ConfigError("\n".join([*faults, f"study: {remedy}"]))
