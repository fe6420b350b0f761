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

from analysis import registration

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = ("Lee50STS", "TRECClassification")
SEED = "36"  # the design after the control has no head, those after it have one
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
        *("--trials", "4", "--finalists", "1", "--seeds", "2", "--at-once", "2", "--seed", SEED),
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
def test_from_command_to_verdict_through_kills_and_failing_designs(
    command: list[str], tmp_path: Path
) -> None:
    command = [*command, "--set=training.head_learning_rate=1e38"]  # a head's loss becomes NaN
    folder = tmp_path / "s"
    interrupt(command, folder)
    kept = kill_driver(command, folder)
    output = finish_without_a_worker(command, folder)

    table = rows(folder)
    assert {row["trial"]: row for row in table}.items() >= kept.items()
    search = [row for row in table if row["split"] == "choosing"]
    confirmed = [row["role"] for row in table if row["split"] == "confirming"]
    assert len(search) == 4
    assert confirmed.count("control") == confirmed.count("finalist") == 2
    failed = [row for row in search if row["status"] == "failed"]
    assert 0 < len(failed) < 3
    for row in search:
        assert (row["params"]["pooling.head"] != "none") == (row in failed)
    assert all("expected" in row["reason"] and "finite" in row["reason"] for row in failed)
    assert not any(row["scores"] for row in failed)
    assert all(set(row["scores"]) == set(TASKS) for row in table if row["status"] == "complete")
    check_optuna(folder, search)
    check_mlflow(tmp_path, table)
    assert "untrained" in (folder / "report.html").read_text()
    assert not list(folder.glob("*/*/checkpoints"))
    assert len(output.splitlines()) < 40

    again = finish(start(command))
    assert "search: all 4 trials are done" in again
    assert f"confirm: all {len(confirmed)} trials are done" in again
    assert rows(folder) == table
    check_plan(folder, search)


def check_plan(folder: Path, search: list[dict[str, Any]]) -> None:
    """The confirmation was planned from the search, and the plan's hash is in MLflow."""
    plan, sha256 = registration.read(folder) or pytest.fail("no plan")
    assert plan.sha256 == sha256
    assert [design.role for design in plan.designs] == ["control", "finalist"]
    assert {task for names in plan.tasks.values() for task in names} == set(TASKS)
    assert set(plan.winners.values()) == {plan.designs[1].label}
    assert plan.designs[1].design in {row["design"] for row in search}
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.plan_sha256 = '{sha256}'")
    assert run.data.tags["kind"] == "search"


@pytest.mark.slow
@pytest.mark.embedded
def test_a_factorial_goes_from_tuning_to_contrasts_through_a_kill(
    command: list[str], tmp_path: Path
) -> None:
    start_of = command.index("--trials")
    factors = ("attention.key_value_heads", "pooling.token_scope")
    changed = [*command[:start_of], *command[start_of + 4 :]]  # no trials, no finalists
    changed += ["--mode", "factorial", "--factors", *factors, "--fraction", "2", "--tune", "2"]
    folder = tmp_path / "s"
    kept = kill_driver(changed, folder)
    output = finish(start(changed))
    table = rows(folder)
    assert {row["trial"]: row["scores"] for row in table}.items() >= {
        name: row["scores"] for name, row in kept.items()
    }.items()
    roles = [row["role"] for row in table]
    assert [roles.count(role) for role in ("tuning", "control", "cell")] == [4, 2, 2]
    assert {(row["role"] == "tuning", row["split"]) for row in table} == {
        (True, "choosing"),
        (False, "confirming"),
    }
    tuned: dict[str, Any] = {}
    for row in (row for row in table if row["role"] == "tuning"):
        score = sum(row["scores"].values())
        tuned[row["design"]] = max(
            tuned.get(row["design"], (0.0, {})), (score, row["params"]), key=lambda pair: pair[0]
        )
    for row in (row for row in table if row["role"] != "tuning"):
        assert row["params"] == tuned[row["design"]][1]
    assert "Of 2 contrasts of cells with the control (1 of them), " in output
    assert "Cell against the control" in (folder / "report.html").read_text()
    assert len((folder / "search.log").read_text().splitlines()) > len(table) * 2


def interrupt(command: Sequence[str], folder: Path) -> None:
    """Press Ctrl-C when a trial has a checkpoint."""
    process = start(command)
    wait_for(lambda: list((folder / "search").glob("*/checkpoints/latest")), process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command continues where this left off." in output
    assert "Traceback" not in output


def kill_driver(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Kill the driver and all that it started when a row is there; return the rows."""
    process = start(command)
    wait_for(lambda: list((folder / "results").glob("*.json")), process)
    with all_ended(process):
        return {row["trial"]: row for row in rows(folder)}


def finish_without_a_worker(command: Sequence[str], folder: Path) -> str:
    """Finish the search, killing one worker as soon as it is there."""
    process = start(command)
    family = psutil.Process(process.pid)

    def workers() -> list[psutil.Process]:
        found = []
        for member in family.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [member] if "TrialWorker.advance" in " ".join(member.cmdline()) else []
        return found

    wait_for(workers, process)
    workers()[0].kill()
    return finish(process)


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
    files = [file.path for file in client.list_artifacts(parent.info.run_id)]
    assert files == ["report.html", "report.md"]
    for row in table:
        run = children[row["trial"]]
        assert run.data.params["attention.mask"] == row["params"]["attention.mask"]
        for task, score in row["scores"].items():
            assert run.data.metrics[f"{row['categories'][task]}.{task}"] == score
        if row["status"] == "complete":
            assert run.data.metrics["flops_per_token"] == row["flops_per_token"] > 0
