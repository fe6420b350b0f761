from __future__ import annotations

from pathlib import Path

import optuna
from filelock import FileLock

from cluster.preflight.faults import Faults
from cluster.preflight.neighbours import check_neighbours
from cluster.settings import StudyConfig, study_identity, write_once
from cluster.study.opening import claim


def found(config: StudyConfig, outputs: Path) -> list[str]:
    faults = Faults()
    check_neighbours(config, outputs, (), faults)
    return faults.lines


def test_a_study_in_a_database_is_gone_on_with_from_its_own_folder_only(tmp_path: Path) -> None:
    config = StudyConfig(name="s", storage=f"sqlite:///{tmp_path}/studies.db")
    own, other = tmp_path / "own", tmp_path / "other"
    assert found(config, own) == []
    write_once(config, own / "s")
    study = optuna.create_study(study_name="s-search", storage=config.storage)
    claim(study, study_identity(own / "s"))
    assert found(config, own) == []
    (fault,) = found(config, other)
    assert fault.startswith("storage: expected no study 's-search' of another outputs folder")


def test_a_study_that_goes_on_does_not_need_its_earlier_study(tmp_path: Path) -> None:
    config = StudyConfig(name="s", warm_start="gone")
    (fault,) = found(config, tmp_path)
    assert fault.startswith("warm-start: expected a study's folder")
    write_once(config, tmp_path / "s")
    assert found(config, tmp_path) == []


def test_a_study_has_one_driver(tmp_path: Path) -> None:
    config = StudyConfig(name="s")
    write_once(config, tmp_path / "s")
    lock = FileLock(tmp_path / "s" / "driver.lock")
    with lock:
        assert found(config, tmp_path) == [
            "study: 's' is being run by another process; wait for it or end it"
        ]
    assert found(config, tmp_path) == []
    lock.acquire(timeout=0)  # nobody holds it after a look
    lock.release()
