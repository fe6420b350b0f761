from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainables.config import EMBEDDED_TASKS
from trainables.task_sources import source_faults


class Hub(http.server.BaseHTTPRequestHandler):
    """Knows one data set."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = "scifact" in self.path.lower()
        body = json.dumps({"id": "mteb/scifact", "sha": "0", "siblings": []} if known else {})
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("POOLSEARCH_TASKS", raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}"
    )
    yield Hub.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_embedded_tasks_need_nobody(hub: list[str]) -> None:
    assert source_faults(EMBEDDED_TASKS) == []
    assert hub == []


def test_the_hub_is_asked_for_what_is_not_here(hub: list[str]) -> None:
    (fault,) = source_faults(["SciFact", "NFCorpus"])
    assert fault.startswith("evaluation.tasks: NFCorpus: the hub has no mteb/nfcorpus for you (")
    assert "$POOLSEARCH_TASKS" in fault
    assert [path.count("/api/datasets/") for path in hub].count(1) == 2


def test_a_mirror_is_enough(
    hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "NFCorpus").mkdir()
    monkeypatch.setenv("POOLSEARCH_TASKS", str(tmp_path))
    assert source_faults(["NFCorpus"]) == []
    assert hub == []


def test_a_snapshot_in_the_cache_is_enough(hub: list[str], tmp_path: Path) -> None:
    import mteb

    data = mteb.get_task("NFCorpus").metadata.dataset
    folder = "datasets--" + data["path"].replace("/", "--")
    (tmp_path / "hub" / folder / "snapshots" / data["revision"]).mkdir(parents=True)
    assert source_faults(["NFCorpus"]) == []
    assert hub == []


def test_a_hub_that_does_not_answer_is_asked_once_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    (fault,) = source_faults(["NFCorpus", "Lee50STS", "SciFact"])
    assert fault.startswith(
        "evaluation.tasks: expected data here or a hub that answers for NFCorpus, SciFact, got "
        "ConnectError: "
    )
    assert fault.endswith("parquet files and a README.md with `configs:`)")
