"""What a trial of a search is called while it is proposed, run and ended, and who hears of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from trainables.config import TrialConfig
from trainables.identity import label

Status = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A design to train, as a space or a plan gives it."""

    config: TrialConfig
    params: dict[str, Any]  # the dotted names that vary, for tables and figures
    role: str  # search, control, finalist or untrained
    unseen: bool = False  # outside the space: no sampler learns of it


@dataclass(frozen=True, kw_only=True)
class Assignment(Proposal):
    """A trial that somebody is to run."""

    number: int
    name: str
    folder: Path

    @property
    def label(self) -> str:
        """The design in words."""
        return label(self.config)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended."""

    status: Status
    reason: str | None = None
    outcome: dict[str, Any] | None = None  # fields of `trainables.trial.Outcome`
    curve: tuple[dict[str, float], ...] = ()  # fields of `trainables.trial.Report`

    @property
    def score(self) -> float | None:
        """The mean over categories of the mean over their tasks, or None without all scores."""
        return mean_score(self.outcome) if self.outcome else None

    def values(self, objectives: Sequence[str]) -> list[float]:
        """Return the score and the costs with which a complete trial is told."""
        assert self.outcome is not None
        known = {**self.outcome["cost"], "score": self.score}
        return [known[name] for name in objectives]


class Observer(Protocol):
    """Who wants to know what happens to trials; all calls come from the driver's one thread."""

    def started(self, trial: Assignment) -> None:
        """A trial was handed out, for the first time or again."""
        ...

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """A trial reached a reporting step for the first time."""
        ...

    def paused(self, trial: Assignment) -> None:
        """A trial waits to be promoted; it is started again then, or ended with the search."""
        ...

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """A trial will not be heard of again."""
        ...


def mean_score(outcome: dict[str, Any]) -> float | None:
    """Return the mean over categories of their tasks' mean; None if a task has no score.

    >>> mean_score({"scores": {"a": 0.25, "b": 0.5, "c": 0.875}, "failures": {},
    ...             "categories": {"a": "STS", "b": "STS", "c": "Retrieval"}})
    0.625
    """
    if outcome["failures"] or not outcome["scores"]:
        return None
    return fmean(category_means(outcome).values())


def category_means(scored: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean score in each category of an outcome's, or a row's, tasks."""
    scores: dict[str, list[float]] = {}
    for task, score in scored["scores"].items():
        scores.setdefault(scored["categories"][task], []).append(score)
    return {category: fmean(values) for category, values in scores.items()}
