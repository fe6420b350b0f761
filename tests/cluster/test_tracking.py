from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run

from cluster.observers.datasets import mlflow_datasets
from cluster.observers.mlflow_writer import MlflowWriter
from cluster.observers.results import ResultsTable, read_rows
from cluster.observers.spool import Record
from cluster.observers.tracking import Tracker, tracking_uri
from cluster.study.trials import Assignment, Ending
from trainables.config import DataConfig, TrialConfig
from trainables.identity import design_digest, digest

COST = {
    "trainable_parameters": 7,
    "head_parameters": 2,
    "embedding_size": 48,
    "flops_per_token": 1.5e6,
}
REPORT = {"step": 6, "loss": 1.5, "quick_score": 0.4, "temperature": 0.05, "seconds": 3.0}
LATER = {"step": 12, "loss": 1.25, "quick_score": 0.5, "temperature": 0.05, "seconds": 6.0}


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


def runs_of(tracker: Tracker) -> tuple[Run, list[Run]]:
    """Return the study's run and its trials' by name."""
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(trials, key=lambda run: str(run.data.tags["trial"]))


def test_runs_are_nested_and_named_as_in_the_space(tmp_path: Path) -> None:
    tracker, trial = Tracker("s", tmp_path, {"space": "joint"}), assignment(tmp_path)
    tracker.started(trial)
    tracker.reported(trial, REPORT)
    tracker.ended(trial, ending(tmp_path))
    assert tracker.close() == 0
    client = MlflowClient(tracker.uri)
    parent, (child,) = runs_of(tracker)
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
    first.reported(trial, REPORT)
    first.close()
    second = Tracker("s", tmp_path, {})
    second.started(trial)
    second.reported(trial, REPORT)  # a kill came before the study knew of it
    second.reported(trial, LATER)
    second.ended(trial, Ending(status="failed", reason="it broke", curve=(REPORT, LATER)))
    second.close()
    _, (child,) = runs_of(second)
    assert (child.info.status, child.data.tags["reason"]) == ("FAILED", "it broke")
    assert not [name for name in child.data.metrics if "." in name or name == "mean_score"]
    history = MlflowClient(second.uri).get_metric_history(child.info.run_id, "seconds")
    assert [(point.step, point.value) for point in history] == [(6, 3.0), (12, 6.0)]


def test_a_report_that_was_lost_is_there_at_the_end(tmp_path: Path) -> None:
    trial, tracker = assignment(tmp_path), Tracker("s", tmp_path, {})
    tracker.started(trial)
    tracker.ended(trial, Ending(status="pruned", reason="stopped", curve=(REPORT, LATER)))
    tracker.close()
    _, (child,) = runs_of(tracker)
    history = MlflowClient(tracker.uri).get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(6, 1.5), (12, 1.25)]


def test_to_send_all_records_again_changes_nothing(tmp_path: Path) -> None:
    sent: list[Record] = []
    trial, tracker = assignment(tmp_path), Tracker("s", tmp_path, {"space": "joint"})
    send = tracker._spool._send

    def keep(record: Record) -> None:
        sent.append(record)
        send(record)

    tracker._spool._send = keep
    tracker.started(trial)
    tracker.reported(trial, REPORT)
    tracker.ended(trial, ending(tmp_path))
    report = tmp_path / "report.html"
    report.write_text("<html>")
    assert tracker.finish(report, ["It is better."], winner=trial.name) == 0
    before = everything(tracker)
    again = MlflowWriter(tracker.uri, tmp_path, study="s", identity="only")
    for record in [*sent, *sent]:
        again.send(json.loads(json.dumps(record)))
    assert everything(tracker) == before
    client = MlflowClient(tracker.uri)
    (version,) = client.search_model_versions("name = 's'")
    assert version.run_id == before[1][0]["run_id"]
    assert version.description == "It is better."


def everything(tracker: Tracker) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return all that MLflow shows of a study."""
    client = MlflowClient(tracker.uri)

    def shown(run: Run) -> dict[str, Any]:
        identity = run.info.run_id
        history = {name: client.get_metric_history(identity, name) for name in run.data.metrics}
        return {
            "run_id": identity,
            "times": (run.info.start_time, run.info.end_time, run.info.status),
            "tags": run.data.tags,
            "params": run.data.params,
            "metrics": {
                n: [(m.step, m.timestamp, m.value) for m in h] for n, h in history.items()
            },
            "files": sorted(file.path for file in client.list_artifacts(identity)),
            "inputs": [each.dataset.name for each in inputs_of(run)],
        }

    parent, trials = runs_of(tracker)
    return shown(parent), [shown(trial) for trial in trials]


def inputs_of(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return run.inputs.dataset_inputs


def test_a_run_has_the_data_that_it_was_trained_on(tmp_path: Path) -> None:
    data = mlflow_datasets((DataConfig(name=str(pairs(tmp_path))),))
    tracker = Tracker("s", tmp_path, {}, datasets=data)
    tracker.started(assignment(tmp_path))
    tracker.close()
    _, (child,) = runs_of(tracker)
    (used,) = inputs_of(child)
    assert used.dataset.name.endswith("pairs.jsonl")
    assert len(used.dataset.digest) == 12
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def pairs(folder: Path) -> Path:
    file = folder / "pairs.jsonl"
    file.write_text(json.dumps({"query": "a", "positive": "b"}) + "\n")
    return file


def test_a_paused_trial_waits_and_its_run_is_linked(tmp_path: Path) -> None:
    trial, tracker = assignment(tmp_path), Tracker("s", tmp_path, {})
    tracker.started(trial)
    tracker.paused(trial)
    tracker._spool.settle()
    _, (run,) = runs_of(tracker)
    assert tracker.link(trial.name) == {"mlflow_run": run.info.run_id}  # a file has no page
    assert (run.data.tags["trial"], run.info.status) == (trial.name, "SCHEDULED")
    tracker.started(trial)
    tracker.close()
    assert runs_of(tracker)[1][0].info.status == "RUNNING"


def test_a_study_of_that_name_in_another_folder_has_runs_of_its_own(tmp_path: Path) -> None:
    for identity in ("one", "two", "one"):
        tracker = Tracker("s", tmp_path, {"steps": identity == "one"}, identity)
        assert tracker.close() == 0
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["identity"] for run in runs) == ["one", "two"]


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
