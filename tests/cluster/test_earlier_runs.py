"""A search that learns from what MLflow has of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.observers.tracking import Tracker, tracking_uri
from cluster.study.earlier_runs import earlier_runs
from cluster.study.priors import proposer, warm_start
from cluster.study.trials import Assignment, Ending
from search_spaces.drawing import CONTROL
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import overlay
from trainables.shape import EMBEDDED

BASE = TrialConfig()
SPACE = SPACES["attention"]
DESIGNS: dict[str, tuple[float, dict[str, Any]]] = {
    "search-0000": (0.4, CONTROL),
    "search-0001": (0.6, CONTROL | {"attention.mask": "bidirectional"}),
    "search-0002": (0.5, CONTROL | {"training.learning_rate": 3e-4}),
    "search-0003": (0.9, CONTROL | {"pooling.output_size": 32}),  # none of the space's
}


def logged(outputs: Path, study: str = "old", **changes: Any) -> str:
    """Log trials of a study as a search does; return where."""
    tracker = Tracker(study, outputs, {})
    for number, (name, (score, params)) in enumerate(DESIGNS.items()):
        items = outputs / "items.parquet"
        items.write_bytes(b"items")
        outcome: dict[str, Any] = {
            "scores": {"a": score},
            "categories": {"a": "STS"},
            "failures": {},
            "items": str(items),
            "cost": {"embedding_size": 576.0},
        }
        trial = Assignment(
            config=overlay(BASE, params | changes),
            params=params,
            role="search",
            number=number,
            name=name,
            folder=outputs,
        )
        tracker.started(trial)
        tracker.ended(trial, Ending(status="complete", outcome=outcome))
    assert tracker.close() == 0
    return tracker.uri


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_runs_are_known_as_designs_of_the_space(tmp_path: Path) -> None:
    uri = logged(tmp_path)
    source = earlier_runs("old", uri, SPACE, BASE, EMBEDDED, ("score", "embedding_size"))
    found = {t.params["attention.mask"]: t.values for t in source.trials if t.values[0] != 0.5}
    assert found == {"causal": [0.4, 576.0], "bidirectional": [0.6, 576.0]}
    assert len(source.trials) == 3


def test_a_search_learns_from_them(tmp_path: Path) -> None:
    uri = logged(tmp_path)
    source = earlier_runs("old", uri, SPACE, BASE, EMBEDDED, ("score",))
    study = optuna.create_study(direction="maximize")
    said = warm_start(study, source, proposer(SPACE, BASE, EMBEDDED))
    assert said == "3 of the 3 trials of mlflow:old are known"
    assert sorted(trial.value or 0 for trial in study.trials) == [0.4, 0.5, 0.6]
    keys = ["key" in trial.user_attrs for trial in study.trials]
    assert sorted(keys) == [False, True, True]  # another learning rate is trained again


def test_all_studies_can_be_taken_together(tmp_path: Path) -> None:
    logged(tmp_path, "old")
    uri = logged(tmp_path, "older", seed=3)
    assert len(earlier_runs("", uri, SPACE, BASE, EMBEDDED, ("score",)).trials) == 6
    assert len(earlier_runs("older", uri, SPACE, BASE, EMBEDDED, ("score",)).trials) == 3


def test_an_unknown_study_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    uri = logged(tmp_path)
    with pytest.raises(ConfigError, match="warm-start: expected one of 'old', got 'young'"):
        earlier_runs("young", uri, SPACE, BASE, EMBEDDED, ("score",))


def test_where_nothing_was_tracked_there_is_nothing_to_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has none"):
        earlier_runs("old", tracking_uri(tmp_path), SPACE, BASE, EMBEDDED, ("score",))
