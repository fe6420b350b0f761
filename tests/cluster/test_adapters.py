"""The adapters under real Ray Tune, with trials that only write their steps into their folders."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.dispatch.tune import ray_cluster
from tests.cluster.test_halving import open_halving
from tests.cluster.test_ledger import open_ledger, outcome


@pytest.fixture
def ray() -> Iterator[Any]:
    with warnings.catch_warnings(), ray_cluster(None):
        yield
    logging.getLogger("ray").setLevel(logging.INFO)


def run_steps(config: dict[str, Any]) -> None:
    """Report eight steps, of which those that were taken before are only told again."""
    from ray import tune

    log = Path(config["folder"]) / "log"
    taken = [int(line) for line in log.read_text().splitlines()] if log.exists() else []
    score = 0.9 - 0.1 * config["number"]
    for step in range(2, 9, 2):
        if step not in taken:
            with log.open("a") as file:
                file.write(f"{step}\n")
        event = {"step": step, "loss": 1.0, "quick_score": score, "seconds": 1.0}
        tune.report({"kind": "Report", "event": json.dumps(event)})
    tune.report({"kind": "Outcome", "event": json.dumps(outcome(a=score)), "done": True})


@pytest.mark.slow
def test_tune_pauses_promotes_and_ends_what_the_ledger_says(ray: Any, tmp_path: Path) -> None:
    """One worker: a design that is paused at first leads again when two weak ones have come."""
    from ray import tune

    from cluster.dispatch.adapters import LostTrials, StudyScheduler, StudySearcher
    from cluster.dispatch.losses import Losses

    ledger, study, witness = open_halving(tmp_path)
    tune.Tuner(
        tune.with_resources(run_steps, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger, threads=1),
            scheduler=StudyScheduler(ledger, Losses(limit=3)),
            num_samples=-1,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(tmp_path / "ray"),
            verbose=0,
            callbacks=[LostTrials(ledger)],
        ),
    ).fit()
    assert ledger.is_done
    states = {trial.number: trial.state.name for trial in study.trials}
    told = [(kind, number) for kind, number, _ in witness.events if kind != "reported"]
    paused = [number for kind, number in told if kind == "paused"]
    promoted = [n for n in paused if told.count(("started", n)) > 1 and states[n] == "COMPLETE"]
    assert paused
    assert promoted
    for number in promoted:  # no step was taken twice
        log = tmp_path / "search" / f"{number:04d}" / "log"
        assert log.read_text().split() == ["2", "4", "6", "8"]
    waiting = [number for number in paused if number not in promoted]
    assert all(states[number] == "PRUNED" for number in waiting)
    assert set(states.values()) <= {"COMPLETE", "PRUNED"}


def die_at_steps(config: dict[str, Any]) -> None:
    """Train as `run_steps` does; design 1 dies before its first step, design 2 after each new one.

    In this order, as the first loss of a design excuses those of another that come soon after it.
    """
    import os

    from ray import tune

    log = Path(config["folder"]) / "log"
    taken = len(log.read_text().split()) if log.exists() else 0
    if config["number"] == 1:
        os._exit(1)
    for step in range(1, 5):
        if config["number"] == 2 and step > taken + 1:
            os._exit(1)
        if step > taken:
            with log.open("a") as file:
                file.write(f"{step}\n")
        event = {"step": step, "loss": 1.0, "quick_score": 0.5, "seconds": 1.0}
        tune.report({"kind": "Report", "event": json.dumps(event)})
    tune.report({"kind": "Outcome", "event": json.dumps(outcome(a=0.5)), "done": True})


@pytest.mark.slow
def test_a_trial_that_gets_on_may_be_lost_often_and_one_that_does_not_may_not(
    ray: Any, tmp_path: Path
) -> None:
    from ray import tune

    from cluster.dispatch.adapters import LostTrials, StudyScheduler, StudySearcher
    from cluster.dispatch.losses import Losses

    ledger, study, _ = open_ledger(tmp_path, num_trials=3)
    tune.Tuner(
        tune.with_resources(die_at_steps, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger, threads=1),
            scheduler=StudyScheduler(ledger, Losses(limit=2)),
            num_samples=-1,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(tmp_path / "ray"),
            verbose=0,
            callbacks=[LostTrials(ledger)],
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    ).fit()
    assert ledger.is_done
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    reason = study.trials[1].user_attrs["reason"]
    assert reason.startswith("lost 2 times without a new report: ")
