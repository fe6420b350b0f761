"""The plan of a confirmation, registered before it is run: what is tested, and with what power."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.acts.confirm import Run, trial_config
from cluster.settings import StudyConfig
from trainables import suites
from trainables.identity import design_digest, digest, label

if TYPE_CHECKING:
    from analysis.registration import Design, Registration

ARMS = ("control", "finalist")


def registered(
    config: StudyConfig, runs: Sequence[Run], folder: Path, log: Callable[[str], None]
) -> Registration | None:
    """Return the plan of a confirmation's runs, written now if there is none, and say it.

    A confirmation that has results already, and no plan, stays without: it would be none.
    """
    from analysis import registration

    kept = registration.read(folder)
    if kept is not None:
        return kept[0]
    if any((folder / "results").glob("confirm-*.json")):
        log("plan: none was written before the first results, so none is now")
        return None
    plan = planned(config, runs, folder)
    file = registration.write(plan, folder)
    log(f"plan: {registration.summary(plan)} ({file}, sha256 {plan.sha256[:12]})")
    return plan


def planned(config: StudyConfig, runs: Sequence[Run], folder: Path) -> Registration:
    """Return the plan of a confirmation's runs, from what the search has found."""
    from analysis import registration, table

    arms = [run for run in runs if run.role in ARMS]
    designs = {_design(run, config): None for run in arms}
    seeds = sorted({run.seed for run in arms})
    tasks = confirming_tasks(config.base.evaluation.tasks)
    return registration.make(
        table.load(folder), list(designs), seeds, tasks, config.smallest_effect
    )


def _design(run: Run, config: StudyConfig) -> Design:
    from analysis.registration import Design

    trial = trial_config(run, config.base)
    return Design(
        role=run.role, label=label(trial), design=design_digest(trial), digest=digest(trial)
    )


def confirming_tasks(names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return the tasks of the confirming split by category."""
    from trainables.tasks import category

    found: dict[str, list[str]] = {}
    for part in suites.parts(names, "confirming"):
        found.setdefault(category(part.task), []).append(part.task)
    return found
