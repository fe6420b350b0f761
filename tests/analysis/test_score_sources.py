"""Scores from mteb's folders, studies and MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.score_sources import read_scores
from analysis.scores import ScoresError
from tests.analysis.conftest import BETTER, CATEGORIES, CONTROL, Study, label


def mteb(folder: Path, task: str, *scores: float, split: str = "test") -> None:
    """One result file as mteb writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    subsets = [{"main_score": score, "hf_subset": f"s{n}"} for n, score in enumerate(scores)]
    text = json.dumps({"task_name": task, "scores": {split: subsets}, "mteb_version": "2.26.24"})
    (folder / f"{task}.json").write_text(text)


def test_mtebs_folders(tmp_path: Path) -> None:
    for model, gain in (("org__small", 0.0), ("org__large", 0.1)):
        folder = tmp_path / "results" / model / "0123abc"
        mteb(folder, "ArguAna", 0.4 + gain)
        mteb(folder, "BIOSSES", 0.6 + gain, 0.8 + gain, split="validation")
        mteb(folder, "MyOwnTask", 0.5)
        (folder / "model_meta.json").write_text("{}")
    scores = read_scores(str(tmp_path / "results"))
    assert scores.models == ("org/large", "org/small")
    found = {
        task: (category, score)
        for task, category, score in zip(
            scores.tasks, scores.categories, scores.values[1, 0], strict=True
        )
    }
    assert found["ArguAna"] == ("Retrieval", 0.4)
    assert found["BIOSSES"] == ("STS", pytest.approx(0.7))
    assert found["MyOwnTask"] == ("Other", 0.5)


def test_mtebs_faults_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=r"expected mteb's results, MODEL/REVISION/TASK\.json"):
        read_scores(str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.json").write_text("{}")
    (tmp_path / "m" / "b.json").write_text("no JSON")
    with pytest.raises(ScoresError, match=r"(?s)a\.json: expected one task's.*b\.json: expected"):
        read_scores(str(tmp_path))


def test_a_revision_too_many_is_a_duplicate(tmp_path: Path) -> None:
    for revision in ("one", "two"):
        mteb(tmp_path / "model" / revision, "ArguAna", 0.4)
    with pytest.raises(
        ScoresError,
        match=r"two/ArguAna\.json: expected one result of model on ArguAna, got .*one/ArguAna",
    ):
        read_scores(str(tmp_path))


def test_a_studys_confirmed_designs(make_study: Callable[..., Study]) -> None:
    scores = read_scores(str(make_study().folder))
    assert {label(CONTROL), label(BETTER)} < set(scores.models)
    assert {f"{label(CONTROL)}, untrained"} < set(scores.models)
    assert scores.seeds == ("101", "102", "103", "0")
    assert set(scores.categories) == set(CATEGORIES)


def test_a_study_without_a_confirmation(study: Study) -> None:
    study.add("search-0000", CONTROL)
    with pytest.raises(ScoresError, match="expected confirmed runs"):
        read_scores(str(study.folder))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflows_runs(tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("mine", artifact_location=str(tmp_path / "a"))
    for number, (model, split) in enumerate(
        [("A", "confirming"), ("B", "confirming"), ("A", "choosing")]
    ):
        run = client.create_run(experiment, tags={"model": model, "split": split})
        metrics = {"STS.BIOSSES": 0.5 + number, "loss": 1.0, "adaptation.loss": 2.0}
        rows = [Metric(name, value, 0, 0) for name, value in metrics.items()]
        client.log_batch(run.info.run_id, rows, [Param("seed", "7")])
        client.set_terminated(run.info.run_id)
    client.create_run(experiment, tags={"model": "C"})
    scores = read_scores("mlflow:mine", uri)
    assert (scores.models, scores.tasks, scores.seeds) == (("B", "A"), ("BIOSSES",), ("7",))
    assert scores.values[:, 0, 0].tolist() == [1.5, 0.5]
    with pytest.raises(ScoresError, match=r"expected an experiment of .*mine.*, got 'yours'"):
        read_scores("mlflow:yours", uri)
    client.create_experiment("empty", artifact_location=str(tmp_path / "b"))
    with pytest.raises(ScoresError, match=r"metrics named CATEGORY\.TASK in 'empty', got none"):
        read_scores("mlflow:empty", uri)
