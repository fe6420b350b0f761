"""What a trial says of itself, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainables.warm import Warm


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where a trial runs: this worker's rank and the folder that its checkpoints live in."""

    rank: int
    folder: Path
    warm: Warm = field(default_factory=Warm)  # what the worker keeps from its trials


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where training stands after `step` optimiser steps."""

    step: int
    loss: float  # mean since the last report
    quick_score: float  # nDCG@10 on held-out pairs, the mean over data sets; or of report_tasks
    temperature: float  # of the last step's loss
    seconds: float  # of training and adaptation, over all attempts


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a trained design has scored so far, while tasks are left."""

    step: int
    scores: dict[str, float]  # on the first tasks of an order by lot
    num_tasks: int  # in all


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished trial is worth."""

    scores: dict[str, float]
    categories: dict[str, str]
    failures: dict[str, str]  # tasks that could not be scored, with the reason
    items: str  # parquet file of the values behind the scores
    cost: dict[str, float]  # fields of `trainables.cost.Cost`
    adaptation: dict[str, float]  # fields of `trainables.adaptation.Adapted`; empty without one
    seconds: float  # of training and adaptation, over all attempts
    versions: dict[str, str]
