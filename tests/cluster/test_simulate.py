from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import StudyConfig, write_once
from cluster.simulate import main
from cluster.simulation.intervals import spread
from cluster.simulation.searches import quiet, simulate
from cluster.simulation.virtual import Event
from cluster.simulation.workloads import BEST, WORST, Formula, Recorded
from search_spaces.drawing import CONTROL
from search_spaces.factorial import cells
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.overlay import as_dict, flatten, overlay
from trainables.shape import EMBEDDED

BASE = overlay(TrialConfig(), {"training.steps": 16, "training.report_every": 4})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


@pytest.fixture(scope="module")
def formula() -> Formula:
    return Formula(SPACES["attention"], BASE, EMBEDDED)


def config(**changes: Any) -> StudyConfig:
    return StudyConfig(space="attention", base=BASE, **changes)


def test_every_design_of_a_space_is_found_once() -> None:
    designs = [cell.params for cell in cells(SPACES["literature"], BASE, EMBEDDED)]
    assert len(designs) == 9
    drawn = [cell.params for cell in cells(SPACES["attention"], BASE, EMBEDDED)]
    assert len(drawn) == len({json.dumps(each) for each in drawn}) > 1000
    assert {name: CONTROL[name] for name in drawn[0]} in drawn


def test_the_formula_knows_its_best_and_its_worst(formula: Formula) -> None:
    usual = flatten(as_dict(BASE))
    designs = [cell.params for cell in cells(SPACES["attention"], BASE, EMBEDDED)]
    scores = [formula.score(usual | design) for design in designs]
    assert [max(scores), min(scores)] == pytest.approx([BEST, WORST])
    assert formula.best == BEST
    other = Formula(SPACES["attention"], BASE, EMBEDDED, seed=1)
    assert other.score(usual) != formula.score(usual)


def test_a_curve_rises_to_its_score(formula: Formula) -> None:
    *reports, outcome = formula.events(as_dict(BASE))
    assert [event.value["step"] for event in reports] == [4, 8, 12, 16]
    quick = [event.value["quick_score"] for event in reports]
    assert quick == sorted(quick)
    assert outcome.value["scores"] == {"score": formula.score(flatten(as_dict(BASE)))}
    assert formula.events(as_dict(BASE)) == [*reports, outcome]


class Alike:
    """Trials of 16 steps of a second each, and no evaluation."""

    best, num_designs = 0.5, 1

    def events(self, config: dict[str, Any]) -> list[Event]:
        fields = {"loss": 1.0, "quick_score": 0.5, "temperature": 0.05}
        reports = [
            Event(4.0, "Report", {"step": step, "seconds": float(step), **fields})
            for step in (4, 8, 12, 16)
        ]
        outcome = {"scores": {"t": 0.5}, "categories": {"t": "t"}, "failures": {}, "cost": {}}
        return [*reports, Event(0.0, "Outcome", outcome)]


@pytest.mark.parametrize(("num_workers", "rounds"), [(1, 10), (4, 3), (10, 1), (99, 1)])
def test_the_makespan_is_that_of_full_workers(num_workers: int, rounds: int) -> None:
    settings = config(num_trials=10, sampler="random", pruner="none")
    found = simulate(settings, Alike(), num_workers)  # type: ignore[arg-type]
    assert (found.seconds, found.steps) == (16.0 * rounds, 160)
    assert found.steps_to_best <= 16 * num_workers


def test_losses_cost_time_and_no_steps() -> None:
    settings = config(num_trials=10, sampler="random", pruner="none")
    calm, rough = (
        simulate(settings, Alike(), 1, losses_per_hour=rate)  # type: ignore[arg-type]
        for rate in (0.0, 60.0)
    )
    assert rough.steps == calm.steps
    assert rough.seconds > calm.seconds + 25


def test_a_known_design_comes_after_the_control(formula: Formula) -> None:
    usual = flatten(as_dict(BASE))
    designs = [cell.params for cell in cells(SPACES["attention"], BASE, EMBEDDED)]
    best = max(designs, key=lambda design: formula.score(usual | design))
    settings = config(num_trials=4, sampler="random", pruner="none", first=(best,))
    assert simulate(settings, formula, 1).steps_to_best == 2 * 16


def test_halving_trains_a_fraction(formula: Formula) -> None:
    usual = config(num_trials=30, sampler="random", pruner="none")
    whole = simulate(usual, formula, 3)
    halved = simulate(dataclasses.replace(usual, pruner="halving", factor=4), formula, 3)
    assert whole.steps == 30 * 16
    assert 30 * 4 < halved.steps < 0.6 * whole.steps
    assert halved.seconds < 0.6 * whole.seconds


