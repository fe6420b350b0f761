"""The trials that MLflow has of earlier studies, as a search's samplers can learn from them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from cluster.observers.mlflow_writer import EXPERIMENT
from cluster.study.priors import Follower
from search_spaces.drawing import Space
from trainables.config import ConfigError, TrialConfig
from trainables.faults import one_of
from trainables.identity import design_digest, digest
from trainables.overlay import as_dict, flatten, from_dict, overlay
from trainables.shape import Shape

SCHEME = "mlflow:"  # before a study's name; nothing behind it means all studies
PAGE = 500


def earlier_runs(
    study: str,
    uri: str,
    space: Space,
    base: TrialConfig,
    shape: Shape,
    objectives: Sequence[str],
) -> optuna.Study:
    """Return the finished trials of `study` that MLflow has, as a study over `space`.

    Args:
        study: Its name; an empty one means all studies of the experiment.
        uri: Of the tracking server or database.
        space: Those of its designs are returned that it has.
        base: What the space varies; trials of another base are marked by another key.
        shape: Of the base's decoder.
        objectives: What the values are, "score" among them.

    Raises:
        ConfigError: If MLflow has no study of that name.
    """
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    runs = [] if found is None else list(_runs(client, found.experiment_id))
    names = sorted({run.data.tags["study"] for run in runs})
    if study and study not in names:
        raise ConfigError(f"warm-start: {one_of(study, tuple(names)) if names else _none(uri)}")
    made = optuna.create_study(
        study_name=f"{SCHEME}{study or EXPERIMENT}",
        directions=["maximize" if name == "score" else "minimize" for name in objectives],
    )
    for run in runs:
        if study in ("", run.data.tags["study"]):
            trial = _trial(run, _config(client, run), space, base, shape, objectives)
            if trial is not None:
                made.add_trial(trial)
    return made


def _none(uri: str) -> str:
    return f"expected a study that MLflow has at {uri}, but it has none"


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """Yield the finished trials that were scored on the choosing half, oldest first."""
    condition = "tags.split = 'choosing' and tags.status = 'complete'"
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], condition, max_results=PAGE, order_by=["start_time"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _config(client: MlflowClient, run: Run) -> TrialConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run.info.run_id, "config.json", folder)
        return from_dict(json.loads(Path(file).read_text()))


def _trial(
    run: Run,
    config: TrialConfig,
    space: Space,
    base: TrialConfig,
    shape: Shape,
    objectives: Sequence[str],
) -> FrozenTrial | None:
    """Return a run as a trial of the space; None if its design is none of the space's."""
    follower = Follower(flatten(as_dict(config)))
    reached = space(follower, base, shape)
    if design_digest(overlay(base, reached)) != design_digest(config):
        return None
    fixed = FixedTrial(follower.drawn)
    space(fixed, base, shape)
    metrics = run.data.metrics
    return create_trial(
        state=TrialState.COMPLETE,
        values=[metrics["mean_score" if name == "score" else name] for name in objectives],
        params=fixed.params,
        distributions=fixed.distributions,
        user_attrs={"config": as_dict(config), "key": f"{digest(config)}-{config.seed}"},
    )
