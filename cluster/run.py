"""The acts of a study: search and confirmation, or a factorial; then the report.

Each continues what it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout

from cluster.acts import confirm, factorial
from cluster.acts.confirm import Run
from cluster.dispatch import train
from cluster.dispatch.tune import ray_cluster, run_trials, slots
from cluster.observers.event_log import EventLog
from cluster.observers.progress import Console, Progress
from cluster.observers.results import ResultsTable, read_rows
from cluster.observers.spool import Spool
from cluster.observers.tracking import Tracker, tracking_uri
from cluster.preflight import plan
from cluster.preflight.checks import configure
from cluster.preflight.forecast import Forecast
from cluster.preflight.surroundings import Place, storage_fault
from cluster.settings import StudyConfig, study_identity, to_plain, write_once
from cluster.study import priors, samplers
from cluster.study.earlier_runs import SCHEME, earlier_runs
from cluster.study.ledger import Ledger
from cluster.study.opening import claim, open_study, rules
from cluster.study.storage import open_storage
from cluster.study.trials import Observer, Proposal
from search_spaces.spaces import SPACES
from trainables.config import (
    EMBEDDED_MODEL,
    EMBEDDED_TASKS,
    EMBEDDED_TRAIN_DATA,
    ConfigError,
    DataConfig,
    TrialConfig,
)
from trainables.faults import check

Log = Callable[[str], None]
LONG_RUNS = ("confirm", factorial.CELLS)  # acts whose trials take all steps; Train may run them


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
    from trainables import assets, designs

    quiet_libraries()
    if needs_embedded(trial):
        assets.prepare(log)
    config, forecast = configure(study, trial, checks, place)
    priors.check_known(config.first, config.base, designs.shape(config.base.backbone))
    for line in plan.warnings(forecast):
        log(line)
    return config, forecast


def describe(config: StudyConfig, forecast: Forecast) -> list[str]:
    """Return the plan of a study, what it will take and when it will have ended."""
    from trainables import designs

    if config.mode == "search":
        return plan.lines(forecast, plan.plan_of_search(config))
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
        or any(task in EMBEDDED_TASKS for task in tasks)
    )


def _is_embedded(given: Any) -> bool:
    """Return whether a data set, as plain values or not, is the embedded one."""
    if isinstance(given, Mapping):
        return bool(given.get("name", EMBEDDED_TRAIN_DATA) == EMBEDDED_TRAIN_DATA)
    return isinstance(given, DataConfig) and given.name == EMBEDDED_TRAIN_DATA


def run_study(config: StudyConfig, place: Place, *, log: Log) -> bool:
    """Search, confirm and report; return whether there was a design to confirm.

    Raises:
        ConfigError: If the study's folder holds other settings, or another process works on it.
    """
    folder = place.outputs / config.name
    earlier = cache(partial(opened_elsewhere, config, place.outputs))
    if not (folder / "study.json").exists():
        earlier()  # a study that goes on knows it already, and it may be gone
    write_once(config, folder)
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"study: {config.name!r} is being run by another process; wait for it or end it"
        ) from error
    with lock:
        shown = to_plain(config) | {"first": len(config.first)}
        identity = study_identity(folder)
        tracker = Tracker(config.name, place.outputs, shown, identity)
        spool = Spool(tracker, folder / "mlflow.spool", log)
        with ray_cluster(place.address, dashboard=place.confirm_under == "train"):
            acts = _Acts(config, folder, spool, place, log)
            if config.mode == "factorial":
                confirmed = acts.factorial()
            else:
                acts.search(earlier)
                confirmed = acts.confirm()
        write_report(folder, spool, tracker.uri, log)
        return confirmed


def opened_elsewhere(config: StudyConfig, outputs: Path) -> optuna.Study | None:
    """Return the earlier study that a study starts from; see that its database opens.

    Raises:
        ConfigError: If there is no such study or no such database.
    """
    from trainables import designs

    if config.storage is not None:
        check({"storage": storage_fault(config.storage)})
        open_storage(config.storage, outputs)
    given, base = config.warm_start, config.base
    if given is None:
        return None
    if not given.startswith(SCHEME):
        return priors.open_source(given, outputs)
    space, shape = SPACES[config.space], designs.shape(base.backbone)
    study, uri = given.removeprefix(SCHEME), tracking_uri(outputs)
    return earlier_runs(study, uri, space, base, shape, config.objectives)


class _Acts:
    """Search and confirmation over the same folder, tracker and cluster."""

    def __init__(
        self,
        config: StudyConfig,
        folder: Path,
        tracker: Spool | Tracker,
        place: Place,
        log: Log,
    ) -> None:
        self._config = config
        self._folder = folder
        self._tracker = tracker
        self._log = log
        self._slots = slots(config.base, place.at_once, place.gpus_per_worker)
        self._storage = open_storage(config.storage, folder)
        self._identity = study_identity(folder)
        self._confirm_under = place.confirm_under

    def search(self, earlier: Callable[[], optuna.Study | None]) -> None:
        """Let Optuna propose designs of the space; the control and other known ones come first."""
        from trainables import designs

        config, base = self._config, self._config.base
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
        self._run("search", study, propose, config.num_trials, **rules(config))

    def confirm(self) -> bool:
        """Train the best designs and the control again, with fresh seeds, if there are any."""
        config = self._config
        rows = [r for r in read_rows(self._folder / "results") if r["split"] == "choosing"]
        if not confirm.finalists(rows, config.num_finalists):
            self._log("confirm: no design beside the control was finished")
            return False
        self._planned("confirm", confirm.kept_plan(config, rows, self._folder / "confirm"))
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
            ResultsTable(self._config.name, self._folder / "results"),
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
        self._log(
            f"{act}: {size} trials, {ledger.num_ended} done, {self._slots.at_once()} at once"
        )
        folder = self._folder / "ray" / act
        if self._confirm_under == "train" and act in LONG_RUNS:
            train.run_trials(ledger, slots=self._slots, folder=folder, study=self._config.name)
        else:
            run_trials(ledger, slots=self._slots, folder=folder)
        console.finish()
        if ledger.num_trials < size:
            self._log(f"{act}: many draws found no design beside these {ledger.num_trials}")


def write_report(folder: Path, tracker: Spool, uri: str, log: Log) -> None:
    """Write the report of a study's results, attach it to MLflow and say the verdict."""
    from analysis import report

    file, sentences = report.write(folder)
    tracker.finish(file, sentences)
    for line in ["", *sentences, "", f"report: {file}", f"MLflow: {how_to_open(uri)}"]:
        log(line)


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
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
