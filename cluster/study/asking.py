"""Asks Optuna for designs that no trial has had: equal digest and seed are trained once."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from cluster.study.mirror import UNSEEN, Mirror
from cluster.study.samplers import Near
from cluster.study.trials import Proposal
from trainables.identity import digest
from trainables.overlay import as_dict

MAX_REPEATS = 200  # draws of known designs in a row after which the space counts as exhausted


class Asking:
    """What is asked for anew, and what is known already."""

    def __init__(
        self, study: optuna.Study, mirror: Mirror, propose: Callable[[optuna.Trial], Proposal]
    ) -> None:
        """Ask `study`, which is over `mirror`, for what `propose` makes of a trial."""
        self._study = study
        self._mirror = mirror
        self._propose = propose
        self._known: dict[str, int] = {}  # numbers by digest and seed

    def note(self, trial: FrozenTrial) -> None:
        """Know a stored trial's design."""
        if "key" in trial.user_attrs:
            self._known[trial.user_attrs["key"]] = trial.number

    def new(self) -> int | None:
        """Store a trial of a new design; return its number, or None if the space has no more.

        Where the sampler draws a known design, one near it is drawn instead; of that no trace is
        left. A queued design that is known fails as a repeat.
        """
        sampler, known = self._study.sampler, 0
        while known <= MAX_REPEATS:
            trial, proposal = self._ask(sampler)
            key = f"{digest(proposal.config)}-{proposal.config.seed}"
            if key not in self._known:
                return self._keep(trial, proposal, key)
            known += 1
            if self._mirror.is_queued(trial.number):
                trial.set_user_attr("repeats", self._known[key])
                self._study.tell(trial, state=TrialState.FAIL)
                self._mirror.commit(trial.number)
            else:
                sampler = Near(trial.params, known)
                self._mirror.discard(trial.number)
        return None

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
        trial.set_user_attr("key", key)
        trial.set_user_attr("config", as_dict(proposal.config))
        if proposal.unseen:
            trial.set_user_attr(UNSEEN, True)
        self._mirror.commit(trial.number)
        self._known[key] = trial.number
        return trial.number
