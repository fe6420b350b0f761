"""What stands beside a study: another driver, its own folder, its database, an earlier study."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

from cluster.observers.tracking import tracking_uri
from cluster.preflight.faults import Faults
from cluster.preflight.storages import is_filled, storage_fault
from cluster.settings import IDENTITY, StudyConfig, check_kept
from cluster.study import priors
from cluster.study.earlier_runs import SCHEME, earlier_runs
from cluster.study.opening import OWNER, claim
from cluster.study.storage import hidden, open_storage, sqlite_file
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check

LOCK = "driver.lock"


def check_neighbours(
    config: StudyConfig, outputs: Path, refused: Collection[str], faults: Faults
) -> None:
    """Note what keeps a study from being run, or gone on with; nothing is made or changed.

    Fields that are `refused` are not looked at.
    """
    folder = outputs / config.name
    if "name" not in refused:
        faults.during(lambda: check_kept(config, folder, refused))
        faults.during(lambda: check({"study": _driver_fault(folder)}))
    faults.during(lambda: _check_storage(config, folder))
    if not (folder / "study.json").exists():  # a study that goes on knows it already
        faults.during(lambda: open_earlier(config, outputs))


def driver_lock(folder: Path) -> FileLock:
    """Return the lock that the driver of a study holds."""
    return FileLock(folder / LOCK)


def busy(name: str) -> str:
    """Return the fault of a study that has a driver."""
    return f"{name!r} is being run by another process; wait for it or end it"


def _driver_fault(folder: Path) -> str | None:
    if not (folder / LOCK).exists():
        return None
    try:
        with driver_lock(folder).acquire(timeout=0):
            return None
    except Timeout:
        return busy(folder.name)
    except OSError as error:
        return f"expected a folder that you may write in, got {folder} ({error.strerror})"


def _check_storage(config: StudyConfig, folder: Path) -> None:
    """Refuse a database that cannot be opened, or that has this study from another folder."""
    url = config.storage
    if url is None:
        return
    check({"storage": storage_fault(url)})
    if not is_filled(url):
        return
    storage = open_storage(url, folder)
    file = folder / IDENTITY
    identity = file.read_text() if file.exists() else ""
    for name in optuna.get_all_study_names(storage):
        if name.rpartition("-")[0] == config.name:
            study = optuna.load_study(study_name=name, storage=storage)
            if study.user_attrs.get(OWNER) is not None:
                claim(study, identity)


def open_earlier(config: StudyConfig, outputs: Path) -> optuna.Study | None:
    """Return the earlier study that a study starts from, if any.

    Raises:
        ConfigError: If there is no such study.
    """
    given = config.warm_start
    if given is None:
        return None
    if given.startswith(SCHEME):
        name, uri = given.removeprefix(SCHEME), tracking_uri(outputs)
        return _of_mlflow(name, uri, config.space, config.base, config.objectives)
    if "://" in given:
        url = given.partition("#")[0]
        check({"warm-start": storage_fault(url) or _empty_fault(url)})
    return priors.open_source(given, outputs)


def _empty_fault(url: str) -> str | None:
    missing = f"expected a database with a study, got none at {hidden(url)}"
    return None if is_filled(url) else missing


@lru_cache(maxsize=1)  # a search asks for it twice, and MLflow may have thousands of runs
def _of_mlflow(
    name: str, uri: str, space: str, base: TrialConfig, objectives: tuple[str, ...]
) -> optuna.Study:
    from trainables import designs

    if uri.startswith("sqlite") and not sqlite_file(uri).exists():
        raise ConfigError(f"warm-start: expected a study that MLflow has, but there is no {uri}")
    shape = designs.shape(base.backbone)
    return earlier_runs(name, uri, SPACES[space], base, shape, objectives)
