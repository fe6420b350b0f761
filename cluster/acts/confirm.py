"""The confirmation: the best designs and the control, trained again and scored on unseen items.

Who is confirmed is decided once, from the search alone, and kept; choosing and confirming never
share an item or a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

from cluster.settings import StudyConfig
from cluster.study.trials import Proposal, category_means
from search_spaces.drawing import CONTROL
from trainables.config import Split, TrialConfig
from trainables.identity import design_digest, digest
from trainables.overlay import overlay

UNTRAINED: tuple[dict[str, Any], ...] = (CONTROL, CONTROL | {"pooling.token_scope": "mean"})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a plan."""

    role: str  # control, finalist or untrained; of a factorial: control, cell or tuning
    params: dict[str, Any]
    seed: int
    steps: int
    split: Split = "confirming"


def finalists(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the parameters of the `count` designs to confirm, by the search's scores alone.

    First the best by the mean over categories, then those that win most categories, then the next
    best; the control is no finalist. Designs that were stopped early or failed cannot be chosen.
    """
    done = [row for row in rows if row["status"] == "complete" and row["role"] == "search"]
    means = {row["trial"]: category_means(row) for row in done}
    overall = sorted(done, key=lambda row: -fmean(means[row["trial"]].values()))
    categories = sorted({category for scores in means.values() for category in scores})
    wins = {row["trial"]: 0 for row in done}
    for category in categories:
        best = max(done, key=lambda row: means[row["trial"]][category])
        wins[best["trial"]] += 1
    rest = sorted(overall[1:], key=lambda row: -wins[row["trial"]])  # stable: ties by the mean
    return [dict(row["params"]) for row in [*overall[:1], *rest][:count]]


def plan(config: StudyConfig, rows: Sequence[Mapping[str, Any]]) -> list[Run]:
    """Return all runs of the confirmation, block by block of one seed."""
    chosen = finalists(rows, config.num_finalists)
    steps = config.base.training.steps
    untrained = [
        Run(role="untrained", params=params, seed=config.base.seed, steps=0)
        for params in _distinct([*UNTRAINED, *map(unadapted, chosen)], config.base)
    ]
    arms = [("control", dict(CONTROL)), *(("finalist", params) for params in chosen)]
    trained = [
        Run(role=role, params=params, seed=config.base.seed + 1 + block, steps=steps)
        for block in range(config.num_seeds)
        for role, params in arms
    ]
    return [*trained, *untrained]


def unadapted(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a design without its adaptation, which is training too."""
    return {**params, "adaptation.kind": "none"}


def _distinct(designs: Sequence[dict[str, Any]], base: TrialConfig) -> list[dict[str, Any]]:
    """Return the designs, of equal ones the first."""
    found: dict[str, dict[str, Any]] = {}
    for params in designs:
        found.setdefault(digest(overlay(base, params)), params)
    return list(found.values())


def kept_plan(config: StudyConfig, rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Run]:
    """Return the plan in `folder`, made now if there is none; later rows do not change it."""
    return kept_runs(folder / "plan.json", lambda: plan(config, rows))


def kept_runs(file: Path, make: Callable[[], list[Run]]) -> list[Run]:
    """Return the runs in a file, made and written now if there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(run) for run in make()], indent=1) + "\n")
        partial.replace(file)
    return [Run(**values) for values in json.loads(file.read_text())]


def trial_config(run: Run, base: TrialConfig) -> TrialConfig:
    """Return the configuration of one run: the design, its seed, its half of the tasks."""
    return overlay(
        base,
        run.params
        | {"seed": run.seed, "training.steps": run.steps, "evaluation.split": run.split},
    )


class Proposer:
    """Hands the plan's runs to the ledger, in the order in which they were enqueued."""

    def __init__(self, runs: Sequence[Run], base: TrialConfig) -> None:
        """Propose `runs` on top of `base`."""
        self._runs = tuple(runs)
        self._base = base

    def enqueue(self, study: optuna.Study) -> None:
        """Queue all runs, unless this was done before."""
        queued = {  # looked up once: a factorial has thousands of runs
            trial.system_attrs.get("fixed_params", trial.params).get("run")
            for trial in study.get_trials(deepcopy=False)
        }
        for index in range(len(self._runs)):
            if index not in queued:
                study.enqueue_trial({"run": index})

    def __call__(self, trial: optuna.Trial) -> Proposal:
        """Return the run that the trial was enqueued for."""
        run = self._runs[trial.suggest_int("run", 0, len(self._runs) - 1)]
        config = trial_config(run, self._base)
        return Proposal(config=config, params=run.params, role=run.role)


def is_control(config: TrialConfig, base: TrialConfig) -> bool:
    """Return whether a configuration is the control design."""
    return design_digest(config) == design_digest(overlay(base, CONTROL))
