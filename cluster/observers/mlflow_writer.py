"""Sends the tracker's records to MLflow; to send one again changes nothing.

Runs are found by their tags, metrics have the time of the record (MLflow keeps equal points once),
and of a run that another driver began the steps that it has are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from cluster.observers.spool import Record, RefusedError

EXPERIMENT = "poolsearch"
KIND = "custom_model_development"  # the UI then opens on runs, not on traces of prompts
REPORTED = ("loss", "quick_score", "temperature", "seconds")  # a step's
FOR_GOOD = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST"}

# MLflow's client would try for minutes, and a thread that does so cannot be ended.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


class MlflowWriter:
    """The one writer of a study's runs."""

    def __init__(self, uri: str, outputs: Path, *, study: str, identity: str) -> None:
        """Write to the server or database at `uri`; nothing is asked of it before a record."""
        self._uri, self._outputs = uri, outputs
        self._study, self._identity = study, identity
        self._client = MlflowClient(uri)
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}  # that a run has, by its id

    def send(self, record: Record) -> None:
        """Have MLflow show a record.

        Raises:
            RefusedError: If MLflow answers that it never will.
        """
        try:
            run = self._run_of(record)
            self._log(run, record)
            if "register" in record:
                self._register(record["run"], run, record["register"])
            if "status" in record:
                self._conclude(run, record["status"], record["at"])
        except MlflowException as error:
            if error.error_code in FOR_GOOD:
                raise RefusedError(str(error).partition("\n")[0]) from error
            raise

    def link(self, name: str) -> dict[str, str]:
        """Return where a trial is shown, as far as its run is known."""
        run = self._runs.get(name)
        if run is None:
            return {}
        found = {"mlflow_run": run}
        if self._uri.startswith("http"):
            page = f"#/experiments/{self._experiment}/runs/{run}"
            found["mlflow_url"] = f"{self._uri.rstrip('/')}/{page}"
        return found

    def _log(self, run: str, record: Record) -> None:
        at, tags = record["at"], {**record.get("tags", {}), **record.get("outcome", {})}
        steps = self._steps[run]
        reports = [each for each in record.get("curve", ()) if int(each["step"]) not in steps]
        metrics = [
            Metric(name, report[name], at, int(report["step"]))
            for report in reports
            for name in REPORTED
        ]
        step = record.get("step", 0)
        metrics += [Metric(name, v, at, step) for name, v in record.get("metrics", {}).items()]
        params = [Param(name, str(value)) for name, value in record.get("params", {}).items()]
        self._client.log_batch(run, metrics, params, [RunTag(k, str(v)) for k, v in tags.items()])
        steps.update(int(report["step"]) for report in reports)
        if record.get("datasets"):
            self._client.log_inputs(run, [_dataset(each) for each in record["datasets"]])
        for file in record.get("files", ()):
            if Path(file).is_file():
                self._client.log_artifact(run, file)
        for name, text in record.get("texts", {}).items():
            self._client.log_text(run, text, name)

    def _conclude(self, run: str, status: str, at: int) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, end_time=at)

    def _run_of(self, record: Record) -> str:
        """Return the id of a record's run, made now if MLflow has none; "" is the study's own."""
        name, at = record["run"], record["at"]
        if "" not in self._runs:
            own = {"study": self._study, "kind": "search", "identity": self._identity}
            self._keep("", self._found(own) or self._made(self._study, own, at))
        if name not in self._runs:
            own = {"trial": name, "mlflow.parentRunId": self._runs[""]}
            title = str(record.get("title", name))
            self._keep(name, self._found(own) or self._made(title, own, at))
        return self._runs[name]

    def _keep(self, name: str, run: Run) -> None:
        identity = run.info.run_id
        history: list[Metric] = []
        if REPORTED[0] in run.data.metrics:
            history = self._client.get_metric_history(identity, REPORTED[0])
        self._steps[identity] = {metric.step for metric in history}
        self._runs[name] = identity

    def _found(self, tags: Mapping[str, str]) -> Run | None:
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = self._client.search_runs([self._experiment_id()], condition, max_results=1)
        return runs[0] if runs else None

    def _made(self, title: str, tags: Mapping[str, str], at: int) -> Run:
        known = {"study": self._study, **tags}
        return self._client.create_run(
            self._experiment_id(), start_time=at, tags=known, run_name=title
        )

    def _experiment_id(self) -> str:
        if not self._experiment:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = found.experiment_id if found else self._made_experiment()
        return self._experiment

    def _made_experiment(self) -> str:
        local = self._uri.startswith("sqlite:")
        place = (self._outputs / "mlartifacts").resolve().as_uri() if local else None
        made: str = self._client.create_experiment(
            EXPERIMENT, artifact_location=place, tags={"mlflow.experimentKind": KIND}
        )
        return made

    def _register(self, trial: str, run: str, description: str) -> None:
        """Make a trial's run a version of the study's model, unless it is one."""
        if not self._client.search_registered_models(f"name = '{self._study}'"):
            self._client.create_registered_model(self._study)
        if self._client.search_model_versions(f"run_id = '{run}'"):
            return
        source = self._client.get_run(run).info.artifact_uri
        tags = {"trial": trial}
        self._client.create_model_version(self._study, source, run, tags, description=description)


def _dataset(fields: Mapping[str, Any]) -> DatasetInput:
    return DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", "training")])
