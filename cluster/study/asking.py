"""Asks Optuna for designs that no trial has had: equal digest and seed are trained once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from cluster.study.mirror import UNSEEN, Mirror
from cluster.study.samplers import Following, Near, trial_seed
from cluster.study.trials import Proposal
from trainables.identity import digest, label
from trainables.overlay import as_dict

MAX_REPEATS = 200  # draws of known designs in a row after which the space's own are gone through

Drawings = Callable[[], Sequence[Mapping[str, Any]] | None]  # all that a space can draw


class Asking:
    """What is asked for anew, and what is known already."""

    def __init__(
        self,
        study: optuna.Study,
        mirror: Mirror,
        propose: Callable[[optuna.Trial], Proposal],
        drawings: Drawings | None = None,
    ) -> None:
        """Ask `study`, which is over `mirror`, for what `propose` makes of a trial.

        `drawings` are gone through for what is left when the sampler finds nothing new.
        """
        self._study = study
        self._mirror = mirror
        self._propose = propose
        self._drawings = drawings or (lambda: None)
        self._known: dict[str, int] = {}  # numbers by digest and seed
        self._designs: dict[str, Mapping[str, Any]] | None = None

    def note(self, trial: FrozenTrial) -> None:
        """Know a stored trial's design."""
        if "key" in trial.user_attrs:
            self._known[trial.user_attrs["key"]] = trial.number

    def new(self) -> int | None:
        """Store a trial of a new design; return its number, or None if the space has no more.

        Where the sampler draws a known design, one near it is drawn instead; of that no trace is
        left. A queued design that is known fails as a repeat. Where many draws find nothing new,
        one of those that the space has left is taken, by lot.
        """
        sampler, known = self._study.sampler, 0
        while known <= MAX_REPEATS:
            trial, proposal = self._ask(sampler)
            key = _key(proposal)
            if key not in self._known:
                return self._keep(trial, proposal, key)
            if self._mirror.is_queued(trial.number):
                trial.set_user_attr("repeats", self._known[key])
                self._study.tell(trial, state=TrialState.FAIL)
                self._mirror.commit(trial.number)
            else:
                known += 1
                sampler = Near(trial.params, known)
                self._mirror.discard(trial.number)
        return self._one_left()

    @property
    def num_designs(self) -> int | None:
        """How many designs the space has, if they were gone through."""
        return len(self._designs) if self._designs else None

    def _one_left(self) -> int | None:
        """Store a trial of a design that the space has left; None if there is none."""
        if self._designs is None:
            drawings = self._drawings() or ()
            self._designs = {_key(self._propose(_fixed(drawn))): drawn for drawn in drawings}
        left = [drawn for key, drawn in self._designs.items() if key not in self._known]
        if not left:
            return None
        chosen = trial_seed(len(left), len(self._mirror.trials())) % len(left)
        trial, proposal = self._ask(Following(left[chosen]))
        return self._keep(trial, proposal, _key(proposal))

    def _ask(self, sampler: BaseSampler) -> tuple[optuna.Trial, Proposal]:
        usual, self._study.sampler = self._study.sampler, sampler
        try:
            trial = self._study.ask()
            return trial, self._propose(trial)
        finally:
            self._study.sampler = usual

    def _keep(self, trial: optuna.Trial, proposal: Proposal, key: str) -> int:
        trial.set_user_attr("params", proposal.params)
        trial.set_user_attr("role", proposal.role)
        trial.set_user_attr("label", label(proposal.config))
        trial.set_user_attr("key", key)
        trial.set_user_attr("config", as_dict(proposal.config))
        if proposal.unseen:
            trial.set_user_attr(UNSEEN, True)
        self._mirror.commit(trial.number)
        self._known[key] = trial.number
        return trial.number


def _key(proposal: Proposal) -> str:
    return f"{digest(proposal.config)}-{proposal.config.seed}"


def _fixed(drawn: Mapping[str, Any]) -> optuna.Trial:
    return cast(optuna.Trial, FixedTrial(dict(drawn)))
