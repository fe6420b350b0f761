from __future__ import annotations

import io
from pathlib import Path

import pytest

from cluster import progress
from cluster.ledger import Assignment, Ending
from trainables.config import TrialConfig
from trainables.overlay import overlay


def trial(number: int) -> Assignment:
    return Assignment(
        config=overlay(TrialConfig(), {"training.steps": 10}),
        params={},
        role="search",
        number=number,
        name=f"search-{number:04d}",
        folder=Path(),
    )


def outcome(score: float) -> Ending:
    return Ending(
        status="complete",
        outcome={"scores": {"a": score}, "categories": {"a": "STS"}, "failures": {}},
    )


def test_one_line_for_each_ended_trial_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = io.StringIO()
    console = progress.Console(4, 0, out)
    for number, ending in enumerate(
        (
            outcome(0.5),
            Ending(status="pruned", reason="stopped early at step 6"),
            Ending(status="failed", reason="TrainingError: loss"),
        )
    ):
        console.started(trial(number))
        now[0] += 60
        console.ended(trial(number), ending)
    assert out.getvalue().splitlines() == [
        "  1:00    1/4  causal, last_token, none: 0.500  (3:00 left)",
        "  2:00    2/4  causal, last_token, none: stopped early at step 6  (2:00 left)",
        "  3:00    3/4  causal, last_token, none: FAILED (TrainingError: loss)  (1:00 left)",
    ]


def test_running_trials_count_for_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    console = progress.Console(2, 0, io.StringIO())
    assert console.time_left() is None
    console.started(trial(0))
    now[0] = 40.0
    console.reported(trial(0), {"step": 5, "quick_score": 0.1})
    assert console.time_left() == pytest.approx(160.0)


def test_a_resumed_search_does_not_count_the_old_trials_as_pace() -> None:
    console = progress.Console(12, 7, io.StringIO())
    assert console.time_left() is None
