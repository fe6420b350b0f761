"""Run a finished study's trials again the plain way, and compare the makespans.

The trials are those of the study's results: the same designs as far as sentence-transformers has
them, the same steps (a trial that was stopped early ends there), the same tasks, as many at once,
on this machine. Each runs in a process of its own, as Ray Tune does by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.benchmarks.plain_way.trial import run as plain_trial

GOAL = 4.0  # times as long as ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plain_way")
    parser.description = __doc__
    parser.add_argument("study", type=Path, help="a finished study's folder, as outputs/embedded")
    parser.add_argument("--at-once", type=int, default=1, help="trials at once (default: 1)")
    parser.add_argument("--trials", type=int, help="run only the first of them, and scale up")
    given = parser.parse_args(argv)
    rows = sorted(map(_read, (given.study / "results").glob("*.json")), key=_order)
    ours = _makespan(given.study / "search.log")
    some = rows[: given.trials]
    begun = time.perf_counter()
    parts = _run(some, given.at_once)
    seconds = time.perf_counter() - begun
    theirs = seconds * _steps(rows) / _steps(some)
    for line in _report(len(some), len(rows), ours, theirs, parts):
        sys.stdout.write(f"{line}\n")
    return 0


def _read(file: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(file.read_text())
    return row


def _order(row: dict[str, Any]) -> tuple[bool, str]:
    return row["split"] == "confirming", row["trial"]


def _steps(rows: Sequence[dict[str, Any]]) -> int:
    """What trials cost, roughly: their steps, and as much again as 16 for each that is scored."""
    return sum(row["steps"] + 16 * (row["status"] == "complete") for row in rows)


def _makespan(log: Path) -> float:
    """Return the seconds from the first line of a study's log to the last."""
    times = [datetime.fromisoformat(line.split(" ")[0]) for line in log.read_text().splitlines()]
    return (max(times) - min(times)).total_seconds()


def _run(rows: Sequence[dict[str, Any]], at_once: int) -> list[dict[str, float]]:
    from ray import tune

    from trainables.config import TrialConfig
    from trainables.overlay import as_dict

    training = as_dict(TrialConfig())["training"]
    with tempfile.TemporaryDirectory() as folder:
        trials = [
            {
                "params": row["params"],
                "steps": row["steps"],
                "seed": row["seed"],
                "split": row["split"],
                "tasks": sorted(row["scores"]),
                "scored": row["status"] == "complete",
                "training": training,
                "folder": f"{folder}/{row['trial']}",
            }
            for row in rows
        ]
        results = tune.Tuner(
            tune.with_resources(_in_trial, {"CPU": 1}),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(storage_path=f"{folder}/ray", verbose=0),
        ).fit()
    if results.errors:
        reason = results.errors[0]
        raise RuntimeError(f"{results.num_errors} of {len(rows)} trials failed") from reason
    return [dict(results[place].metrics or {}) for place in range(len(results))]


def _in_trial(config: dict[str, Any]) -> None:
    plain_trial(config["trial"])


def _report(
    num_run: int, num_all: int, ours: float, theirs: float, parts: Sequence[dict[str, float]]
) -> Iterator[str]:
    scaled = f", scaled up from {num_run}" if num_run < num_all else ""
    yield f"makespan of {num_all} trials: ours {ours:.0f} s, the plain way {theirs:.0f} s{scaled}"
    yield f"ratio {theirs / ours:.2f}x (goal {GOAL:.0f}x)"
    for name in ("load", "train", "score"):
        yield f"  {name:6} {fmean(part[name] for part in parts):6.1f} s a trial"
    total = fmean(part["time_total_s"] for part in parts)
    inside = fmean(sum(part[name] for name in ("load", "train", "score")) for part in parts)
    yield f"  of {total:.1f} s of the function ({total - inside:.1f} s are imports)"


if __name__ == "__main__":
    sys.exit(main())
