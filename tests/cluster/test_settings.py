from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cluster.settings import StudyConfig, write_once
from trainables.config import ConfigError


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
