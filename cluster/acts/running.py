"""The acts of a study: each continues what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from cluster.acts import confirm, factorial, registering
from cluster.acts.confirm import Run
from cluster.dispatch import train
from cluster.dispatch.tune import gpu_share, run_trials, slots
from cluster.observers.bill import Bill, allows
from cluster.observers.event_log import EventLog
from cluster.observers.progress import Console, Progress
from cluster.observers.results import ResultsTable, read_rows
from cluster.observers.tracking import Tracker
from cluster.preflight.surroundings import Place
from cluster.settings import StudyConfig, study_identity
from cluster.study import priors, samplers
from cluster.study.ledger import Ledger
from cluster.study.opening import claim, open_study, rules
from cluster.study.storage import open_storage
from cluster.study.trials import Observer, Proposal
from search_spaces.spaces import SPACES
from trainables.overlay import overlay

Log = Callable[[str], None]
SPENT = "the budget leaves no room for another trial beside the confirmation"
LONG_RUNS = ("confirm", factorial.CELLS)  # acts whose trials take all steps; Train may run them


class Acts:
    """Search and confirmation over the same folder, tracker and cluster."""

    def __init__(
        self,
        config: StudyConfig,
        folder: Path,
        tracker: Tracker,
        bill: Bill,
        place: Place,
        log: Log,
    ) -> None:
        """Work on the study in `folder`, on the cluster that this process is connected to."""
        self._config = config
        self._folder = folder
        self._tracker = tracker
        self._log = log
        self._slots = slots(config.base, place.at_once, place.gpus_per_worker)
        self._bill, self._budget = bill, place.budget
        bill.share = partial(gpu_share, self._slots)
        self._storage = open_storage(config.storage, folder)
        self._identity = study_identity(folder)
        self._confirm_under = place.confirm_under
        self._patience = place.patience

    def search(self, earlier: Callable[[], optuna.Study | None]) -> None:
        """Let Optuna propose designs of the space; the control and other known ones come first."""
        from trainables import designs

        config = self._config
        base = overlay(config.base, {"evaluation.task_by_task": config.race > 0})
        space, shape = SPACES[config.space], designs.shape(base.backbone)
        propose = priors.proposer(space, base, shape)
        study = open_study(config, self._storage)
        claim(study, self._identity)
        if config.sampler in samplers.NUMBERS_ONLY:
            self._log(f"search: {config.sampler} models numbers only and draws choices at random")
        if config.warm_start is not None and priors.WARM not in study.user_attrs:
            source = earlier()
            assert source is not None
            self._log(f"search: {priors.warm_start(study, source, propose)}")
        priors.queue(study, (priors.CONTROL_KNOWN, *config.first), space, base, shape)
        drawings = partial(priors.drawings, space, base, shape)
        confirmed = (config.num_finalists + 1) * config.num_seeds
        fits = partial(allows, self._bill, self._budget, confirmed)
        more: Any = {"drawings": drawings, "allows": fits, **rules(config)}
        self._run("search", study, propose, config.num_trials, **more)

    def confirm(self) -> bool:
        """Train the best designs and the control again, with fresh seeds, if there are any."""
        config = self._config
        rows = [r for r in read_rows(self._folder / "results") if r["split"] == "choosing"]
        if not confirm.finalists(rows, config.num_finalists, config.objectives):
            self._log("confirm: no design beside the control was finished")
            return False
        runs = confirm.kept_plan(config, rows, self._folder / "confirm")
        plan = registering.registered(config, runs, self._folder, self._log)
        if plan is not None:
            self._tracker.planned(plan.sha256)
        self._planned("confirm", runs)
        return True

    def factorial(self) -> bool:
        """Tune the cells of a factorial and run them; return whether any stands by the control."""
        from trainables import designs

        shape = designs.shape(self._config.base.backbone)
        return factorial.run(self._config, shape, self._folder, self._planned, self._log)

    def _planned(self, act: str, runs: Sequence[Run]) -> optuna.Study:
        """Run what is left of a plan, nothing of which is stopped early."""
        proposer = confirm.Proposer(runs, self._config.base)
        study = optuna.create_study(
            study_name=f"{self._config.name}-{act}",
            storage=self._storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=self._config.seed),
            pruner=optuna.pruners.NopPruner(),
        )
        claim(study, self._identity)
        proposer.enqueue(study)
        self._run(act, study, proposer, len(runs))
        return study

    def _run(
        self,
        act: str,
        study: optuna.Study,
        propose: Callable[[optuna.Trial], Proposal],
        size: int,
        **rules: Any,
    ) -> None:
        observers: list[Observer] = [
            self._bill,
            ResultsTable(self._config.name, self._folder / "results", self._bill.of),
            self._tracker,
        ]
        ledger = Ledger(
            study,
            propose,
            num_trials=size,
            folder=self._folder / act,
            observers=observers,
            link=self._tracker.link,
            **rules,
        )
        log = self._folder / "search.log"
        before = [
            r for r in read_rows(self._folder / "results") if r["trial"].startswith(f"{act}-")
        ]
        console = Console(act, Progress(size, ledger.num_ended, before), log)
        ledger.add_observer(EventLog(log))
        ledger.add_observer(console)
        if ledger.num_ended >= ledger.num_trials:
            self._log(f"{act}: all {ledger.num_trials} trials are done")
            return
        self._log(f"{act}: {size} trials, {ledger.num_ended} done, {self._slots.room()} at once")
        given: Any = {
            "slots": self._slots,
            "folder": self._folder / "ray" / act,
            "patience": self._patience,
        }
        if self._confirm_under == "train" and act in LONG_RUNS:
            train.run_trials(ledger, study=self._config.name, **given)
        else:
            run_trials(ledger, **given)
        console.finish()
        if ledger.num_trials < size:
            spent = not ledger.has_room
            reason = SPENT if spent else exhausted(self._config.space, ledger)
            self._log(f"{act}: {reason}")


def exhausted(space: str, ledger: Ledger) -> str:
    """Return why a search has fewer trials than were asked for."""
    if ledger.num_designs is None:
        return f"many draws found no design beside these {ledger.num_trials}"
    return f"all {ledger.num_designs} designs of {space} are done; there are no more to try"
