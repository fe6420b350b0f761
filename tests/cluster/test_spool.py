"""A queue on disk in front of a server that goes away and comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.observers import spool
from cluster.observers.spool import RefusedError, Spool


class Server:
    """What stands behind the queue: it has what it was sent, unless it is away."""

    def __init__(self) -> None:
        self.has: list[int] = []
        self.answers = threading.Event()
        self.answers.set()
        self.refused: set[int] = set()

    def __call__(self, record: dict[str, Any]) -> None:
        if not self.answers.is_set():
            raise ConnectionError("connection refused\nby nobody")
        if record["n"] in self.refused:
            raise RefusedError("never")
        self.has.append(record["n"])


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def queue(tmp_path: Path, server: Server, said: list[str]) -> Iterator[Spool]:
    made = Spool(tmp_path / "s" / "queue", server, said.append)
    yield made
    made.close()


def add(queue: Spool, *numbers: int) -> None:
    for number in numbers:
        queue.add({"n": number, "run": f"trial {number}"})


def test_all_is_sent_in_order_and_nothing_stays(queue: Spool, server: Server) -> None:
    add(queue, *range(100))
    assert queue.settle() == 0
    assert server.has == list(range(100))
    assert (queue._file).read_text() == ""
    add(queue, 100)
    assert queue.settle() == 0
    assert server.has[-1] == 100


def test_what_happens_meanwhile_waits_on_disk_and_is_told_later(
    queue: Spool, server: Server, said: list[str]
) -> None:
    add(queue, 0)
    assert queue.settle() == 0
    server.answers.clear()
    add(queue, 1, 2)
    assert queue.settle() == 2
    assert queue.is_away
    assert [json.loads(line)["n"] for line in queue._file.read_text().splitlines()] == [1, 2]
    assert said == [f"MLflow does not answer; records wait in {queue._file} (connection refused)"]
    server.answers.set()
    add(queue, 3)
    assert queue.settle() == 0
    assert server.has == [0, 1, 2, 3]
    assert not queue.is_away
    assert said[1:] == ["MLflow answers again; 2 records are under way"]


def test_it_tries_again_by_itself(
    queue: Spool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "RETRY_S", 0.02)
    server.answers.clear()
    add(queue, 1)
    assert queue.settle() == 1
    server.answers.set()
    with queue._changed:
        assert queue._changed.wait_for(lambda: server.has == [1], timeout=10)


def test_a_record_is_kept_although_the_server_hangs(tmp_path: Path) -> None:
    gate = threading.Event()

    def hang(_: dict[str, Any]) -> None:
        gate.wait(30)

    queue = Spool(tmp_path / "queue", hang, lambda _: None)
    add(queue, 1, 2)  # does not wait
    assert queue.settle(timeout_s=0.05) == 2
    assert len((tmp_path / "queue").read_text().splitlines()) == 2
    gate.set()
    assert queue.settle() == 0
    queue.close()
    assert not (tmp_path / "queue").exists()


def test_another_process_tells_what_the_last_one_could_not(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    file = tmp_path / "queue"
    file.write_text('{"n": 1}\n{"n": 2}\n{"n": 3')  # killed while it wrote
    queue = Spool(file, server, said.append)
    add(queue, 4)
    assert queue.settle() == 0
    queue.close()
    assert server.has == [1, 2, 4]
    assert not file.exists()


def test_a_refused_record_is_left_out_with_its_reason(
    queue: Spool, server: Server, said: list[str]
) -> None:
    server.refused.add(1)
    add(queue, 0, 1, 2)
    assert queue.settle() == 0
    assert server.has == [0, 2]
    assert said == ["MLflow refuses a record of 'trial 1': never"]
