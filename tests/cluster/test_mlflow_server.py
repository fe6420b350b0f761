"""A team's server on PostgreSQL, killed and restarted in the middle of a search."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster.mlflow.__main__ import main
from cluster.mlflow.server import DATABASE, ServerConfig, command, environment
from cluster.observers import spool
from cluster.observers.tracking import Tracker
from tests.cluster.test_tracking import REPORT, assignment, ending
from trainables.config import ConfigError

URL = "postgresql+psycopg://ada:hush@host/runs"
STEPS = range(6, 66, 6)


def test_no_secret_is_in_the_command(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(database=URL, artifacts="s3://bucket/runs", allowed_hosts=("a", "b"))
    assert "hush" not in " ".join(command(config))
    assert environment(config)[DATABASE] == URL
    assert command(config)[-1] == "a,b"
    monkeypatch.setenv(DATABASE, URL)
    assert main(["--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "hush" not in said
    assert "ada:***@host" in said


def test_it_is_reached_from_this_machine_alone() -> None:
    assert ServerConfig(database="sqlite:///a.db", artifacts="a").host == "127.0.0.1"


def test_all_faults_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig(database="runs", artifacts="", port=0, workers=0)
    assert str(caught.value).splitlines() == [
        f"database: expected a URL such as postgresql+psycopg://user@host/name in ${DATABASE}",
        "artifacts: expected a name or a path, got ''",
        "port: expected at least 1, got 0",
        "workers: expected at least 1, got 0",
    ]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql+nothing://host/runs", "expected a database that SQLAlchemy knows"),
        ("mssql+pyodbc://host/runs", "its driver is missing"),
    ],
)
def test_a_missing_driver_is_named(url: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"database: {fault}"):
        ServerConfig(database=url, artifacts="a")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A database cluster of its own, in a folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._data = programs, folder / "data"
        self.port = free_port()
        self._user = "postgres" if os.getuid() == 0 else None  # which it refuses to run as
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "runs", "--no-sync")
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._options = ["-D", str(self._data), "-o", options, "-w", "-l", str(folder / "log")]
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", *self._options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    programs = [Path(each).parent for each in found if each]
    if not programs:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory() as folder:  # pytest keeps its own from other users
        made = Postgres(programs[0], Path(folder))
        yield made
        made.stop()


@contextlib.contextmanager
def server(database: str, folder: Path, port: int) -> Iterator[None]:
    """Run our program until the block ends; it is killed with all that it started."""
    program = [sys.executable, "-m", "cluster.mlflow", "--outputs", str(folder)]
    process = subprocess.Popen(
        [*program, "--port", str(port)],
        env=os.environ | {DATABASE: database},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answers(port)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(0.2)
    pytest.fail("the server does not answer")


@pytest.mark.slow
def test_an_outage_loses_nothing_and_repeats_nothing(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "RETRY_S", 0.5)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    database = f"postgresql+psycopg://runs@127.0.0.1:{postgres.port}/postgres"
    said: list[str] = []
    trials = [assignment(tmp_path, number) for number in range(3)]
    with server(database, tmp_path, port):
        tracker = Tracker("s", tmp_path, {"space": "joint"}, log=said.append)
        tracker.started(trials[0])
        assert set(tracker.link(trials[0].name)) == {"mlflow_run", "mlflow_url"}
        report_all(tracker, trials[0])
        postgres.stop()  # the server answers, and its database does not
        report_all(tracker, trials[1])
        postgres.start()
        assert tracker._spool.settle() == 0
    begun = time.monotonic()
    report_all(tracker, trials[2])  # nobody is there
    tracker.ended(trials[2], ending(tmp_path))
    assert time.monotonic() - begun < 1
    assert tracker.close() > 0
    with server(database, tmp_path, port):
        tracker = Tracker("s", tmp_path, {"space": "joint"}, log=said.append)  # a new driver
        tracker.started(trials[0])
        for trial in trials[:2]:
            tracker.ended(trial, ending(tmp_path))
        report = tmp_path / "report.html"
        report.write_text("<html>")
        assert tracker.finish(report, ["It is better."], winner=trials[0].name) == 0
        assert_each_once(tracker.uri)
        (version,) = MlflowClient(tracker.uri).search_model_versions("name = 's'")
        assert version.tags == {"trial": trials[0].name}
    assert not tracker.spool_file.exists()
    assert "MLflow does not answer" in " ".join(said)


def report_all(tracker: Tracker, trial: Any) -> None:
    tracker.started(trial)
    for step in STEPS:
        tracker.reported(trial, REPORT | {"step": step})


def assert_each_once(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.trial != ''")
    assert len(runs) == 3
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(STEPS)
        assert run.info.status == "FINISHED"
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files == {"config.json", "items.parquet"}
