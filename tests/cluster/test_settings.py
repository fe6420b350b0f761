from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
import pytest

from cluster.settings import StudyConfig, study_identity, to_plain, write_once
from cluster.study.opening import claim
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import overlay


def test_all_faults_are_named_together() -> None:
    with pytest.raises(ConfigError) as raised:
        StudyConfig(name="a b", space="both", num_trials=0, num_seeds=-1, num_finalists=2)
    assert str(raised.value).splitlines() == [
        "name: expected letters, digits, '.', '_' or '-', got 'a b'",
        "space: expected one of 'attention', 'pooling', 'joint', 'literature', got 'both'",
        "num_trials: expected at least 1, got 0",
        "num_seeds: expected at least 1, got -1",
    ]


def test_a_study_keeps_its_settings(tmp_path: Path) -> None:
    config = StudyConfig(name="s")
    write_once(config, tmp_path / "s")
    write_once(config, tmp_path / "s")
    other = dataclasses.replace(config, num_trials=13)
    with pytest.raises(ConfigError) as raised:
        write_once(other, tmp_path / "s")
    assert str(raised.value).splitlines() == [
        "num_trials: study 's' has 10, got 13",
        "study: a study keeps its settings; use them, or give a new --study name",
    ]


def test_every_setting_of_the_engine_is_checked() -> None:
    with pytest.raises(ConfigError) as raised:
        StudyConfig(
            sampler="tpee",
            pruner="percentil",
            num_startup=0,
            first_rung=0,
            factor=1,
            objectives=("score", "sizes"),
            first=("nv_embed", 3),  # type: ignore[arg-type]
            storage="outputs",
        )
    lines = str(raised.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "objectives",
        "sampler",
        "num_startup",
        "pruner",
        "first_rung",
        "factor",
        "storage",
        "first.1",
    ]
    assert "(did you mean 'tpe'?)" in lines[1]
    assert "(did you mean 'percentile'?)" in lines[3]


@pytest.mark.parametrize("objectives", [(), ("embedding_size",), ("score", "score")])
def test_the_score_is_an_objective_and_each_is_once(objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="objectives: expected each once and 'score' among"):
        StudyConfig(objectives=objectives, pruner="none")


def test_several_objectives_are_not_pruned() -> None:
    objectives = ("score", "embedding_size")
    StudyConfig(objectives=objectives, pruner="none")
    with pytest.raises(ConfigError) as raised:
        StudyConfig(objectives=objectives)
    expected = "pruner: with several objectives expected 'none', got 'percentile'"
    assert str(raised.value) == expected


@pytest.mark.parametrize(("first_rung", "every"), [(16, 2), (15, 2), (None, 16)])
def test_trials_are_compared_before_they_end(first_rung: int | None, every: int) -> None:
    base = overlay(TrialConfig(), {"training.steps": 16, "training.report_every": every})
    given = StudyConfig(base=base, first_rung=first_rung)
    with pytest.raises(ConfigError, match="first_rung: expected a reporting step before the last"):
        dataclasses.replace(given, pruner="halving")
    longer = overlay(base, {"training.steps": 64})
    dataclasses.replace(given, pruner="halving", base=longer)


def test_a_database_is_kept_without_its_password() -> None:
    config = StudyConfig(storage="postgresql://ada:secret@host/s")
    assert to_plain(config)["storage"] == "postgresql://ada:***@host/s"


def test_a_study_keeps_its_identity(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert study_identity(one) == study_identity(one) != study_identity(other)


def test_a_databases_study_belongs_to_one_folder() -> None:
    study = optuna.create_study()
    claim(study, "one")
    claim(study, "one")
    with pytest.raises(ConfigError, match=r"storage: expected no study .* of another"):
        claim(study, "other")
