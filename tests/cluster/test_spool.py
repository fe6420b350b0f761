"""MLflow goes away in the middle of a search and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from cluster.observers import spool
from cluster.observers.spool import Spool
from cluster.observers.tracking import Tracker
from tests.cluster.test_tracking import REPORT, assignment, ending


class Away(Tracker):
    """A tracker whose server may be away."""

    def __init__(self, outputs: Path) -> None:
        super().__init__("s", outputs, {})
        self.is_away = False

    def _run(self, *given: Any, **named: Any) -> str:
        if getattr(self, "is_away", False):
            raise MlflowException("database is locked")
        return super()._run(*given, **named)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RETRY_S", 0.0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def metrics(tracker: Tracker) -> list[dict[str, float]]:
    runs = tracker._client.search_runs([tracker._experiment], "tags.trial != ''")
    return [run.data.metrics for run in runs]


def test_what_happens_meanwhile_is_told_later(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Away(tmp_path)
    kept = Spool(tracker, tmp_path / "mlflow.spool", said.append)
    first, second = assignment(tmp_path, 0), assignment(tmp_path, 1)
    kept.started(first)
    tracker.is_away = True
    kept.started(second)
    kept.reported(second, REPORT)
    assert kept.link(first.name)
    assert kept.link(second.name) == {}
    assert said == [
        f"MLflow does not answer; records wait in {tmp_path / 'mlflow.spool'} (database is locked)"
    ]
    tracker.is_away = False
    kept.ended(second, ending(tmp_path))
    assert sorted(map(len, metrics(tracker)))[0] == 0  # the first has told nothing yet
    assert sum("mean_score" in each and "loss" in each for each in metrics(tracker)) == 1
    assert not (tmp_path / "mlflow.spool").exists()


def test_another_driver_tells_what_the_last_one_could_not(tmp_path: Path) -> None:
    said: list[str] = []
    tracker, file = Away(tmp_path), tmp_path / "mlflow.spool"
    report = tmp_path / "report.html"
    report.write_text("report")
    kept = Spool(tracker, file, said.append)
    kept.started(assignment(tmp_path))
    tracker.is_away = True
    kept.started(assignment(tmp_path, 1))
    kept.ended(assignment(tmp_path), ending(tmp_path))
    kept.finish(report, ["nothing"])
    assert said[-1] == f"MLflow: 3 records wait in {file}; repeat the command"
    other = Tracker("s", tmp_path, {})
    Spool(other, file, said.append).finish(report, ["nothing"])
    assert len(metrics(other)) == 2
    assert sum("mean_score" in each for each in metrics(other)) == 1
    assert not file.exists()


def test_a_study_of_that_name_in_another_folder_has_runs_of_its_own(tmp_path: Path) -> None:
    first = Tracker("s", tmp_path, {"steps": 1}, "one")
    assert Tracker("s", tmp_path, {"steps": 2}, "two").parent != first.parent
    assert Tracker("s", tmp_path, {"steps": 1}, "one").parent == first.parent
