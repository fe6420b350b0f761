"""The confirmation under Ray Train comes to what it comes to under Ray Tune."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.dispatch.train import _Running
from cluster.study.ledger import Ledger
from tests.cluster import formula
from tests.cluster.programs import run
from trainables.ray_train_loop import EVENTS, FAILURE, read

SETTLE_S = 20.0  # for Ray to end what it has put down
OF_THE_CLUSTER = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "_AutoscalingCoordinatorActor")
CONTROL = {"attention.mask": "causal", "pooling.token_scope": "last_token", "pooling.head": "none"}
FINALIST = CONTROL | {"training.learning_rate": 1e38}  # its embeddings are no numbers
SETTINGS = {
    "backbone.num_layers": 3,
    "training.steps": 6,
    "training.report_every": 2,
    "training.batch_size": 4,
    "engine.precision": "fp32",
    "evaluation.max_tokens": 16,
    "evaluation.tasks": ("Lee50STS",),
}
PLAN = [
    {"role": role, "params": params, "seed": 1, "steps": SETTINGS["training.steps"]}
    for role, params in (("control", CONTROL), ("finalist", FINALIST))
]
SEARCHED: dict[str, Any] = {
    "trial": "search-0001",
    "role": "search",
    "split": "choosing",
    "status": "complete",
    **dict.fromkeys(("study", "digest", "design", "label"), "searched"),
    **dict.fromkeys(("seed", "steps", "total_steps", "seconds", "trainable_parameters"), 0),
    "failures": {},
    "versions": {},
    "reason": None,
    "curve": [],
}


def confirm(outputs: Path, model: str, pairs: str, under: str) -> list[dict[str, Any]]:
    """Confirm a study under Tune or Train; return the rows without the times."""
    from cluster.acts.running import Acts
    from cluster.observers.bill import Bill
    from cluster.observers.results import read_rows
    from cluster.observers.tracking import Tracker
    from cluster.preflight.surroundings import Place
    from cluster.run import quiet_libraries
    from cluster.settings import StudyConfig
    from trainables.config import DataConfig, TrialConfig
    from trainables.overlay import overlay

    quiet_libraries()
    folder = outputs / under
    (folder / "confirm").mkdir(parents=True)
    (folder / "confirm" / "plan.json").write_text(json.dumps(PLAN))
    found = {**SEARCHED, "params": {}, "scores": {"t": 1.0}, "categories": {"t": "STS"}}
    (folder / "results").mkdir()
    (folder / "results" / "search-0001.json").write_text(json.dumps(found))
    given = {"backbone.model": model, "training.data": (DataConfig(name=pairs),)}
    config = StudyConfig(name=under, base=overlay(TrialConfig(), SETTINGS | given))
    place = Place(outputs=outputs, confirm_under=under)
    tracker = Tracker(under, outputs, {})
    assert Acts(
        config, folder, tracker, Bill(folder / "costs.jsonl"), place, lambda line: None
    ).confirm()
    assert tracker.close() == 0
    rows = [row for row in read_rows(folder / "results") if row["role"] != "search"]
    for row in rows:
        for timed in (row, *row["curve"]):
            del timed["seconds"]
        for name in ("study", "worker_seconds", "gpu_seconds"):
            del row[name]
    return rows


def kill_a_worker(trial: Path, said: list[Any]) -> None:
    """Kill a worker of a trial that has a checkpoint; note what the trial had said."""
    while not (trial / "checkpoints" / "latest").is_file():
        time.sleep(0.02)
    for member in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(member.cmdline()):
                member.kill()
                break
    else:
        return
    time.sleep(0.5)
    said += read(trial / EVENTS) or []


def left() -> dict[str, list[str]]:
    """Return what the cluster holds once it has settled, but for what is one for all runs."""
    import ray

    (raylet,) = (p for p in psutil.Process().children(recursive=True) if p.name() == "raylet")
    deadline, found = time.monotonic() + SETTLE_S, {"any": [""]}
    while any(found.values()) and time.monotonic() < deadline:
        time.sleep(0.5)
        groups = ray.util.placement_group_table().values()
        actors = [p.name() for p in raylet.children() if p.name().startswith("ray::")]
        found = {
            "placement groups": [g["state"] for g in groups if g["state"] != "REMOVED"],
            "actors": [name for name in actors if not name[5:].startswith(OF_THE_CLUSTER)],
        }
    return found


def main(outputs: Path, model: str, pairs: str) -> None:
    """Confirm under both, with a kill under Train; print what came of it."""
    from cluster.dispatch.tune import ray_cluster

    said: list[Any] = []
    with ray_cluster(None, dashboard=True):
        under_tune = confirm(outputs, model, pairs, "tune")
        trial = outputs / "train" / "confirm" / "0000"
        threading.Thread(target=kill_a_worker, args=(trial, said), daemon=True).start()
        under_train = confirm(outputs, model, pairs, "train")
        print(json.dumps([under_tune, under_train, said, left()]))  # noqa: T201


@pytest.mark.slow
@pytest.mark.embedded
def test_a_confirmation_comes_to_the_same_through_the_death_of_a_worker(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    under_tune, under_train, said, still_there = run(
        "test_train", tmp_path, tiny_model, tiny_pairs, timeout_s=250
    )
    assert [kind for kind, _ in said] in (["Report"], ["Report"] * 2, ["Report"] * 3)
    assert [row["status"] for row in under_tune] == ["complete", "failed"]
    assert under_train == under_tune
    assert still_there == {"placement groups": [], "actors": []}


OUTCOME = {"scores": {"t": 0.5}, "categories": {"t": "STS"}, "failures": {}, "cost": {}}


@pytest.mark.parametrize(
    ("error", "failure", "state"),
    [
        (None, None, "COMPLETE"),
        (None, "TrainingError: loss", "FAIL"),
        ("ActorDiedError: killed too often", None, "FAIL"),
    ],
)
def test_reports_that_are_said_again_count_once_and_only_a_whole_run_has_an_outcome(
    tmp_path: Path, error: str | None, failure: str | None, state: str
) -> None:
    ledger = Ledger(
        formula.open_study(tmp_path),
        formula.propose,
        num_trials=1,
        folder=tmp_path / "search",
        observers=[],
    )
    assignment = ledger.next_trial()
    assert assignment is not None
    for name in (EVENTS, FAILURE):
        (assignment.folder / name).write_text('"of an earlier driver"')
    trial = _Running(ledger, assignment)
    reports = [("Report", {"step": s, "quick_score": s / 8, "loss": 1.0}) for s in (1, 2, 3)]
    for said in (reports[:2], reports[:1], [*reports, ("Outcome", OUTCOME)]):
        (assignment.folder / EVENTS).write_text(json.dumps(said))
        trial.pass_on()
    if failure:
        (assignment.folder / FAILURE).write_text(json.dumps(failure))
    trial.end(error)
    ((_, ended, _, curve, values),) = formula.table(tmp_path)
    assert (ended, curve) == (state, {1: 0.125, 2: 0.25, 3: 0.375})
    assert values == ([0.5] if state == "COMPLETE" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
