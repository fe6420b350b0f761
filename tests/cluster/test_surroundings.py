from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.preflight import storages
from cluster.preflight.folders import folder_fault
from cluster.preflight.storages import is_filled, server_fault, storage_fault
from cluster.preflight.surroundings import nodes, tracking_fault
from trainables.config import ConfigError


class MlflowServer(http.server.BaseHTTPRequestHandler):
    """Answers as a tracking server without experiments does, or not at all."""

    wait_s = 0.0

    def do_POST(self) -> None:
        time.sleep(self.wait_s)
        body = json.dumps({"experiments": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # of a client that did not wait
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MlflowServer)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_tracking_server_that_answers_is_fine_and_nothing_is_left_in_the_environment(
    server: str,
) -> None:
    before = {name: value for name, value in os.environ.items() if "MLFLOW" in name}
    assert tracking_fault(server) is None
    assert {name: value for name, value in os.environ.items() if "MLFLOW" in name} == before


def test_a_tracking_server_that_is_down_is_named_with_a_remedy(closed_port: int) -> None:
    started = time.monotonic()
    fault = tracking_fault(f"http://127.0.0.1:{closed_port}")
    assert time.monotonic() - started < 5
    assert fault is not None
    assert fault.startswith("expected a server that answers within 3 s, got MlflowException from ")
    assert fault.endswith(
        "; start it, or unset MLFLOW_TRACKING_URI to use a file in the outputs folder"
    )


def test_a_tracking_server_that_is_slow_is_not_waited_for(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlflowServer, "wait_s", 2.5)
    monkeypatch.setattr(storages, "TIMEOUT_S", 1)
    started = time.monotonic()
    assert tracking_fault(server) is not None
    assert time.monotonic() - started < 2.4


def test_a_database_server_is_asked_for_its_port(server: str, closed_port: int) -> None:
    open_port = server.rpartition(":")[2]
    assert tracking_fault(f"postgresql+psycopg2://me@127.0.0.1:{open_port}/mlflow") is None
    fault = tracking_fault(f"mysql://127.0.0.1:{closed_port}/mlflow")
    assert fault is not None
    assert f"got ConnectionRefusedError from 127.0.0.1:{closed_port}; start it" in fault
    assert server_fault("postgresql:///here") == "no host and port in postgresql://…"


def test_a_storage_is_asked_for_too(
    tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage_fault(f"sqlite:///{tmp_path}/optuna.db") is None
    monkeypatch.setattr(storages, "driver_fault", lambda url: None)  # as if it were installed
    fault = storage_fault(f"postgresql://127.0.0.1:{closed_port}/optuna")
    assert fault is not None
    assert fault.endswith(
        "; start it, or leave --storage out to keep the trials in the study's folder"
    )


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("postgresql+psycopg2://host/s", "psycopg2", "psycopg2-binary"),
        ("postgresql://host/s", "psycopg", "'psycopg[binary]'"),
        ("mysql://host/s", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://host/s", "pymysql", "pymysql"),
    ],
)
def test_a_database_without_its_driver_says_what_to_install(
    url: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    fault = storage_fault(url)
    assert fault is not None
    kind = url.partition(":")[0].partition("+")[0]
    assert fault.startswith(f"expected a driver of {kind} in this environment, got none (")
    assert f"; pip install {package} here and wherever the search is started" in fault


def test_an_unknown_kind_of_database_is_named() -> None:
    assert storage_fault("mongodb://host/s") == (
        "expected a database that SQLAlchemy knows, such as sqlite, postgresql, mysql, mssql, got "
        "'mongodb'"
    )


def test_a_sqlite_database_is_filled_when_optuna_has_been_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    assert not is_filled(url)
    assert not list(tmp_path.iterdir())
    optuna.create_study(storage=url)
    assert is_filled(url)
    assert storage_fault(url) is None


def test_a_plain_folder_is_no_store_unless_mlflow_was_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = tracking_fault(tmp_path.as_uri())
    assert fault is not None
    assert fault.startswith("expected a server or sqlite:///FILE, got 'file:")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert tracking_fault(tmp_path.as_uri()) is None
    assert tracking_fault("databricks") is tracking_fault("databricks://profile") is None


def test_a_sqlite_file_is_looked_at_and_not_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "mlflow.db"
    assert tracking_fault(f"sqlite:///{file}") is None
    assert not file.parent.exists()
    other = tmp_path / "notes.txt"
    other.write_text("no database")
    fault = tracking_fault(f"sqlite:///{other}")
    assert fault is not None
    assert fault.startswith(
        f"expected an SQLite file, got another kind of file at {other}; unset "
    )
    fault = tracking_fault(f"sqlite:///{other}/mlflow.db")
    assert fault is not None
    assert fault.startswith(f"expected a folder, got a file at {other}")
    real = tmp_path / "real.db"
    with sqlite3.connect(real) as connection:
        connection.execute("create table t (x)")
    connection.close()
    assert tracking_fault(f"sqlite:///{real}") is None


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder_fault(tmp_path / "a" / "b") is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert folder_fault(tmp_path / "a" / "b") == (
        f"expected a folder that you may write in, got {tmp_path}; give another one"
    )


def test_an_address_where_nothing_listens_is_refused_at_once(closed_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        nodes(f"127.0.0.1:{closed_port}")
    assert time.monotonic() - started < 5
    assert str(raised.value) == (
        "address: expected a Ray cluster that answers, got ConnectionRefusedError from "
        f"127.0.0.1:{closed_port}; start one with `ray start --head`, or leave --address out"
    )


def test_this_machine_is_one_node() -> None:
    (node,) = nodes(None)
    assert node.cpus >= 1
    assert node.memory_bytes is not None
    assert node.memory_bytes > 1e8
