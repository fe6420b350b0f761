"""The acts of a study: search and confirmation, or a factorial; then the report.

Each continues what it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout

from cluster.acts import factorial
from cluster.acts.running import Acts
from cluster.dispatch.tune import ray_cluster
from cluster.observers.bill import Bill
from cluster.observers.bill import describe as describe_costs
from cluster.observers.datasets import mlflow_datasets
from cluster.observers.tracking import Tracker
from cluster.preflight import plan
from cluster.preflight.checks import configure
from cluster.preflight.forecast import Forecast
from cluster.preflight.neighbours import busy, driver_lock, open_earlier
from cluster.preflight.surroundings import Place
from cluster.settings import StudyConfig, study_identity, to_plain, write_once
from trainables import suites
from trainables.config import (
    EMBEDDED_MODEL,
    EMBEDDED_TASKS,
    EMBEDDED_TRAIN_DATA,
    ConfigError,
    DataConfig,
    TrialConfig,
)

Log = Callable[[str], None]


def prepare(
    study: Mapping[str, Any],
    trial: Mapping[str, Any],
    checks: Mapping[str, str | None],
    place: Place,
    *,
    log: Log,
) -> tuple[StudyConfig, Forecast]:
    """Fetch the embedded model and text if the study needs them and check all there is.

    Raises:
        ConfigError: With every fault of settings and surroundings, those in `checks` included.
    """
    from trainables import assets

    quiet_libraries()
    if needs_embedded(trial):
        assets.prepare(log)
    config, forecast = configure(study, trial, checks, place)
    for line in plan.warnings(forecast):
        log(line)
    return config, forecast


def describe(config: StudyConfig, forecast: Forecast) -> list[str]:
    """Return the plan of a study, what it will take and when it will have ended."""
    from trainables import designs

    if config.mode == "search":
        return plan.lines(forecast, plan.plan_of_search(config, forecast))
    made = factorial.factorial(config, designs.shape(config.base.backbone))
    return plan.lines(forecast, factorial.describe(config, made))


def needs_embedded(trial: Mapping[str, Any]) -> bool:
    """Return whether settings leave the model, the training data or a task embedded."""
    defaults = TrialConfig()
    tasks = trial.get("evaluation.tasks", defaults.evaluation.tasks)
    data = trial.get("training.data", defaults.training.data)
    return (
        trial.get("backbone.model", EMBEDDED_MODEL) == EMBEDDED_MODEL
        or (isinstance(data, list | tuple) and any(map(_is_embedded, data)))
        or any(task in EMBEDDED_TASKS for task in suites.expand(tasks))
    )


def _is_embedded(given: Any) -> bool:
    """Return whether a data set, as plain values or not, is the embedded one."""
    if isinstance(given, Mapping):
        return bool(given.get("name", EMBEDDED_TRAIN_DATA) == EMBEDDED_TRAIN_DATA)
    return isinstance(given, DataConfig) and given.name == EMBEDDED_TRAIN_DATA


def run_study(config: StudyConfig, place: Place, *, log: Log, confirm: bool = True) -> bool:
    """Search, confirm and report; return whether a design was confirmed.

    Raises:
        ConfigError: If the study's folder holds other settings, or another process works on it.
    """
    write_once(config, place.outputs / config.name)

    def act(acts: Acts) -> bool:
        if config.mode == "factorial":
            return acts.factorial()
        acts.search(partial(open_earlier, config, place.outputs))
        return confirm and acts.confirm()

    return _driven(config, place, log, act)


def confirm_study(config: StudyConfig, place: Place, *, log: Log) -> bool:
    """Confirm what a study has found, and report; return whether there was a design to confirm.

    What is confirmed follows `config` where it has not been decided before.

    Raises:
        ConfigError: If another process works on the study.
    """
    return _driven(config, place, log, Acts.confirm)


def _driven(config: StudyConfig, place: Place, log: Log, act: Callable[[Acts], bool]) -> bool:
    """Act as the one driver of a study, report, and return what the act does."""
    folder = place.outputs / config.name
    lock = driver_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"study: {busy(config.name)}") from error
    with lock:
        shown = to_plain(config) | {"first": len(config.first)}
        identity = study_identity(folder)
        datasets = mlflow_datasets(config.base.training.data)
        bill = Bill(folder / "costs.jsonl")
        tracker = Tracker(
            config.name,
            place.outputs,
            shown,
            identity,
            datasets=datasets,
            log=log,
            usage=bill.of,
        )
        with ray_cluster(place.address, dashboard=place.confirm_under == "train"):
            done = act(Acts(config, folder, tracker, bill, place, log))
        write_report(folder, tracker, log)
        log(describe_costs(bill, place.budget))
        return done


def write_report(folder: Path, tracker: Tracker, log: Log) -> None:
    """Write the report of a study's results, attach it to MLflow and say the verdict."""
    from analysis import report, table, verdict

    file, sentences = report.write(folder)
    winner = verdict.confirmed_winner(verdict.reach_verdict(table.load(folder)))
    trial = winner.rows[min(winner.rows)] if winner else None
    left = tracker.finish(file, sentences, trial)
    for line in ["", *sentences, "", f"report: {file}", f"MLflow: {how_to_open(tracker.uri)}"]:
        log(line)
    if left:
        log(f"MLflow: {left} records wait in {tracker.spool_file}; repeat the command")


def how_to_open(uri: str) -> str:
    """Return what a person does to see MLflow.

    >>> how_to_open("sqlite:////data/outputs/mlflow.db")
    'make ui OUTPUTS=/data/outputs'
    """
    folder = uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")
    return f"make ui OUTPUTS={folder}" if folder != uri else uri


def quiet_libraries() -> None:
    """Keep the libraries' own chatter off the console; their errors come to us as exceptions."""
    import warnings

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for name in ("mlflow", "alembic", "sqlalchemy", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
