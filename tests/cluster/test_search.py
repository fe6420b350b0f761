"""The main job for real: Ray, DeepSpeed, mteb, Optuna and MLflow on a tiny random model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cluster.search import main

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = ("Lee50STS", "TRECClassification")
TIMEOUT_S = 240


@pytest.fixture
def command(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> list[str]:
    """The command line of a search of four designs, one finalist and two seeds."""
    settings = {
        "training.steps": 4,
        "training.report_every": 2,
        "training.batch_size": 4,
        "engine.precision": "fp32",
        "evaluation.max_tokens": 16,
    }
    sets = [f"--set={name}={value}" for name, value in settings.items()]
    return [
        *("--study", "s", "--outputs", str(tmp_path), "--space", "attention"),
        *("--trials", "4", "--finalists", "1", "--seeds", "2", "--at-once", "2"),
        *("--model", str(tiny_model), "--layers", "3", "--train-data", str(tiny_pairs)),
        *("--tasks", *TASKS, *sets),
    ]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a search in a process of its own; its console goes to a pipe."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.search", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))]


@contextlib.contextmanager
def all_ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the driver and all that it started, as a machine that goes down does."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)
    process.communicate()
    yield


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.embedded
def test_from_command_to_verdict_through_a_kill_and_a_failing_design(
    command: list[str], tmp_path: Path
) -> None:
    command = [*command, "--set=training.head_learning_rate=1e38"]  # a head's loss becomes NaN
    folder = tmp_path / "s"
    first = start(command)
    wait_for(lambda: list((folder / "results").glob("*.json")), first)
    with all_ended(first):
        kept = {row["trial"]: row for row in rows(folder)}
    output = finish(start(command))

    table = rows(folder)
    assert {row["trial"]: row for row in table}.items() >= kept.items()
    search = [row for row in table if row["split"] == "choosing"]
    confirmed = [row for row in table if row["split"] == "confirming"]
    assert len(search) == 4
    assert (
        sorted(row["role"] for row in confirmed)
        == ["control"] * 2 + ["finalist"] * 2 + ["untrained"] * 2
    )
    failed = [row for row in search if row["status"] == "failed"]
    for row in search:
        assert (row["params"]["pooling.head"] != "none") == (row in failed)
    for row in failed:
        assert "expected a finite number" in row["reason"]
        assert row["scores"] == {}
    assert all(set(row["scores"]) == set(TASKS) for row in table if row["status"] == "complete")
    check_optuna(folder, search)
    check_mlflow(tmp_path, table)
    assert "untrained" in (folder / "report.html").read_text()
    assert len(output.splitlines()) < 40

    again = finish(start(command))
    assert "search: all 4 trials are done" in again
    assert "confirm: all 6 trials are done" in again
    assert rows(folder) == table


def check_optuna(folder: Path, search: list[dict[str, Any]]) -> None:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name="s-search", storage=storage)
    states = {t.number: t.state.name for t in study.trials if "config" in t.user_attrs}
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert states == {int(row["trial"][-4:]): names[row["status"]] for row in search}


def check_mlflow(outputs: Path, table: list[dict[str, Any]]) -> None:
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {run.data.tags["trial"]: run for run in runs if run is not parent}
    assert children.keys() == {row["trial"] for row in table}
    assert parent.info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    for row in table:
        run = children[row["trial"]]
        assert run.data.params["attention.mask"] == row["params"]["attention.mask"]
        for task, score in row["scores"].items():
            assert run.data.metrics[f"{row['categories'][task]}.{task}"] == score


@pytest.mark.slow
@pytest.mark.embedded
def test_ctrl_c_leaves_a_search_that_the_same_command_resumes(
    command: list[str], tmp_path: Path
) -> None:
    process = start(command)
    wait_for(lambda: list((tmp_path / "s" / "search").glob("*/checkpoints/latest")), process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command continues where this left off." in output
    assert "Traceback" not in output


def test_all_faults_come_in_one_message_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(
        [
            *("--space", "both", "--trials", "-3", "--model", str(tmp_path / "none")),
            *("--tasks", "Lee50", "--train-data", "pairs.jsonl", "--outputs", str(tmp_path)),
            *("--set", "poling.head=none", "--set", "training.batch_size=-1"),
            *("--set", "pooling.num_heads=3", "--set", "pooling.head=cross_attention"),
        ]
    )
    message = capsys.readouterr().err
    assert code == 2
    assert "space: expected one of 'attention', 'pooling', 'joint', got 'both'" in message
    assert "num_trials: expected at least 1, got -3" in message
    assert "poling.head: not a parameter; did you mean 'pooling.head'?" in message
    assert "training.batch_size: expected at least 2, got -1" in message
    assert "backbone.model: expected 'smollm2-135m', a model folder or" in message
    assert "evaluation.tasks: " in message
    assert not list(tmp_path.iterdir())


def test_too_many_layers_are_refused(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "9"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path)),
    ]
    assert main(arguments) == 2
    expected = f"backbone.num_layers: expected at most 3, the layers of {tiny_model}, got 9"
    assert expected in capsys.readouterr().err
