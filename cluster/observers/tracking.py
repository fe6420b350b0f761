"""MLflow, the window for people: a parent run for the search, a child run for each trial.

Only the driver writes. A trial that is continued continues its run, found by its name and parent.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from cluster.study.trials import Assignment, Ending
from trainables.identity import design_digest, digest, used
from trainables.overlay import as_dict, flatten

EXPERIMENT = "poolsearch"
KIND = "custom_model_development"  # the UI then opens on runs, not on traces of prompts
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


def tracking_uri(outputs: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or a SQLite file in the outputs folder."""
    default = f"sqlite:///{(outputs / 'mlflow.db').resolve()}"
    return os.environ.get("MLFLOW_TRACKING_URI", default)


class Tracker:
    """An observer that keeps MLflow up to date."""

    def __init__(
        self, study: str, outputs: Path, settings: dict[str, Any], identity: str = "only"
    ) -> None:
        """Open (or find) the experiment and the parent run of `study`.

        Another study of that name, in another folder or in one that was removed, has another
        `identity`.
        """
        self.uri = tracking_uri(outputs)
        self._client = MlflowClient(self.uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            local = self.uri.startswith("sqlite:")
            place = (outputs / "mlartifacts").resolve().as_uri() if local else None
            self._experiment = self._client.create_experiment(
                EXPERIMENT, artifact_location=place, tags={"mlflow.experimentKind": KIND}
            )
        else:
            self._experiment = found.experiment_id
        tags = {"study": study, "kind": "search", "identity": identity}
        self.parent = self._run(study, tags, flatten(settings))
        self._study = study
        self._runs: dict[str, str] = {}

    def started(self, trial: Assignment) -> None:
        """Open the trial's run, or take up the one that was left."""
        self._runs[trial.name] = self._open(trial)

    def _run_of(self, trial: Assignment) -> str:
        """Return the run of a trial, which another driver may have started."""
        if trial.name not in self._runs:
            self.started(trial)
        return self._runs[trial.name]

    def _open(self, trial: Assignment) -> str:
        tags = {
            "mlflow.parentRunId": self.parent,
            "study": self._study,
            "trial": trial.name,
            "role": trial.role,
            "split": trial.config.evaluation.split,
            "digest": digest(trial.config),
            "design": design_digest(trial.config),
            "mlflow.note.content": trial.label,
        }
        name = f"{trial.name} {trial.label}"
        return self._run(name, tags, used(trial.config), key=trial.name)

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Log the step's metrics."""
        now, step = int(time.time() * 1000), int(report["step"])
        names = ("loss", "quick_score", "temperature", "seconds")
        metrics = [Metric(name, report[name], now, step) for name in names]
        self._client.log_batch(self._run_of(trial), metrics)

    def paused(self, trial: Assignment) -> None:
        """Say that the trial waits."""
        self._client.update_run(self._run_of(trial), status="SCHEDULED")

    def link(self, name: str) -> dict[str, str]:
        """Return where a trial that was started is shown: its run, and a page if there is one."""
        run = self._runs.get(name)
        if run is None:  # MLflow was away when the trial started
            return {}
        found = {"mlflow_run": run}
        if self.uri.startswith("http"):
            page = f"#/experiments/{self._experiment}/runs/{run}"
            found["mlflow_url"] = f"{self.uri.rstrip('/')}/{page}"
        return found

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Log scores, the row of values behind them and the reason, and close the run."""
        run = self._run_of(trial)
        outcome, now = ending.outcome or {}, int(time.time() * 1000)
        step = int(ending.curve[-1]["step"]) if ending.curve else 0
        values = {
            f"{outcome['categories'][task]}.{task}": score
            for task, score in outcome.get("scores", {}).items()
        }
        if ending.score is not None:
            values["mean_score"] = ending.score
        values |= outcome.get("cost", {})
        warmup = outcome.get("adaptation", {})
        values |= {f"adaptation.{name}": value for name, value in warmup.items()}
        tags = {"status": ending.status, "reason": ending.reason or ""}
        self._client.log_batch(
            run,
            [Metric(name, value, now, step) for name, value in values.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        if outcome:
            self._client.log_artifact(run, outcome["items"])
            weights = trial.folder / "weights.safetensors"
            if weights.is_file():
                self._client.log_artifact(run, str(weights))
        self._client.log_text(run, json.dumps(as_dict(trial.config), indent=2), "config.json")
        self._client.set_terminated(run, STATUS[ending.status])

    def finish(self, report: Path, sentences: list[str]) -> None:
        """Close the search's run with the verdict as its description and the report beside it."""
        self._client.set_tag(self.parent, "mlflow.note.content", "\n\n".join(sentences))
        self._client.log_artifact(self.parent, str(report))
        self._client.set_terminated(self.parent)

    def _run(
        self, name: str, tags: dict[str, str], params: dict[str, Any], key: str | None = None
    ) -> str:
        """Return the run with these tags, made anew if there is none."""
        if key is None:
            names = ("study", "kind", "identity")
            condition = " and ".join(f"tags.{each} = '{tags[each]}'" for each in names)
        else:
            parent = tags["mlflow.parentRunId"]
            condition = f"tags.trial = '{key}' and tags.`mlflow.parentRunId` = '{parent}'"
        runs = self._client.search_runs([self._experiment], condition, max_results=1)
        if runs:
            run = str(runs[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
        else:
            made = self._client.create_run(self._experiment, tags=tags, run_name=name)
            run = str(made.info.run_id)
        rows = [Param(param, str(value)) for param, value in params.items()]
        self._client.log_batch(run, params=rows)  # again too: a kill may have come before them
        return run