def recorded(folder: Path) -> Path:
    """A finished search of two masks."""
    rows = [("search-0000", "causal", 0.5), ("search-0001", "bidirectional", 0.6)]
    (folder / "results").mkdir(parents=True)
    for name, mask, score in rows:
        row = {
            "trial": name,
            "status": "complete",
            "split": "choosing",
            "role": "search",
            "params": {**CONTROL, "attention.mask": mask},
            "scores": {"a": score},
            "categories": {"a": "STS"},
            "failures": {},
            "seconds": 10.0,
            "curve": [
                {"step": s, "loss": 1.0, "quick_score": s * score / 16, "seconds": s / 2}
                for s in (8, 16)
            ],
            **dict.fromkeys(("trainable_parameters", "head_parameters", "embedding_size"), 1),
            "flops_per_token": 2.0,
        }
        (folder / "results" / f"{name}.json").write_text(json.dumps(row))
    write_once(StudyConfig(name="r", space="attention", base=BASE), folder)
    return folder


def test_recorded_curves_are_played_and_the_nearest_stands_in(tmp_path: Path) -> None:
    workload = Recorded(recorded(tmp_path / "r"))
    assert (workload.best, workload.num_designs) == (0.6, 2)
    near = overlay(BASE, {"attention.mask": "bidirectional", "pooling.token_scope": "mean"})
    events = workload.events(as_dict(near))
    assert [event.seconds for event in events] == [4.0, 4.0, 2.0]
    assert events[-1].value["scores"] == {"score": 0.6}


def test_the_program_prints_a_row_for_each_pair(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("--space", "literature", "--trials", "5", "--workers", "2", "--seeds", "2"),
        *("--steps", "8", "--report-every", "2", "--samplers", "tpe", "random"),
        *("--pruners", "halving", "none"),
    ]
    assert main(arguments) == 0
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title == (
        "space literature, 9 designs, the best 0.800; 5 trials of 8 steps on 2 workers, 2 seeds"
    )
    assert head.split()[:3] == ["sampler", "pruner", "best"]
    pairs = [row.split()[:2] for row in rows]
    assert pairs == [[s, p] for s in ("tpe", "random") for p in ("halving", "none")]
    assert "40 [40, 40]" in rows[1]  # all steps of five trials


def test_all_faults_of_the_command_come_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = [
        *("--space", "atention", "--workers", "0", "--seeds", "x", "--samplers", "tpee", "random"),
        *("--losses", "-1"),
        *("--pruners", "halvng", "--steps", "-1", "--eta", "1", "--startup", "q", "--trails", "5"),
    ]
    assert main(wrong) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "--trails",
        "--workers",
        "--seeds",
        "--losses",
        "--steps (training.steps)",
        "--space",
        "--samplers",
        "--startup",
        "--pruners",
        "--eta",
    ]
    assert lines[0] == "--trails: no such option; did you mean --trials?"
    unread = ["--samplers", "random", "--pruners", "none", "--startup", "3", "--first-rung", "2"]
    assert main(unread) == 2
    assert capsys.readouterr().err.splitlines() == [
        "--first-rung: expected with pruner halving or hyperband only, got none; leave it out",
        "--startup: expected with sampler tpe, gp, cma_es or pruner percentile, median only, got "
        "random and none; leave it out",
    ]
    assert main(["--recorded", str(tmp_path), "--steps", "8"]) == 2
    both = capsys.readouterr().err.splitlines()
    assert both[0] == "--steps: the recorded study has its own; leave it out"
    assert both[1].startswith("--recorded: expected a finished search's folder")
    assert main(["--recorded", str(tmp_path)]) == 2
    assert "--recorded: expected a finished search's folder" in capsys.readouterr().err
    assert main(["--first", "unknown"]) == 2
    assert "--first" in capsys.readouterr().err
    assert main(["--samplers", "tpee"]) == 2
    assert "--samplers: expected one of" in capsys.readouterr().err


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for count in (6, 9, 25, 50):
        draws = [spread(list(rng.exponential(size=count))) for _ in range(2000)]
        covered = np.mean([each.low <= np.log(2) <= each.high for each in draws])
        assert 0.945 < covered < 0.995
    assert (spread([3.0, 1.0]).low, spread([3.0, 1.0]).high) == (1.0, 3.0)
