from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster.observers.results import ResultsTable, read_rows
from cluster.observers.tracking import Tracker, tracking_uri
from cluster.study.trials import Assignment, Ending
from trainables.config import TrialConfig
from trainables.identity import design_digest, digest

COST = {
    "trainable_parameters": 7,
    "head_parameters": 2,
    "embedding_size": 48,
    "flops_per_token": 1.5e6,
}
REPORT = {"step": 6, "loss": 1.5, "quick_score": 0.4, "temperature": 0.05, "seconds": 3.0}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def assignment(folder: Path, number: int = 0) -> Assignment:
    return Assignment(
        config=TrialConfig(),
        params={"attention.mask": "causal"},
        role="control",
        number=number,
        name=f"search-{number:04d}",
        folder=folder,
    )


def ending(folder: Path) -> Ending:
    items = folder / "items.parquet"
    items.write_bytes(b"items")
    outcome: dict[str, Any] = {
        "scores": {"BoolQRetrieval": 0.5},
        "categories": {"BoolQRetrieval": "Retrieval"},
        "failures": {},
        "items": str(items),
        "cost": COST,
        "adaptation": {"first_loss": 4.0, "last_loss": 3.0},
        "seconds": 3.0,
        "versions": {"torch": "2"},
    }
    return Ending(status="complete", outcome=outcome, curve=(REPORT,))


def test_runs_are_nested_and_named_as_in_the_space(tmp_path: Path) -> None:
    tracker, trial = Tracker("s", tmp_path, {"space": "joint"}), assignment(tmp_path)
    tracker.started(trial)
    tracker.reported(trial, REPORT)
    tracker.ended(trial, ending(tmp_path))
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    parent, child = client.get_run(tracker.parent), None
    for run in client.search_runs([experiment.experiment_id]):
        if run.data.tags.get("mlflow.parentRunId") == tracker.parent:
            child = run
    assert child is not None
    assert parent.data.params["space"] == "joint"
    assert child.data.params["attention.mask"] == "causal"
    assert "pooling.num_latents" not in child.data.params  # a model without a head has none
    assert child.data.metrics["Retrieval.BoolQRetrieval"] == 0.5
    assert child.data.metrics["mean_score"] == 0.5
    assert child.data.metrics["quick_score"] == 0.4
    assert child.data.metrics["temperature"] == 0.05
    assert child.data.metrics["adaptation.last_loss"] == 3.0
    assert {name: child.data.metrics[name] for name in COST} == COST
    assert child.info.status == "FINISHED"
    names = {artifact.path for artifact in client.list_artifacts(child.info.run_id)}
    assert names == {"config.json", "items.parquet"}


def test_a_resumed_search_continues_its_runs(tmp_path: Path) -> None:
    trial = assignment(tmp_path)
    first = Tracker("s", tmp_path, {})
    first.started(trial)
    second = Tracker("s", tmp_path, {})
    second.started(trial)
    second.ended(trial, Ending(status="failed", reason="it broke"))
    assert first.parent == second.parent
    client = MlflowClient(second.uri)
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    child = next(run for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert (child.info.status, child.data.tags["reason"]) == ("FAILED", "it broke")
    assert not [name for name in child.data.metrics if "." in name or name == "mean_score"]


def test_a_paused_trial_waits_and_its_run_is_linked(tmp_path: Path) -> None:
    trial, tracker = assignment(tmp_path), Tracker("s", tmp_path, {})
    tracker.started(trial)
    tracker.paused(trial)
    client = MlflowClient(tracker.uri)
    run = client.get_run(tracker.link(trial.name)["mlflow_run"])
    assert (run.data.tags["trial"], run.info.status) == (trial.name, "SCHEDULED")
    assert "mlflow_url" not in tracker.link(trial.name)  # a file has no page
    tracker.started(trial)
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_the_environment_names_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(tmp_path).startswith("sqlite:///")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking_uri(tmp_path) == "http://127.0.0.1:9"


def test_a_row_has_what_the_analysis_reads(tmp_path: Path) -> None:
    trial = assignment(tmp_path)
    table = ResultsTable("s", tmp_path / "results")
    table.ended(trial, ending(tmp_path))
    (row,) = read_rows(tmp_path / "results")
    assert row["digest"] == digest(trial.config)
    assert row["design"] == design_digest(trial.config)
    assert (row["status"], row["reason"], row["seed"]) == ("complete", None, 0)
    assert row["scores"] == {"BoolQRetrieval": 0.5}
    assert row["curve"] == [REPORT]
    assert {name: row[name] for name in COST} == COST
    assert (tmp_path / "results" / "search-0000.items.parquet").read_bytes() == b"items"


def test_a_failed_trial_has_a_reason_and_no_score(tmp_path: Path) -> None:
    table = ResultsTable("s", tmp_path / "results")
    table.ended(assignment(tmp_path), Ending(status="failed", reason="TrainingError: loss"))
    row = json.loads((tmp_path / "results" / "search-0000.json").read_text())
    assert (row["status"], row["reason"], row["scores"]) == ("failed", "TrainingError: loss", {})
    assert all(row[name] is None for name in COST)
