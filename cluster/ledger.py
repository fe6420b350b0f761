"""The truth of a search: one durable Optuna study, and what happens to its trials.

The ledger knows neither Ray nor models. It hands out trials, takes their reports and endings, and
tells its observers (results table, MLflow, console). Trials that a dead driver left running are
handed out first; they continue from their own checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

import optuna
from optuna.trial import TrialState

from trainables.config import TrialConfig
from trainables.identity import digest, label
from trainables.overlay import as_dict, from_dict

Status = Literal["complete", "pruned", "failed"]
PATIENCE = 5  # proposals of known designs in a row after which designs are drawn at random
MAX_REPEATS = 200  # after so many the space counts as exhausted


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A design to train, as a space or a plan gives it."""

    config: TrialConfig
    params: dict[str, Any]  # the dotted names that vary, for tables and figures
    role: str  # search, control, finalist or untrained


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


class Observer(Protocol):
    """Who wants to know what happens to trials; all calls come from the driver's one thread."""

    def started(self, trial: Assignment) -> None:
        """A trial was handed out, for the first time or again."""
        ...

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """A trial reached a reporting step for the first time."""
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
    by_category: dict[str, list[float]] = {}
    for task, score in outcome["scores"].items():
        by_category.setdefault(outcome["categories"][task], []).append(score)
    return fmean(fmean(scores) for scores in by_category.values())


class Ledger:
    """Hands out the trials of one Optuna study and records what becomes of them."""

    def __init__(
        self,
        study: optuna.Study,
        propose: Callable[[optuna.Trial], Proposal],
        *,
        num_trials: int,
        folder: Path,
        observers: Sequence[Observer],
    ) -> None:
        """Open the ledger; trials that were left running are set aside to be continued."""
        self._study = study
        self._propose = propose
        self.num_trials = num_trials
        self._folder = folder
        self._observers = list(observers)
        self._known = {t.user_attrs["key"]: t.number for t in self._kept(self._trials())}
        self._interrupted = [
            t for t in self._trials() if t.state == TrialState.RUNNING and "config" in t.user_attrs
        ]
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and "config" not in trial.user_attrs:
                self._drop_undecided(trial)
            elif trial.state.is_finished():  # a kill may have come before its files were removed
                self._drop_checkpoints(trial.number)
        if study.user_attrs.get("exhausted"):
            self.num_trials = len(self._known)
        self._live: dict[int, tuple[Assignment, optuna.Trial]] = {}
        self._curves: dict[int, dict[int, dict[str, float]]] = {}
        self._told: dict[int, set[int]] = {}

    @property
    def num_ended(self) -> int:
        """How many trials have ended, in whatever way."""
        kept = self._kept(self._trials())
        return sum(t.state.is_finished() for t in kept)

    def add_observer(self, observer: Observer) -> None:
        """Tell `observer` too from now on."""
        self._observers.append(observer)

    def next_trial(self) -> Assignment | None:
        """Return the next trial to run, or None when all have been handed out."""
        trial = self._continued() or self._new()
        if trial is None:
            return None
        user = trial.user_attrs
        assignment = Assignment(
            config=from_dict(user["config"]),
            params=user["params"],
            role=user["role"],
            number=trial.number,
            name=f"{self._folder.name}-{trial.number:04d}",
            folder=self._folder_of(trial.number),
        )
        assignment.folder.mkdir(parents=True, exist_ok=True)
        self._live[trial.number] = (assignment, trial)
        self._curves[trial.number] = {}
        self._told[trial.number] = set(self._trials()[trial.number].intermediate_values)
        for observer in self._observers:
            observer.started(assignment)
        return assignment

    def report(self, number: int, report: dict[str, float]) -> bool:
        """Record a report, a repeated one once; return whether to stop the trial."""
        assignment, trial = self._live[number]
        step = int(report["step"])
        self._curves[number][step] = report
        if step not in self._told[number]:
            self._told[number].add(step)
            trial.report(report["quick_score"], step)
            for observer in self._observers:
                observer.reported(assignment, report)
        last = step >= assignment.config.training.steps
        return assignment.role == "search" and not last and trial.should_prune()

    def complete(self, number: int, outcome: dict[str, Any]) -> None:
        """Record a finished trial; without all its scores it has failed."""
        score = mean_score(outcome)
        reason = "; ".join(f"{task}: {why}" for task, why in outcome["failures"].items()) or None
        status: Status = "failed" if score is None else "complete"
        self._end(number, Ending(status=status, reason=reason, outcome=outcome))

    def stop(self, number: int) -> None:
        """Record a trial that was stopped early."""
        step = max(self._curves[number], default=0)
        self._end(number, Ending(status="pruned", reason=f"stopped early at step {step}"))

    def fail(self, number: int, reason: str) -> None:
        """Record a trial that could not be finished."""
        self._end(number, Ending(status="failed", reason=reason))

    def _end(self, number: int, ending: Ending) -> None:
        assignment, trial = self._live.pop(number)
        curve = self._curves.pop(number)
        ending = Ending(
            status=ending.status,
            reason=ending.reason,
            outcome=ending.outcome,
            curve=tuple(curve[step] for step in sorted(curve)),
        )
        for observer in self._observers:  # before Optuna, so that a kill here repeats it
            observer.ended(assignment, ending)
        if ending.reason:
            trial.set_user_attr("reason", ending.reason)
        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        if ending.status == "complete":
            self._study.tell(trial, ending.score)
        else:
            self._study.tell(trial, state=states[ending.status])
        self._drop_checkpoints(number)

    def _folder_of(self, number: int) -> Path:
        return self._folder / f"{number:04d}"

    def _drop_checkpoints(self, number: int) -> None:
        """Remove what a finished trial has no more use for."""
        shutil.rmtree(self._folder_of(number) / "checkpoints", ignore_errors=True)

    def _drop_undecided(self, trial: optuna.trial.FrozenTrial) -> None:
        """Fail a trial that was asked for but had no design yet; one that was queued is again."""
        self._study.tell(trial.number, state=TrialState.FAIL)
        queued = trial.system_attrs.get("fixed_params")
        if queued is not None:
            self._study.enqueue_trial(queued, user_attrs=trial.user_attrs)

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _kept(self, trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        return [t for t in trials if "config" in t.user_attrs]

    def _continued(self) -> optuna.Trial | None:
        if not self._interrupted:
            return None
        return optuna.Trial(self._study, self._interrupted.pop(0)._trial_id)

    def _new(self) -> optuna.Trial | None:
        """Ask for a design that no trial has had: equal digest and seed are trained once."""
        if len(self._known) >= self.num_trials:
            return None
        for attempt in range(MAX_REPEATS):
            trial, proposal = self._ask(at_random=attempt >= PATIENCE)
            key = f"{digest(proposal.config)}-{proposal.config.seed}"
            if key in self._known:
                trial.set_user_attr("repeats", self._known[key])
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            for name in ("params", "role"):
                trial.set_user_attr(name, getattr(proposal, name))
            trial.set_user_attr("key", key)
            trial.set_user_attr("config", as_dict(proposal.config))
            self._known[key] = trial.number
            return trial
        self._study.set_user_attr("exhausted", True)
        self.num_trials = len(self._known)
        return None

    def _ask(self, *, at_random: bool) -> tuple[optuna.Trial, Proposal]:
        """Let the study's sampler draw, or, where it only repeats itself, a random one."""
        usual = self._study.sampler
        if at_random:
            seed = len(self._trials())  # differs from call to call, the same in a restored search
            self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
        try:
            trial = self._study.ask()
            return trial, self._propose(trial)
        finally:
            self._study.sampler = usual
