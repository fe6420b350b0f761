from __future__ import annotations

from typing import Any

import optuna
import pytest

from search_spaces.ablations import CONTROL, SPACES, Space, layer_choices
from trainables.config import TrialConfig, overlay
from trainables.identity import digest


def draws(space: Space, base: TrialConfig, count: int = 200) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), base) for _ in range(count)]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("layers", [2, 6, 30, None])
class TestEverySpace:
    def test_every_design_can_be_built(self, name: str, layers: int | None) -> None:
        base = overlay(TrialConfig(), {"backbone.num_layers": layers})
        for drawn in draws(SPACES[name], base):
            overlay(base, drawn)

    def test_no_parameter_without_a_meaning(self, name: str, layers: int | None) -> None:
        base = overlay(TrialConfig(), {"backbone.num_layers": layers})
        for drawn in draws(SPACES[name], base):
            sized = {"pooling.num_layers", "pooling.num_heads"} <= drawn.keys()
            assert sized == (drawn["pooling.head"] != "none")

    def test_the_control_is_in_it(self, name: str, layers: int | None) -> None:
        base = overlay(TrialConfig(), {"backbone.num_layers": layers})
        study = optuna.create_study()
        study.enqueue_trial(CONTROL)
        drawn = SPACES[name](study.ask(), base)
        assert digest(overlay(base, drawn)) == digest(overlay(base, CONTROL))


def test_joint_varies_all_that_the_ablations_vary() -> None:
    base = TrialConfig()
    names = {name: set().union(*draws(space, base)) for name, space in SPACES.items()}
    assert names["joint"] == names["attention"] | names["pooling"]
    assert "attention.mask" not in names["pooling"]
    assert "pooling.hidden_size" not in names["attention"]


def test_heads_read_no_more_layers_than_there_are() -> None:
    shallow = overlay(TrialConfig(), {"backbone.num_layers": 3})
    assert layer_choices(shallow) == (2,)
    assert layer_choices(overlay(TrialConfig(), {"backbone.num_layers": 30})) == (2, 4, 6, 8, 16)
