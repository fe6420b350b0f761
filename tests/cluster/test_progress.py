from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.observers.event_log import EventLog
from cluster.observers.progress import Console, Progress, kind
from cluster.study.trials import Assignment, Ending
from trainables.config import TrialConfig
from trainables.overlay import overlay

SCREEN = (24, 100)  # lines, columns
LONG = {
    "attention.mask": "last_k_bidirectional",
    "pooling.token_scope": "weighted_mean",
    "pooling.head": "cross_attention",
    "pooling.layers": "middle_third",
    "pooling.include_instruction": False,
}


class Terminal(io.StringIO):
    """A terminal that knows what the console uses: up so many lines, and clear what follows."""

    def isatty(self) -> bool:
        return True

    @property
    def tallest(self) -> int:
        return max(len(screen) for screen in self._screens())

    @property
    def screen(self) -> list[str]:
        return self._screens()[-1]

    def _screens(self) -> list[list[str]]:
        lines: list[str] = []
        found = []
        for part in re.split(r"(\x1b\[\d*[FJ])", self.getvalue()):
            up = re.fullmatch(r"\x1b\[(\d+)F", part)
            if up:
                at = len(lines) - int(up[1])
                assert at >= 0
            elif part == "\x1b[J":
                lines = lines[:at] if lines else []
            elif part:
                lines += part.splitlines()
                at = len(lines)
                found.append(list(lines))
        return found


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: time[0])
    return time


