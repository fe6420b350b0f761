"""A durable Optuna study, held in memory: reads cost nothing, each event is written at once.

What a new trial is made of (parameters, attributes) is drawn in memory and stored in one write,
so no half-drawn trial is ever left. Samplers and pruners see a paused trial as PRUNED, which is
what it will be unless it is promoted; in the storage it is RUNNING with the attribute `paused`.

Optuna's storages cannot take a trial back, as a draw of a known design is: `discard` does so, by
three private fields of `InMemoryStorage` that its test guards. Storages name studies and trials by
ids that only these hold, as `_study_id` and `_trial_id`, and only a study knows its `_storage`.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from cluster.study.storage import Journal

STUDY = 0  # the id of the one study here; a trial's id is its number
STUDY_ATTRS = "study"  # what a sampler noted on the study when it drew a trial, kept with it
PAUSED, STOPPED, UNSEEN = "paused", "stopped", "unseen"  # user attributes of a trial


class Mirror(InMemoryStorage):
    """The trials of one study; all changes go through to the durable storage."""

    def __init__(self, durable: BaseStorage, study_id: int) -> None:
        """Read the study once; nobody else may add trials to it from now on."""
        super().__init__()
        self._durable = durable
        self._durable_study = study_id
        self._ids: list[int] = []  # those in the durable storage, by number
        self._draft: int | None = None
        self._drafted: dict[str, Any] = {}  # study attributes of the draft
        self._shown: dict[int, FrozenTrial | None] = {}  # in place of the true trial
        name = durable.get_study_name_from_id(study_id)
        super().create_new_study(durable.get_study_directions(study_id), name)
        for key, value in durable.get_study_user_attrs(study_id).items():
            super().set_study_user_attr(STUDY, key, value)
        for key, value in durable.get_study_system_attrs(study_id).items():
            super().set_study_system_attr(STUDY, key, value)
        for trial in durable.get_all_trials(study_id, deepcopy=False):
            super().create_new_trial(STUDY, trial)
            self._ids.append(trial._trial_id)
            for key, value in trial.system_attrs.get(STUDY_ATTRS, {}).items():
                super().set_study_system_attr(STUDY, key, value)
            self._show(trial.number)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Store all that the block changes in one write, where the storage can."""
        journal = self._durable if isinstance(self._durable, Journal) else None
        with journal.together() if journal else nullcontext():
            yield

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as they are, by number."""
        return super().get_all_trials(STUDY, deepcopy=False)

    def commit(self, number: int) -> None:
        """Store a trial that was asked for, with all that was drawn for it."""
        assert number == self._draft
        for_study, self._drafted, self._draft = self._drafted, {}, None
        if for_study:
            super().set_trial_system_attr(number, STUDY_ATTRS, for_study)
        if self.is_queued(number):
            self._store_queued(number)
        else:
            self._store_new(number)
        self._show(number)

    def is_queued(self, number: int) -> bool:
        """Return whether a draft is a trial that was waiting in the storage."""
        return number < len(self._ids)

    def discard(self, number: int) -> None:
        """Forget a draft that is not stored; the next one takes its number."""
        assert number == self._draft
        assert not self.is_queued(number)
        self._studies[STUDY].trials.pop()
        del self._trial_id_to_study_id_and_number[number]
        self._max_trial_id -= 1
        self._draft = None

    def _store_new(self, number: int) -> None:
        stored = self._durable.create_new_trial(self._durable_study, self.get_trial(number))
        self._ids.append(stored)
        there = self._durable.get_trial_number_from_id(stored)
        if there != number:
            raise RuntimeError(
                f"trial {number} was stored as {there}: another process adds trials to the study"
            )

    def _store_queued(self, number: int) -> None:
        """Store a trial that was waiting; its state comes last, as it is what says that it ran."""
        trial, stored = self.get_trial(number), self._ids[number]
        with self.together():
            for name, value in trial.params.items():
                internal = trial.distributions[name].to_internal_repr(value)
                self._durable.set_trial_param(stored, name, internal, trial.distributions[name])
            for key, value in trial.user_attrs.items():
                self._durable.set_trial_user_attr(stored, key, value)
            for key, value in trial.system_attrs.items():
                self._durable.set_trial_system_attr(stored, key, value)
            if trial.state.is_finished():
                self._durable.set_trial_state_values(stored, trial.state, trial.values)
        if not trial.state.is_finished():  # reads what it has written
            self._durable.set_trial_state_values(stored, TrialState.RUNNING)

    def _show(self, number: int) -> None:
        """Note how samplers and pruners see a trial if it is not as it is."""
        trial = self.get_trial(number)
        if trial.user_attrs.get(UNSEEN):
            self._shown[number] = None
        elif trial.state == TrialState.RUNNING and trial.user_attrs.get(PAUSED):
            pruned = copy.copy(trial)
            pruned.state = TrialState.PRUNED
            pruned.value = trial.intermediate_values[max(trial.intermediate_values)]
            self._shown[number] = pruned
        else:
            self._shown.pop(number, None)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials as samplers and pruners are to see them."""
        if not self._shown or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        as_they_are: list[FrozenTrial | None] = list(self.trials())
        for number, shown in self._shown.items():
            as_they_are[number] = shown
        found = [t for t in as_they_are if t and (states is None or t.state in states)]
        return copy.deepcopy(found) if deepcopy else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin a draft, or store a trial that is whole already."""
        number = super().create_new_trial(study_id, template_trial)
        if template_trial is None:
            self._draft = number
        else:
            self._store_new(number)
            self._show(number)
        return number

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Set a parameter of the draft."""
        assert trial_id == self._draft
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """End a trial, or take one that waits as the draft."""
        if state == TrialState.RUNNING:
            self._draft = trial_id
        elif trial_id != self._draft:
            self._durable.set_trial_state_values(self._ids[trial_id], state, values)
        changed = super().set_trial_state_values(trial_id, state, values)
        self._show(trial_id)
        return changed

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Record a report."""
        self._durable.set_trial_intermediate_value(self._ids[trial_id], step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        if trial_id != self._draft:
            self._durable.set_trial_user_attr(self._ids[trial_id], key, value)
        super().set_trial_user_attr(trial_id, key, value)
        if key in (PAUSED, UNSEEN):
            self._show(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a sampler's or a pruner's attribute of a trial."""
        if trial_id != self._draft:
            self._durable.set_trial_system_attr(self._ids[trial_id], key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of the study."""
        self._durable.set_study_user_attr(self._durable_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a sampler's attribute of the study; what belongs to a draft is kept with it."""
        if self._draft is None:
            self._durable.set_study_system_attr(self._durable_study, key, value)
        else:
            self._drafted[key] = value
        super().set_study_system_attr(study_id, key, value)


def mirrored(study: optuna.Study) -> tuple[optuna.Study, Mirror]:
    """Return the study over a mirror of its storage, and the mirror."""
    mirror = Mirror(study._storage, study._study_id)
    opened = optuna.load_study(
        study_name=study.study_name, storage=mirror, sampler=study.sampler, pruner=study.pruner
    )
    return opened, mirror
