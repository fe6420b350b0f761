"""The three acts of a study: search, confirmation, report; each continues what it finds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cluster import confirm, dispatch, preflight
from cluster.ledger import Ledger, Observer, Proposal
from cluster.progress import Console
from cluster.results import ResultsTable, read_rows
from cluster.settings import StudyConfig, to_plain, write_once
from cluster.tracking import Tracker
from search_spaces.drawing import CONTROL
from search_spaces.literature import CONTROL_PRESET
from search_spaces.spaces import SPACES
from trainables.config import (
    EMBEDDED_MODEL,
    EMBEDDED_TASKS,
    EMBEDDED_TRAIN_DATA,
    ConfigError,
    DataConfig,
    TrialConfig,
)
from trainables.overlay import overlay

Log = Callable[[str], None]


def prepare(
    study: Mapping[str, Any],
    trial: Mapping[str, Any],
    checks: Mapping[str, str | None],
    *,
    log: Log,
) -> StudyConfig:
    """Fetch the embedded model and text if the study needs them and check all settings.

    Raises:
        ConfigError: With every fault of the settings, those in `checks` included.
    """
    from trainables import assets

    quiet_libraries()
    if needs_embedded(trial):
        assets.prepare(log)
    config = preflight.configure(study, trial, checks)
    log(preflight.foresee(config.base))
    return config


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


def run_study(
    config: StudyConfig,
    outputs: Path,
    address: str | None,
    at_once: int | None,
    gpus: float | None = None,
    *,
    log: Log,
) -> bool:
    """Search, confirm and report; return whether there was a design to confirm.

    Raises:
        ConfigError: If the study's folder holds other settings, or another process works on it.
    """
    folder = outputs / config.name
    write_once(config, folder)
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"study: {config.name!r} is being run by another process; wait for it or end it"
        ) from error
    with lock:
        tracker = Tracker(config.name, outputs, to_plain(config))
        with dispatch.ray_cluster(address):
            acts = _Acts(config, folder, tracker, at_once, gpus, log)
            acts.search()
            confirmed = acts.confirm()
        write_report(folder, tracker, log)
        return confirmed


class _Acts:
    """Search and confirmation over the same folder, tracker and cluster."""

    def __init__(
        self,
        config: StudyConfig,
        folder: Path,
        tracker: Tracker,
        at_once: int | None,
        gpus: float | None,
        log: Log,
    ) -> None:
        self._config = config
        self._folder = folder
        self._tracker = tracker
        self._log = log
        self._slots = dispatch.slots(config.base, at_once, gpus)
        journal = JournalFileBackend(str(folder / "study.journal"))
        self._storage = JournalStorage(journal)

    def search(self) -> None:
        """Let Optuna propose designs of the space; the control comes first."""
        from trainables import designs

        config, base = self._config, self._config.base
        space, shape = SPACES[config.space], designs.shape(base.backbone)

        def propose(trial: optuna.Trial) -> Proposal:
            params = space(trial, base, shape)
            if trial.user_attrs.get("control"):  # whatever the space leaves to the base
                params = dict(CONTROL)
            design = overlay(base, params)
            role = "control" if confirm.is_control(design, base) else "search"
            return Proposal(config=design, params=params, role=role)

        study = optuna.create_study(
            study_name=f"{config.name}-search",
            storage=self._storage,
            load_if_exists=True,
            direction="maximize",
            sampler=sampler(config.seed),
            pruner=pruner(),
        )
        if not study.get_trials(deepcopy=False):
            queued = CONTROL | {"preset": CONTROL_PRESET}
            study.enqueue_trial(queued, user_attrs={"control": True})
        self._run("search", study, propose, config.num_trials)

    def confirm(self) -> bool:
        """Train the best designs and the control again, with fresh seeds, if there are any."""
        config = self._config
        rows = [r for r in read_rows(self._folder / "results") if r["split"] == "choosing"]
        if not confirm.finalists(rows, config.num_finalists):
            self._log("confirm: no design beside the control was finished")
            return False
        runs = confirm.kept_plan(config, rows, self._folder / "confirm")
        proposer = confirm.Proposer(runs, config.base)
        study = optuna.create_study(
            study_name=f"{config.name}-confirm",
            storage=self._storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=config.seed),
            pruner=optuna.pruners.NopPruner(),
        )
        proposer.enqueue(study)
        self._run("confirm", study, proposer, len(runs))
        return True

    def _run(
        self, act: str, study: optuna.Study, propose: Callable[[optuna.Trial], Proposal], size: int
    ) -> None:
        observers: list[Observer] = [
            ResultsTable(self._config.name, self._folder / "results"),
            self._tracker,
        ]
        ledger = Ledger(
            study, propose, num_trials=size, folder=self._folder / act, observers=observers
        )
        console = Console(size, ledger.num_ended)
        ledger.add_observer(console)
        if ledger.num_ended >= ledger.num_trials:
            self._log(f"{act}: all {ledger.num_trials} trials are done")
            return
        self._log(
            f"{act}: {size} trials, {ledger.num_ended} done, {self._slots.at_once()} at once"
        )
        dispatch.run_trials(ledger, slots=self._slots, folder=self._folder / "ray" / act)
        if ledger.num_trials < size:
            self._log(f"{act}: the space has no more than {ledger.num_trials} designs")


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler: TPE that models parameters jointly and knows of running trials."""
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=6
    )


def pruner() -> optuna.pruners.BasePruner:
    """Return the pruner: a trial stops when a report is in the lowest quarter of finished trials'.

    The first three to finish are never stopped. It is this lenient because the report is a quick
    retrieval score: a design that disturbs the backbone, as bidirectional attention does, starts
    low in it and catches up.
    """
    return optuna.pruners.PercentilePruner(75.0, n_startup_trials=3)


def write_report(folder: Path, tracker: Tracker, log: Log) -> None:
    """Write the report of a study's results, attach it to MLflow and say the verdict."""
    from analysis import report

    file, sentences = report.write(folder)
    tracker.finish(file, sentences)
    for line in ["", *sentences, "", f"report: {file}", f"MLflow: {how_to_open(tracker.uri)}"]:
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
