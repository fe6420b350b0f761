"""MLflow, the window for people: a parent run for the study, a child run for each trial.

Only the driver writes. What happens to a trial becomes a record of plain values here, waits in a
`Spool` and is sent by `mlflow_writer`, so the study never waits for MLflow.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.observers.mlflow_writer import MlflowWriter
from cluster.observers.spool import Record, Spool
from cluster.study.trials import Assignment, Ending
from trainables.identity import design_digest, digest, used
from trainables.overlay import as_dict, flatten

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LINK_S = 1.0  # that a trial's start waits for its run, while MLflow answers
SPOOL = "mlflow.spool"

Settings = Mapping[str, Any]


def tracking_uri(outputs: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or a SQLite file in the outputs folder."""
    default = f"sqlite:///{(outputs / 'mlflow.db').resolve()}"
    return os.environ.get("MLFLOW_TRACKING_URI", default)


class Tracker:
    """An observer that keeps MLflow up to date."""

    def __init__(
        self,
        study: str,
        outputs: Path,
        settings: Settings,
        identity: str = "only",
        *,
        datasets: Sequence[Mapping[str, str]] = (),
        log: Callable[[str], None] = lambda _: None,
        usage: Callable[[str], Mapping[str, float]] = lambda _: {},
    ) -> None:
        """Track `study`, whose folder is in `outputs`.

        Another study of that name, in another folder or in one that was removed, has another
        `identity`. `datasets` are fields of `mlflow.entities.Dataset`: what is trained on. `log`
        hears of outages, `usage` says what a trial has taken.
        """
        self.uri = tracking_uri(outputs)
        self._study, self._datasets, self._usage = study, list(datasets), usage
        self._writer = MlflowWriter(self.uri, outputs, study=study, identity=identity)
        self.spool_file = outputs / study / SPOOL
        self._spool = Spool(self.spool_file, self._writer.send, log)
        self._add("", params=flatten(settings), status="RUNNING")

    def started(self, trial: Assignment) -> None:
        """Open the trial's run, or take up the one that was left."""
        self._add_of(trial, params=used(trial.config), datasets=self._datasets, status="RUNNING")

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Log the step's metrics."""
        self._add_of(trial, curve=[report])

    def paused(self, trial: Assignment) -> None:
        """Say that the trial waits."""
        self._add_of(trial, status="SCHEDULED")

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Log scores, the row of values behind them and the reason, and close the run."""
        outcome = ending.outcome or {}
        values = {
            f"{outcome['categories'][task]}.{task}": score
            for task, score in outcome.get("scores", {}).items()
        }
        if ending.score is not None:
            values["mean_score"] = ending.score
        values |= outcome.get("cost", {}) | self._usage(trial.name)
        warmup = outcome.get("adaptation", {})
        values |= {f"adaptation.{name}": value for name, value in warmup.items()}
        files = [outcome["items"], str(trial.folder / "weights.safetensors")] if outcome else []
        self._add_of(
            trial,
            curve=list(ending.curve),  # again: a kill may have come before a report was kept
            metrics=values,
            step=int(ending.curve[-1]["step"]) if ending.curve else 0,
            outcome={"status": ending.status, "reason": ending.reason or ""},
            files=[file for file in files if Path(file).is_file()],
            texts={"config.json": json.dumps(as_dict(trial.config), indent=2)},
            params=used(trial.config),
            status=STATUS[ending.status],
        )

    def planned(self, sha256: str) -> None:
        """Keep the hash of the confirmation's plan, before any of its runs begins."""
        self._add("", tags={"plan_sha256": sha256})

    def link(self, name: str) -> dict[str, str]:
        """Return where a trial that was started is shown: its run, and a page if there is one."""
        until = time.monotonic() + LINK_S
        while not self._spool.is_away and time.monotonic() < until:
            if found := self._writer.link(name):
                return found
            time.sleep(0.005)
        return self._writer.link(name)

    def finish(self, report: Path, sentences: Sequence[str], winner: str | None = None) -> int:
        """Close the study's run with the verdict as its description and the report beside it.

        The trial named `winner` becomes a version of the registered model with the study's name.
        Returns how many records MLflow could not be told yet.
        """
        verdict = "\n\n".join(sentences)
        if winner is not None:
            self._add(winner, register=verdict)
        tags = {"mlflow.note.content": verdict}
        files = [str(file) for file in (report, report.with_suffix(".md")) if file.is_file()]
        self._add("", outcome=tags, files=files, status="FINISHED")
        return self.close()

    def close(self) -> int:
        """Wait until MLflow has all records; return how many it has not, if it is away."""
        left = self._spool.settle()
        self._spool.close()
        return left

    def _add_of(self, trial: Assignment, **content: Any) -> None:
        tags = {
            "role": trial.role,
            "split": trial.config.evaluation.split,
            "digest": digest(trial.config),
            "design": design_digest(trial.config),
            "mlflow.note.content": trial.label,
        }
        self._add(trial.name, title=f"{trial.name} {trial.label}", tags=tags, **content)

    def _add(self, run: str, **content: Any) -> None:
        record: Record = {"run": run, "at": int(time.time() * 1000), **content}
        self._spool.add(record)
