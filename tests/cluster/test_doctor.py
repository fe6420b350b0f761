from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from cluster import doctor
from cluster.doctor import Finding


def said(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_a_line_has_the_remedy_below_it() -> None:
    assert str(Finding("ok", "memory", "9 GB")) == "ok    memory          9 GB"
    shown = str(Finding("FAULT", "memory", "1 GB", "buy some")).splitlines()
    assert shown == ["FAULT memory          1 GB", f"{'':22}-> buy some"]


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    (absent,) = doctor.packages(lock)
    assert absent.state == "note"
    numpy = importlib.metadata.version("numpy")
    lock.write_text(f"# a comment\nnumpy=={numpy}\n")
    (right,) = doctor.packages(lock)
    assert (right.state, right.found) == ("ok", "1 as locked")
    lock.write_text("numpy==0.1\nno-such-package==1\n")
    missing, other = doctor.packages(lock)
    assert (missing.state, missing.found) == ("FAULT", "missing: no-such-package")
    assert (other.state, other.found) == (
        "note",
        f"others than locked: numpy {numpy} (locked==0.1)",
    )


def test_another_python_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.state for finding in doctor.python()] == ["ok"]
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert said(list(doctor.python())) == (
        f"FAULT Python          3.13.0\n{'':22}-> use Python 3.11"
    )


def test_a_disk_or_memory_that_is_too_small_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {finding.state for finding in doctor.disks(tmp_path)} == {"ok"}
    monkeypatch.setattr(doctor, "OUTPUTS_GB", 1e9)
    monkeypatch.setattr(doctor, "MEMORY_GB", 1e9)
    assert "-> make room" in said(list(doctor.disks(tmp_path)))
    assert next(iter(doctor.memory())).state == "FAULT"


def test_a_folder_that_cannot_be_one_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = next(iter(doctor.disks(tmp_path / "file")))
    assert (found.state, found.name) == ("FAULT", "outputs")


def test_a_server_that_does_not_answer_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (found,) = doctor.mlflow(tmp_path)
    assert found.state == "FAULT"
    assert "expected a server that answers" in found.found
    (cluster,) = doctor.ray("127.0.0.1:9")
    assert (cluster.state, cluster.name) == ("FAULT", "Ray")


def test_missing_assets_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path))
    (found,) = doctor.assets()
    assert found.state == "note"
    assert "(absent)" in found.found


def test_an_offline_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = doctor.hub()
    assert "only cached" in found.found
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(doctor, "HUB", ("127.0.0.1", 9))
    (found,) = doctor.hub()
    assert found.state == "note"


def test_the_exit_code_tells_whether_a_search_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = [doctor.python, lambda: doctor.disks(tmp_path)]
    monkeypatch.setattr(doctor, "checks", lambda *_: quick)
    assert doctor.main([]) == 0
    assert "a search can run here" in capsys.readouterr().out
    quick.append(lambda: iter([Finding("FAULT", "all", "broken", "mend it")]))
    assert doctor.main([]) == 1
    assert "faults: 1; mend them first" in capsys.readouterr().out
