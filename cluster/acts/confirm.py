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

from cluster.settings import SCORE, StudyConfig
from cluster.study.trials import Proposal, category_means
from search_spaces.drawing import CONTROL
from trainables.config import Split, TrialConfig
from trainables.identity import design_digest, digest
from trainables.overlay import overlay

SHOWN = "shown"  # a user attribute: what of a run is among its trial's parameters
UNTRAINED: tuple[dict[str, Any], ...] = (CONTROL, CONTROL | {"pooling.token_scope": "mean"})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a plan."""

    role: str  # control, finalist or untrained; of a factorial: control, cell or tuning
    params: dict[str, Any]
    seed: int
    steps: int
    split: Split = "confirming"


def finalists(
    rows: Sequence[Mapping[str, Any]], count: int, objectives: Sequence[str] = (SCORE,)
) -> list[dict[str, Any]]:
    """Return the parameters of the `count` designs to confirm, by what the search found alone.

    First the best by the mean over categories, then those that win most categories, then the next
    best. With several objectives: first those that no other design beats in one without losing in
    another, then those that only these beat, and so on; within a front, the best score first. The
    control is no finalist. Designs that were stopped early or failed cannot be chosen.
    """
    done = [row for row in rows if row["status"] == "complete" and row["role"] == "search"]
    if len(objectives) > 1:
        return [dict(row["params"]) for row in by_front(done, objectives)][:count]
    means = {row["trial"]: category_means(row) for row in done}
    overall = sorted(done, key=lambda row: -fmean(means[row["trial"]].values()))
    categories = sorted({category for scores in means.values() for category in scores})
    wins = {row["trial"]: 0 for row in done}
    for category in categories:
        best = max(done, key=lambda row: means[row["trial"]][category])
        wins[best["trial"]] += 1
    rest = sorted(overall[1:], key=lambda row: -wins[row["trial"]])  # stable: ties by the mean
    return [dict(row["params"]) for row in [*overall[:1], *rest][:count]]


def by_front(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return rows front by front of those that are not dominated, the best score first in each.

    The score is to be large, every other objective small.
    """
    score = {row["trial"]: fmean(category_means(row).values()) for row in rows}

    def losses(row: Mapping[str, Any]) -> list[float]:
        return [-score[row["trial"]] if name == SCORE else row[name] for name in objectives]

    left = sorted(rows, key=lambda row: -score[row["trial"]])
    found: list[Mapping[str, Any]] = []
    while left:
        values = [losses(row) for row in left]
        beaten = [any(_dominates(other, own) for other in values) for own in values]
        found += [row for row, is_beaten in zip(left, beaten, strict=True) if not is_beaten]
        left = [row for row, is_beaten in zip(left, beaten, strict=True) if is_beaten]
    return found


def _dominates(some: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether some losses are nowhere larger than others, and somewhere smaller.

    >>> _dominates([1, 2], [1, 3]), _dominates([1, 3], [2, 2]), _dominates([1, 2], [1, 2])
    (True, False, False)
    """
    pairs = list(zip(some, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def plan(config: StudyConfig, rows: Sequence[Mapping[str, Any]]) -> list[Run]:
    """Return all runs of the confirmation, block by block of one seed."""
    chosen = finalists(rows, config.num_finalists, config.objectives)
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
        self._shown = [_shown(run) for run in runs]
        self._choices: dict[str, dict[Any, None]] = {}  # an ordered set for each parameter
        for name, value in (item for shown in self._shown for item in shown.items()):
            self._choices.setdefault(name, {})[value] = None

    def enqueue(self, study: optuna.Study) -> None:
        """Queue all runs, unless this was done before."""
        queued = {  # looked up once: a factorial has thousands of runs
            trial.system_attrs.get("fixed_params", trial.params).get("run")
            for trial in study.get_trials(deepcopy=False)
        }
        for index in range(len(self._runs)):
            if index not in queued:
                shown = self._shown[index]
                study.enqueue_trial({"run": index, **shown}, user_attrs={SHOWN: list(shown)})

    def __call__(self, trial: optuna.Trial) -> Proposal:
        """Return the run that the trial was enqueued for, its design shown as parameters."""
        run = self._runs[trial.suggest_int("run", 0, len(self._runs) - 1)]
        for name in trial.user_attrs.get(SHOWN, ()):
            trial.suggest_categorical(name, tuple(self._choices[name]))
        config = trial_config(run, self._base)
        return Proposal(config=config, params=run.params, role=run.role)


def _shown(run: Run) -> dict[str, Any]:
    """Return what tells a run from others, as Optuna and its dashboard take it."""
    plain = {n: v if isinstance(v, str | int | float) else str(v) for n, v in run.params.items()}
    return {"role": run.role, "seed": run.seed, **plain}


def is_control(config: TrialConfig, base: TrialConfig) -> bool:
    """Return whether a configuration is the control design."""
    return design_digest(config) == design_digest(overlay(base, CONTROL))
