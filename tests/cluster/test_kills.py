"""Whatever is killed, a search ends with the trials that it would have had."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import formula

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 180.0
TRIALS = 6


class Search:
    """A search in a process of its own, one trial at a time; nothing of it outlives the block."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.cluster.formula", str(folder), *arguments]
        self.process = subprocess.Popen(
            [*command, "--limit", "1", "--trials", str(TRIALS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.own = psutil.Process(self.process.pid)
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *error: object) -> None:
        self.family()
        for each in [self.own, *self._seen]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(self._seen, timeout=20)
        self.process.communicate()

    def family(self) -> list[psutil.Process]:
        """Return the processes that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = self.own.children(recursive=True)
            self._seen |= set(found)
            return found
        return []

    def member(self, word: str) -> psutil.Process:
        """Return the first of them whose command has one of the words, once there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            for each in self.family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if re.search(word, " ".join(each.cmdline())):
                        found.append(each)
            return bool(found)

        self.until(look)
        return found[0]

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def finish(self) -> None:
        output, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, output


def in_the_middle(folder: Path, number: int) -> Callable[[], bool]:
    """Return whether a trial has a checkpoint, and steps left to take."""
    file = folder / f"search/{number:04d}/checkpoints/0.json"
    return lambda: file.is_file() and len(json.loads(file.read_text())) in (2, 3)


def starts(folder: Path, number: int) -> list[int]:
    """Return from which steps a trial was started."""
    file = folder / f"search/{number:04d}" / formula.STARTS
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Search(folder) as search:
        search.finish()
    found = formula.table(folder)
    states = [state for _, state, *_ in found]
    assert states.count("COMPLETE") + states.count("PRUNED") == TRIALS
    assert states.count("PRUNED") > 0
    return found


@pytest.mark.parametrize("word", ["FormulaWorker", "ResourceTrainable|FormulaGroup"])
def test_a_worker_and_the_process_of_a_trial(
    undisturbed: list[tuple[Any, ...]], tmp_path: Path, word: str
) -> None:
    with Search(tmp_path) as search:
        for number in (0, 2):
            search.until(in_the_middle(tmp_path, number))
            search.member(word).kill()
        search.finish()
    assert formula.table(tmp_path) == undisturbed
    for number in (0, 2):
        first, again = starts(tmp_path, number)
        assert first == 0 < again


def test_a_worker_of_several(tmp_path: Path) -> None:
    with Search(tmp_path, "--workers", "2") as search:
        search.until(in_the_middle(tmp_path, 1))
        search.member("FormulaWorker").kill()
        search.finish()
    assert [state for _, state, *_ in formula.table(tmp_path)].count("FAIL") == 0
    assert len(starts(tmp_path, 1)) == 2


def test_a_hung_worker(undisturbed: list[tuple[Any, ...]], tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / formula.HANG).touch()
    with Search(tmp_path, "--hang-timeout", "10") as search:
        search.finish()
    assert formula.table(tmp_path) == undisturbed
    assert starts(tmp_path, 0) == [0, 2]


@pytest.mark.parametrize(
    "word", ["", "raylet/raylet", "gcs_server"], ids=["driver", "raylet", "head"]
)
def test_what_the_driver_goes_down_with(
    undisturbed: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """The same command resumes."""
    with monkeypatch.context() as slow:
        slow.setenv(formula.STEP_S, "2")  # a raylet's workers live on for a moment
        begun = Search(tmp_path)
    with begun as search:
        search.until(in_the_middle(tmp_path, 0))
        (search.member(word) if word else search.own).kill()
        output, _ = search.process.communicate(timeout=TIMEOUT_S)
        assert search.process.returncode != 0
        assert ("the same command continues" in output) == (word == "raylet/raylet")
    with Search(tmp_path) as search:
        search.finish()
    assert formula.table(tmp_path) == undisturbed
    if word != "raylet/raylet":  # its workers may have finished the trial without it
        first, again = starts(tmp_path, 0)
        assert first == 0 < again
