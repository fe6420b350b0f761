"""The truth of a search: one durable Optuna study, and what happens to its trials.

The ledger knows neither Ray nor models. It hands out trials, takes their reports and endings, and
tells its observers (results table, MLflow, console). Trials that a dead driver left running are
handed out first, then paused ones that are promoted; both continue from their own checkpoints.
What it decides is a function of the study alone, so a restarted search decides alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cluster.study.asking import Asking, Drawings
from cluster.study.mirror import PAUSED, STOPPED, mirrored
from cluster.study.pruners import Halving
from cluster.study.racing import SCORES, Race
from cluster.study.trials import Assignment, Ending, Observer, Proposal, Status, mean_score
from trainables.overlay import from_dict


@dataclass(kw_only=True)
class _Live:
    """A trial that somebody runs."""

    assignment: Assignment
    told: set[int]  # steps that the study knows
    reports: dict[int, dict[str, float]] = field(default_factory=dict)  # by step
    halt: str | None = None  # why it is to stop: paused or stopped
    reason: str | None = None  # of a stop that is no pruner's

    @property
    def curve(self) -> list[dict[str, float]]:
        """The reports in the order of their steps."""
        return [self.reports[step] for step in sorted(self.reports)]


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
        halving: Halving | None = None,
        objectives: Sequence[str] = ("score",),
        race: float = 0.0,
        link: Callable[[str], Mapping[str, str]] | None = None,
        drawings: Drawings | None = None,
        allows: Callable[[int], bool] = lambda num_live: True,
    ) -> None:
        """Open the ledger; trials that were left running are set aside to be continued.

        With `halving` weak trials are paused, else the study's pruner stops them. `objectives` are
        the score and names of the outcome's cost. With `race` above 0 a design that tells its
        scores task by task is stopped as `racing` says, at that error rate, against the best one
        so far. `link` says where a trial of a name is shown; `drawings` are gone through when the
        sampler finds no new design. No new trial is begun once `allows` says no to so many live.
        """
        self._study, self._mirror = mirrored(study)
        self._asking = Asking(self._study, self._mirror, propose, drawings)
        self.num_trials = num_trials
        self._folder = folder
        self._observers = list(observers)
        self._halving = halving
        self._objectives = tuple(objectives)
        self._race = Race(race) if race else None
        self._link, self._allows = link, allows
        self._num_kept = self.num_ended = 0
        self._interrupted: list[int] = []
        self._halted: list[int] = []  # stopped, but not yet told so
        self._paused: dict[int, None] = {}
        self._live: dict[int, _Live] = {}
        for trial in self._mirror.trials():
            self._take_up(trial)
        if study.user_attrs.get("exhausted"):
            self.num_trials = self._num_kept

    def _take_up(self, trial: FrozenTrial) -> None:
        """Take a trial of the study into the books."""
        if trial.state == TrialState.WAITING:
            return
        user = trial.user_attrs
        self._asking.note(trial)
        if "config" not in user:
            return
        self._num_kept += 1
        if self._halving:
            self._halving.note(trial.number, trial.intermediate_values)
        if trial.state.is_finished():
            if self._race and SCORES in user:
                self._race.note(trial.number, trial.values[0], user[SCORES])
            self.num_ended += 1
            self._drop_checkpoints(trial.number)  # a kill may have come before
        elif user.get(STOPPED):
            self._halted.append(trial.number)
        elif user.get(PAUSED):
            self._paused[trial.number] = None
        else:
            self._interrupted.append(trial.number)

    @property
    def is_done(self) -> bool:
        """Whether no trial runs or will."""
        waiting = self._interrupted or self._halted or self._paused or self._live
        return not waiting and self._num_kept >= self.num_trials

    @property
    def has_room(self) -> bool:
        """Whether another trial may be begun."""
        return self._allows(len(self._live))

    @property
    def num_designs(self) -> int | None:
        """How many designs the space has, if it was seen to have no more."""
        return self._asking.num_designs

    def add_observer(self, observer: Observer) -> None:
        """Tell `observer` too from now on."""
        self._observers.append(observer)

    def next_trial(self) -> Assignment | None:
        """Return the next trial to run; None when there is none now, or, if `is_done`, at all.

        First what was left running, then what is promoted, then a new design.
        """
        while self._halted:
            self._end_halted(self._halted.pop(0), STOPPED)
        number = self._interrupted.pop(0) if self._interrupted else None
        if number is None and self.has_room:
            number = self._promoted()
            number = self._new() if number is None else number
        elif number is None and not self._live:
            self.num_trials = self._num_kept
        if number is not None:
            return self._hand_out(number)
        while self._paused and not self._live:
            self._end_halted(next(iter(self._paused)), PAUSED)
        return None

    def _hand_out(self, number: int) -> Assignment:
        trial = self._mirror.get_trial(number)
        assignment = self._assignment(trial)
        assignment.folder.mkdir(parents=True, exist_ok=True)
        self._live[number] = _Live(assignment=assignment, told=set(trial.intermediate_values))
        for observer in self._observers:
            observer.started(assignment)
        for name, value in (self._link(assignment.name) if self._link else {}).items():
            if trial.user_attrs.get(name) != value:
                self._mirror.set_trial_user_attr(number, name, value)
        return assignment

    def _assignment(self, trial: FrozenTrial) -> Assignment:
        user = trial.user_attrs
        return Assignment(
            config=from_dict(user["config"]),
            params=user["params"],
            role=user["role"],
            number=trial.number,
            name=f"{self._folder.name}-{trial.number:04d}",
            folder=self._folder_of(trial.number),
        )

    def report(self, number: int, report: dict[str, float]) -> bool:
        """Record a report, a repeated one once; return whether to stop the trial."""
        live, step = self._live[number], int(report["step"])
        live.reports[step] = report
        if step not in live.told:
            for observer in self._observers:
                observer.reported(live.assignment, report)
            live.told.add(step)
            with self._mirror.together():
                self._mirror.set_trial_intermediate_value(number, step, report["quick_score"])
                live.halt = self._halt(live.assignment, step, report["quick_score"])
                if live.halt:
                    self._mirror.set_trial_user_attr(number, live.halt, {"curve": live.curve})
        return live.halt is not None

    def scored(self, number: int, event: Mapping[str, Any]) -> bool:
        """Take a design's scores on its first tasks; return whether it is to stop.

        The control is never stopped, nor is anything before a first design has all its scores.
        """
        live = self._live[number]
        if not self._race or live.assignment.role != "search":
            return False
        live.reason = self._race.lost(event["scores"], event["num_tasks"])
        if live.reason is None:
            return False
        live.halt = STOPPED
        kept = {"curve": live.curve, "reason": live.reason}
        self._mirror.set_trial_user_attr(number, STOPPED, kept)
        return True

    def _halt(self, trial: Assignment, step: int, value: float) -> str | None:
        """Return whether a trial is to be paused or stopped."""
        goes_on = not self._halving or self._halving.goes_on(trial.number, step, value)
        if trial.role != "search" or step >= trial.config.training.steps:
            return None
        if self._halving:
            return None if goes_on else PAUSED
        if len(self._objectives) > 1:
            return None
        stops = self._study.pruner.prune(self._study, self._mirror.get_trial(trial.number))
        return STOPPED if stops else None

    def complete(self, number: int, outcome: dict[str, Any]) -> None:
        """Record a finished trial; without all its scores it has failed."""
        score = mean_score(outcome)
        reason = "; ".join(f"{task}: {why}" for task, why in outcome["failures"].items()) or None
        status: Status = "failed" if score is None else "complete"
        self._end(number, Ending(status=status, reason=reason, outcome=outcome))

    def stop(self, number: int) -> None:
        """Record that a trial was stopped, as `report` told: it is paused, or ends."""
        live = self._live[number]
        if live.halt != PAUSED:
            reason = live.reason or f"stopped early at step {max(live.reports, default=0)}"
            self._end(number, Ending(status="pruned", reason=reason))
            return
        del self._live[number]
        self._paused[number] = None
        for observer in self._observers:
            observer.paused(live.assignment)

    def fail(self, number: int, reason: str) -> None:
        """Record a trial that could not be finished; one that was to stop has stopped."""
        if self._live[number].halt:
            self.stop(number)
        else:
            self._end(number, Ending(status="failed", reason=reason))

    def _end(self, number: int, ending: Ending) -> None:
        live = self._live.pop(number)
        ending = replace(ending, curve=tuple(live.curve))
        self._tell(live.assignment, ending)

    def _end_halted(self, number: int, halt: str) -> None:
        """End a trial that is not running any more; its curve was kept when it was halted."""
        self._paused.pop(number, None)
        trial = self._mirror.get_trial(number)
        kept = trial.user_attrs[halt]
        verb = "paused" if halt == PAUSED else "stopped early"
        step = int(kept["curve"][-1]["step"]) if kept["curve"] else 0
        reason = kept.get("reason") or f"{verb} at step {step}"
        ending = Ending(status="pruned", reason=reason, curve=tuple(kept["curve"]))
        self._tell(self._assignment(trial), ending)

    def _tell(self, assignment: Assignment, ending: Ending) -> None:
        number = assignment.number
        for observer in self._observers:  # before Optuna, so that a kill here repeats it
            observer.ended(assignment, ending)
        with self._mirror.together():
            if ending.reason:
                self._mirror.set_trial_user_attr(number, "reason", ending.reason)
            if ending.status == "complete":
                self._note_rival(number, ending)
                self._study.tell(number, ending.values(self._objectives))
            else:
                states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
                self._study.tell(number, state=states[ending.status])
        self.num_ended += 1
        self._drop_checkpoints(number)

    def _note_rival(self, number: int, ending: Ending) -> None:
        """Keep the scores of a design that others may be compared with."""
        if self._race and ending.outcome and ending.score is not None:
            scores = dict(ending.outcome["scores"])
            self._mirror.set_trial_user_attr(number, SCORES, scores)
            self._race.note(number, ending.score, scores)

    def _folder_of(self, number: int) -> Path:
        return self._folder / f"{number:04d}"

    def _drop_checkpoints(self, number: int) -> None:
        """Remove what a finished trial has no more use for."""
        shutil.rmtree(self._folder_of(number) / "checkpoints", ignore_errors=True)

    def _promoted(self) -> int | None:
        number = self._halving.promotable(self._paused) if self._halving else None
        if number is not None:
            del self._paused[number]
            self._mirror.set_trial_user_attr(number, PAUSED, None)
        return number

    def _new(self) -> int | None:
        """Ask for a design that no trial has had."""
        if self._num_kept >= self.num_trials:
            return None
        number = self._asking.new()
        if number is None:
            self._study.set_user_attr("exhausted", True)
            self.num_trials = self._num_kept
        else:
            self._num_kept += 1
        return number
