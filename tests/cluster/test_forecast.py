from __future__ import annotations

import dataclasses
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.acts.factorial import acts_of, factorial
from cluster.dispatch.slots import Node
from cluster.preflight import forecast as forecasts
from cluster.preflight import plan
from cluster.preflight.designs import num_designs
from cluster.preflight.forecast import Act, Forecast, acts_of_search, forecast
from cluster.preflight.surroundings import Place
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL
from trainables.config import EMBEDDED_MODEL, TrialConfig
from trainables.embedded import scored_texts
from trainables.estimate import EFFICIENCY
from trainables.overlay import overlay
from trainables.shape import Shape
from trainables.tokenizer import Tokenizer

SHAPE = Shape(depth=3, width=48, num_heads=4, num_key_value_heads=2)
RATE = 1e9
LAYERS = {"backbone.num_layers": 3}
HEAD = {
    **CONTROL,
    "pooling.token_scope": "all_tokens",
    "pooling.head": "latent_attention",
    "pooling.hidden_size": 48,
    "pooling.num_heads": 1,
    "pooling.head_size": 48,
    "pooling.num_latents": 64,
}


@pytest.fixture
def base(tiny_model: Path) -> TrialConfig:
    names = {"backbone.model": str(tiny_model), "backbone.num_layers": 3}
    return overlay(TrialConfig(), names | {"engine.precision": "fp32"})


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two CPUs of a known pace."""
    monkeypatch.setattr(forecasts, "matrix_rate", lambda precision: RATE)
    monkeypatch.setattr(forecasts, "num_threads", lambda: 2)
    machine = (Node(cpus=2, gpus=0, memory_bytes=4e9),)
    monkeypatch.setattr(forecasts, "nodes", lambda address, looks: machine)


def made_of(base: TrialConfig, tmp_path: Path, filled: float = 1.0, **changes: Any) -> Forecast:
    config = StudyConfig(**({"base": base} | changes))
    place = Place(outputs=tmp_path)
    return forecast(config, acts_of_search(config), [CONTROL, HEAD], SHAPE, place, filled)


def test_the_acts_of_a_search_are_its_designs_and_the_confirmation() -> None:
    config = StudyConfig(num_trials=10, num_finalists=2, num_seeds=3)
    assert acts_of_search(config) == (
        Act(name="search", num_trained=10, num_untrained=0, split="choosing"),
        Act(name="confirm", num_trained=9, num_untrained=4, split="confirming"),
    )
    assert acts_of_search(StudyConfig(num_trials=1))[1].num_trained == 3
    few = StudyConfig(space="literature", num_trials=50, base=overlay(TrialConfig(), LAYERS))
    assert num_designs(few, SHAPE) == 9
    assert num_designs(dataclasses.replace(few, first=("llm2vec",)), SHAPE) == 10
    assert num_designs(dataclasses.replace(few, num_trials=4), SHAPE) == 4
    assert [act.num_trained for act in acts_of_search(few, 9)] == [9, 9]


def test_the_acts_of_a_factorial_are_tuning_and_cells(base: TrialConfig) -> None:
    names = ("attention.key_value_heads", "pooling.token_scope")
    given: dict[str, Any] = {"mode": "factorial", "space": "attention", "factors": names}
    config = StudyConfig(**given, tune=4, num_seeds=2, base=base)
    acts = acts_of(config, factorial(config, SHAPE))
    assert [(act.name, act.num_trials, act.split) for act in acts] == [
        ("tune", 12 * 4, "choosing"),
        ("cells", 12 * 2, "confirming"),
    ]
    untuned = dataclasses.replace(config, tune=0)
    assert [act.name for act in acts_of(untuned, factorial(untuned, SHAPE))] == ["cells"]


def test_time_is_the_work_over_the_pace_of_what_runs_at_once(
    base: TrialConfig, tmp_path: Path
) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})  # whose texts are not counted
    made = made_of(base, tmp_path)
    assert (made.at_once, made.threads) == (2, 1)
    trained = sum(demand.needed.seconds for demand in made.demands) / len(made.demands)
    work = 10 * (2 * trained + forecasts.TRIAL_S)  # each has half of the machine
    assert made.act_seconds[0] == pytest.approx(forecasts.STARTUP_S + work / 2)
    more = made_of(base, tmp_path, num_trials=20)
    assert more.act_seconds[0] > 1.8 * (made.act_seconds[0] - forecasts.STARTUP_S)
    assert made.uncounted == ("NFCorpus",)


@pytest.mark.embedded
def test_scoring_counts_the_texts_of_the_embedded_tasks(base: TrialConfig, tmp_path: Path) -> None:
    base = overlay(base, {"evaluation.tasks": ("Lee50STS", "BoolQRetrieval")})
    made = made_of(base, tmp_path)
    demand, tasks = made.demands[0], base.evaluation.tasks
    texts = [text for task in tasks for text in scored_texts(task, "choosing")]
    assert len(texts) == 25 + 500
    rows = Tokenizer(EMBEDDED_MODEL).rows(texts, base.evaluation.max_tokens)
    tokens = sum(len(ids) for ids, _ in rows)
    expected = tokens * demand.cost.flops_per_token / (EFFICIENCY * RATE)
    found = forecasts._scoring_seconds(demand, "choosing", RATE)
    assert found == pytest.approx(expected, rel=0.2)
    assert made.uncounted == ()


def test_the_widest_design_is_built_and_named(base: TrialConfig, tmp_path: Path) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})
    made = made_of(base, tmp_path)
    assert made.demands[0].config.pooling.head == "none"
    assert made.largest.config.pooling.head == "latent_attention"
    text = " ".join("".join(plan.lines(made, ["a plan"])).split())
    assert "most: causal, all_tokens, latent_attention(" in text


def test_what_does_not_fit_is_refused_with_all_that_is_missing(
    base: TrialConfig, tmp_path: Path
) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})
    made = made_of(base, tmp_path)
    assert plan.resource_faults(made) == plan.warnings(made) == []
    poor = dataclasses.replace(
        made, nodes=(Node(cpus=2, gpus=0, memory_bytes=1e5),), free_bytes=10
    )
    memory, disk = plan.resource_faults(poor)
    assert re.fullmatch(
        r"memory: expected at most 0\.0 GB for a worker, the most of any node, got \d+\.\d GB for "
        r"causal, all_tokens, latent_attention\(.*\) with one text at a time; take more workers "
        r"with engine\.zero_stage=3, .*",
        memory,
    )
    assert re.fullmatch(
        r"outputs: expected 0\.\d GB for checkpoints, weights and items, got 0\.0 GB free at "
        r".*; make room, or give another --outputs",
        disk,
    )


def test_what_may_not_fit_at_once_is_a_warning_with_the_remedy(
    base: TrialConfig, tmp_path: Path
) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})
    made = made_of(base, tmp_path)
    needed = made.largest.needed.total_bytes
    tight = dataclasses.replace(made, nodes=(Node(cpus=2, gpus=0, memory_bytes=1.5 * needed),))
    (line,) = plan.warnings(tight)
    assert line.startswith("memory: 2 workers may need ")
    assert "take --at-once 1, a smaller training.mini_batch_tokens" in line
    assert plan.resource_faults(tight) == []
    gpus = dataclasses.replace(tight, nodes=(Node(cpus=2, gpus=2, memory_bytes=1.5 * needed),))
    assert plan.warnings(gpus) == []  # each worker has a GPU to itself


def test_a_plan_fits_a_screen_and_says_what_it_assumes(base: TrialConfig, tmp_path: Path) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus", "SciFact")})
    config = StudyConfig(base=base)
    made = made_of(base, tmp_path)
    lines = plan.lines(made, plan.plan_of_search(config, made))
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    heads = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert heads == ["plan", "at once", "designs", "memory", "time", "cost", "disk", "end"]
    text = "\n".join(lines)
    assert "search: 10 designs of joint, the control among them" in text
    assert "2 trials of 1 worker of 1 CPU, on 2 CPUs" in text
    assert "at this machine's pace of 1 GFLOP/s in fp32" in text
    assert "what early stopping saves is not counted" in text
    assert "nor is the scoring of NFCorpus, SciFact" in text
    assert re.search(r"end      about .*\d\d:\d\d \(in .+ min\)", text)


def test_an_end_on_another_day_has_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls(2026, 3, 6, 22, 30)

    monkeypatch.setattr(plan, "datetime", Clock)
    assert plan._end(1800) == "about 23:00 (in 30 min)"
    assert plan._end(6 * 3600) == "about Saturday, 07 March, 04:30 (in 6 h 0 min)"