def trial(number: int, **changes: Any) -> Assignment:
    return Assignment(
        config=overlay(TrialConfig(), {"training.steps": 10} | changes),
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


def endings(count: int) -> list[Ending]:
    """Return endings of a hard search: always better, and failures of ever new kinds."""
    found = []
    for number in range(count):
        if number % 3 == 1:
            words = f"of kind {chr(97 + number % 26) * 3}" if number % 2 else "at step"
            reason = f"TrainingError: loss: expected a finite number {words} {number}, " + "x" * 99
            found.append(Ending(status="failed", reason=reason + "\nand a second line"))
        elif number % 5 == 0:
            found.append(Ending(status="pruned", reason=f"stopped early at step {number}"))
        else:
            found.append(outcome(number / 100))
    return found


def simulate(
    out: io.StringIO, now: list[float], *, count: int = 50, at_once: int = 8, act: str = "search"
) -> Console:
    """Run so many trials, some at once, through a console."""
    console = Console(act, Progress(count, 0), Path("/data/outputs/study/search.log"), out)
    order = random.Random(0)
    live: list[int] = []
    coming, told = iter(range(count)), endings(count)
    for _ in range(count):
        while len(live) < at_once and (number := next(coming, None)) is not None:
            live.append(number)
            console.started(trial(number, **LONG))
        for number in live:
            now[0] += 1
            console.reported(trial(number, **LONG), {"step": 5, "quick_score": 0.1, "loss": 1.0})
        number = live.pop(order.randrange(len(live)))
        now[0] += 60
        console.ended(trial(number, **LONG), told[number])
    console.finish()
    return console


def test_fifty_trials_fit_a_screen_in_a_log_file(now: list[float]) -> None:
    out = io.StringIO()
    simulate(out, now)
    lines = out.getvalue().splitlines()
    assert len(lines) <= SCREEN[0]
    assert max(map(len, lines)) <= SCREEN[1]
    text = out.getvalue()
    for tenth in range(1, 11):
        assert f"  {5 * tenth}/50" in text
    assert "FAILED (TrainingError: loss: expected a finite number" in text
    assert "best 0.4" in lines[-1]


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_fifty_trials_fit_a_terminal_all_the_time(
    now: list[float], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    console = simulate(out, now)
    assert out.tallest <= SCREEN[0] - 8  # the plan before it and the verdict after it
    assert max(map(len, out.getvalue().splitlines())) <= min(columns, SCREEN[1])
    assert out.screen == console.block(running=False)


def test_a_block_has_progress_time_left_the_best_what_runs_and_what_failed(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    console = Console("search", Progress(6, 0), Path("out/s/search.log"), out)
    for number in range(4):
        console.started(trial(number))
    now[0] += 60
    nan = "TrainingError: got nan at step"
    told = {0: outcome(0.5), 1: Ending(status="failed", reason=f"{nan} 3")}
    told[2] = Ending(status="failed", reason=f"{nan} 12")
    for number, ending in told.items():
        console.ended(trial(number), ending)
    console.reported(trial(3), {"step": 5, "quick_score": 0.1, "loss": 1.0})
    assert out.screen == [
        "search   [############............] 3/6 in 1:00, about 0:45 left",  # 60 / 3.4 * 2.6
        "best     0.500 search-0000 causal, last_token, none",
        "running  search-0003 5/10 causal, last_token, none",
        "ended    2 failed",
        "failed   2x TrainingError: got nan at step 12",
        "details  out/s/search.log",
    ]


def test_a_paused_trial_does_not_run(now: list[float], tmp_path: Path) -> None:
    progress = Progress(2, 0)
    console = Console("search", progress, out=Terminal())
    console.started(trial(0))
    console.paused(trial(0))
    assert progress.live == {}
    console.started(trial(0))
    console.ended(trial(0), outcome(0.5))
    log = EventLog(tmp_path / "search.log")
    log.paused(trial(0))
    assert (tmp_path / "search.log").read_text().endswith(" search-0000 paused\n")


def test_other_acts_have_no_best_since_seeds_are_no_designs(now: list[float]) -> None:
    out = io.StringIO()
    simulate(out, now, act="confirm", count=12)
    assert "best" not in out.getvalue()
    assert len([line for line in out.getvalue().splitlines() if "/12" in line]) == 5


def test_running_trials_count_for_the_time_left(now: list[float]) -> None:
    progress = Progress(2, 0)
    console = Console("search", progress, out=io.StringIO())
    assert progress.time_left() is None
    console.started(trial(0))
    now[0] = 40.0
    console.reported(trial(0), {"step": 5, "quick_score": 0.1})
    assert progress.time_left() == pytest.approx(160.0)


def test_a_resumed_search_knows_the_old_trials_but_has_no_pace_yet() -> None:
    rows: list[dict[str, Any]] = [
        {"trial": "search-0000", "label": "causal", "status": "complete", "reason": None}
        | {"scores": {"a": 0.4}, "categories": {"a": "STS"}, "failures": {}},
        {"trial": "search-0001", "label": "mean", "status": "failed", "reason": "it broke"}
        | {"scores": {}, "categories": {}, "failures": {}},
    ]
    progress = Progress(12, 2, rows)
    assert progress.time_left() is None
    assert progress.best == (0.4, "search-0000", "causal")
    assert progress.failures == {"it broke": 1}
    out = io.StringIO()
    console = Console("search", progress, out=out)
    console.started(trial(2))
    console.ended(trial(2), Ending(status="failed", reason="it broke"))
    assert "FAILED" not in out.getvalue()  # the kind is known


def test_reasons_that_differ_in_numbers_are_one_kind() -> None:
    assert kind("got nan at step 3, 1.5e-3") == kind("got nan at step 12, 2e4")
    assert kind("got nan") != kind("got inf")


def test_every_event_is_a_line_of_the_log_with_the_whole_reason(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "search.log")
    log.started(trial(0))
    log.reported(trial(0), {"step": 5, "quick_score": 0.125, "loss": 1.0})
    log.ended(trial(0), Ending(status="failed", reason="a\nb " + "x" * 500))
    EventLog(tmp_path / "search.log").ended(trial(1), outcome(0.25))
    lines = (tmp_path / "search.log").read_text().splitlines()
    stamps, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", s) for s in stamps)
    assert texts == (
        "search-0000 started: causal, last_token, none, seed 0, search",
        "search-0000 step 5: loss 1.0000, quick score 0.1250",
        "search-0000 failed: a b " + "x" * 500,
        "search-0001 complete 0.2500",
    )
