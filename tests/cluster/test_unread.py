from __future__ import annotations

from typing import Any

import pytest

from cluster.preflight.unread import unread
from cluster.settings import StudyConfig
from cluster.study.opening import open_study
from cluster.study.storage import open_storage


@pytest.mark.parametrize(
    ("study", "fields"),
    [
        ({"num_startup": 9}, []),
        ({"sampler": "random", "num_startup": 9}, []),  # percentile reads it
        ({"sampler": "random", "pruner": "halving", "num_startup": 9}, ["num_startup"]),
        ({"sampler": "gp", "pruner": "none", "num_startup": 9}, []),
        ({"factor": 2, "first_rung": 4}, ["first_rung", "factor"]),
        ({"pruner": "hyperband", "factor": 2, "first_rung": 4}, []),
        ({"pruner": "wilcoxon", "factor": 2}, ["factor"]),
        ({"sampler": "tpee", "pruner": "none", "factor": 2}, []),  # the name comes first
        ({"tune": 4, "fraction": 3}, ["fraction", "tune"]),
        ({"mode": "factorial", "pruner": "none", "factor": 2}, ["pruner", "factor"]),
        ({"mode": "factorial", "tuned": {"lora.alpha": 2}}, ["tuned"]),
        ({"mode": "factorial", "tune": 4, "tuned": {"lora.alpha": 2}}, []),
    ],
)
def test_what_nothing_reads_is_refused(study: dict[str, Any], fields: list[str]) -> None:
    assert list(unread(study)) == fields


@pytest.mark.parametrize("pruner", ["percentile", "median"])
def test_the_startup_reaches_sampler_and_pruner(pruner: str, tmp_path: Any) -> None:
    def opened(**changes: Any) -> Any:
        config = StudyConfig(name=str(len(changes)), pruner=pruner, **changes)
        return open_study(config, open_storage(None, tmp_path))

    usual, given = opened(), opened(num_startup=9)
    assert (usual.sampler._startup, usual.pruner._n_startup_trials) == (6, 3)
    assert (given.sampler._startup, given.pruner._n_startup_trials) == (9, 9)
