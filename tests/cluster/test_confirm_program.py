from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import registration
from cluster.acts.registering import registered
from cluster.confirm import main
from cluster.settings import StudyConfig, write_once


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_once(StudyConfig(name="masks"), tmp_path / "masks")
    (tmp_path / "masks" / "results").mkdir()
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> list[str]:
    assert main([*words, "--outputs", str(outputs)]) == 2
    return capsys.readouterr().err.splitlines()


def test_all_faults_come_together(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["maks", "--seeds", "0", "--finalists", "x", "--smallest-effect", "2", "--sead", "1"]
    lines = said(capsys, outputs, *wrong, "--at-once", "0")
    assert [line.partition(":")[0] for line in lines] == [
        *("--sead", "--at-once", "STUDY", "--finalists", "--seeds", "--smallest-effect"),
    ]
    assert lines[2].endswith("got 'maks'; there are masks")


def test_a_factorial_has_no_confirmation(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_once(StudyConfig(name="grid", mode="factorial"), outputs / "grid")
    assert said(capsys, outputs, "grid") == [
        "STUDY: expected a search, got a factorial, which confirms its cells"
    ]


def test_a_plan_that_was_written_is_kept(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "masks" / "confirm").mkdir()
    (outputs / "masks" / "confirm" / "plan.json").write_text(json.dumps([]))
    assert said(capsys, outputs, "masks", "--seeds", "9") == [
        "--seeds: the plan is written and kept; leave it out"
    ]


def test_no_plan_is_written_after_the_first_results(outputs: Path) -> None:
    (outputs / "masks" / "results" / "confirm-0000.json").write_text("{}")
    said: list[str] = []
    assert registered(StudyConfig(), [], outputs / "masks", said.append) is None
    assert said == ["plan: none was written before the first results, so none is now"]
    assert registration.read(outputs / "masks") is None


def test_without_a_finished_design_there_is_nothing_to_confirm(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["masks", "--outputs", str(outputs), "--dry-run"]) == 0
    assert "nothing to confirm" in capsys.readouterr().out
