"""The outlook before training, against simulations of the tests themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.arrays import FloatArray
from analysis.contrasts import compare
from analysis.noise import Noise, noise_of
from analysis.planning import Plan, look_ahead, main, power_over_tasks, variance_shares
from analysis.power import power
from analysis.scores import ScoresError, scores_from
from tests.analysis.conftest import Study

NOISE = Noise(seed=0.004, task=0.01, rest=0.008)


def cells(generator: np.random.Generator, effect: float, seeds: int, tasks: int) -> FloatArray:
    parts = [
        NOISE.seed * generator.normal(size=(seeds, 1)),
        NOISE.task * generator.normal(size=(1, tasks)),
        NOISE.rest * generator.normal(size=(seeds, tasks)),
    ]
    return np.asarray(effect + parts[0] + parts[1] + parts[2])


@pytest.mark.parametrize(("seeds", "tasks", "level"), [(3, 8, 0.05), (5, 14, 0.0125)])
def test_power_over_seeds_and_tasks_is_that_of_the_test(
    seeds: int, tasks: int, level: float
) -> None:
    generator = np.random.default_rng(seeds)
    found = [compare([cells(generator, 0.012, seeds, tasks)]).p <= level for _ in range(2000)]
    expected = power(variance_shares(seeds, tasks, NOISE), 0.012, level)
    error = math.sqrt(expected * (1 - expected) / 2000)
    assert np.mean(found) == pytest.approx(expected, abs=3 * error + 0.02)


def test_with_one_seed_it_is_students_power() -> None:
    expected = power(variance_shares(1, 12, Noise(seed=0.0, task=0.01, rest=0.0)), 0.01, 0.05)
    shift, critical = math.sqrt(12), stats.t.ppf(0.975, 11)
    exact = stats.nct.sf(critical, 11, shift) + stats.nct.cdf(-critical, 11, shift)
    assert expected == pytest.approx(exact, abs=0.005)


def test_power_over_tasks_is_that_of_scipys_test() -> None:
    plan = Plan(tasks=10, seeds=3, effect=0.01)
    predicted = power_over_tasks(plan, NOISE, 0.01, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    rows = np.array([cells(generator, 0.01, 3, 10).mean(axis=0) for _ in range(3000)])
    found: Any = stats.wilcoxon(rows, axis=1, method="exact")
    assert (found.pvalue <= 0.05).mean() == pytest.approx(predicted, abs=0.03)


@pytest.mark.parametrize(
    ("tasks", "family", "needed"), [(5, 1, 6), (6, 1, 6), (6, 2, 7), (8, 6, 8), (7, 6, 8)]
)
def test_significance_is_reachable_only_with_enough_tasks(
    tasks: int, family: int, needed: int
) -> None:
    plan = Plan(tasks=tasks, seeds=3, effect=1.0, family=family)
    outlook = look_ahead(plan, NOISE, np.random.default_rng(0))
    assert outlook.tasks_needed == needed
    assert outlook.reachable == (tasks >= needed)
    assert outlook.power_over_tasks == (1.0 if tasks >= needed else 0.0)


def test_the_luck_of_one_seed_makes_false_claims() -> None:
    noise = Noise(seed=0.01, task=0.005, rest=0.001)
    outlook = look_ahead(Plan(tasks=20, seeds=1, effect=0.01), noise, np.random.default_rng(0))
    assert outlook.false_claims > 0.3
    calm = Noise(seed=0.0, task=0.005, rest=0.001)
    outlook = look_ahead(Plan(tasks=20, seeds=1, effect=0.01), calm, np.random.default_rng(0))
    assert outlook.false_claims == pytest.approx(0.05, abs=0.008)


def test_the_power_of_one_seed_is_that_of_its_luck_too() -> None:
    noise, plan = Noise(seed=0.01, task=0.005, rest=0.001), Plan(tasks=20, seeds=1, effect=0.02)
    outlook = look_ahead(plan, noise, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    luck = 0.01 * generator.normal(size=(20_000, 1))
    rows = 0.02 + luck + np.hypot(0.005, 0.001) * generator.normal(size=(20_000, 20))
    found = np.mean(np.asarray(stats.ttest_1samp(rows, 0, axis=1).pvalue) <= 0.05)
    assert outlook.power_over_seeds_and_tasks == pytest.approx(found, abs=0.02)
    calm = look_ahead(plan, replace(noise, seed=0.0), np.random.default_rng(0))
    assert outlook.detectable > calm.detectable


def long_table(seeds: int = 6, models: int = 8, tasks: int = 60) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    values = generator.normal(0, 0.01, (models, 1, tasks)) + generator.normal(
        0, 0.004, (models, seeds, 1)
    )
    values = values + generator.normal(0, 0.006, (models, seeds, tasks))
    model, seed, task = np.indices(values.shape).reshape(3, -1)
    return pd.DataFrame(
        {"model": model, "seed": seed, "task": task, "score": values.ravel()}
    ).assign(category="STS")


def test_the_noise_of_a_table_is_what_made_it() -> None:
    got = noise_of(scores_from(long_table()))
    expected = math.sqrt(2) * np.array([0.004, 0.01, 0.006])
    np.testing.assert_allclose([got.seed, got.task, got.rest], expected, rtol=0.2)
    one = noise_of(scores_from(long_table().query("seed == 0").drop(columns="seed")), "STS")
    assert (one.seed, one.rest) == (0.0, 0.0)
    assert one.task == pytest.approx(math.sqrt(2) * math.hypot(0.01, 0.006), rel=0.2)
    assert one.source.endswith("one seed, so nothing is known of seeds")


def test_a_table_that_shows_no_noise_is_refused() -> None:
    with pytest.raises(ScoresError, match="two models with two tasks in common"):
        noise_of(scores_from(long_table(tasks=1)))


def test_the_program_reads_a_study(make_study: Callable[..., Study], capsys: Any) -> None:
    arguments = ["--tasks", "4", "--seeds", "3", "--family", "4", "--effect", "0.05"]
    assert main([*arguments, "--noise", str(make_study().folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "With 4 tasks, no difference, corrected over 4 comparisons, can be significant over "
        "tasks, however large: that takes 8 tasks (smallest two-sided exact p 0.125, needed "
        "0.0125)."
    )


def test_json_has_plan_noise_and_outlook(capsys: Any, tmp_path: Path) -> None:
    long_table().to_csv(tmp_path / "s.csv", index=False)
    arguments = ["--tasks", "20", "--seeds", "3", "--noise", str(tmp_path / "s.csv")]
    assert main([*arguments, "--seed-sd", "0", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"plan", "noise", "outlook"}
    assert found["noise"]["seed"] == 0
    assert 0.2 < found["outlook"]["power_over_tasks"] < 1


def test_every_fault_is_named(capsys: Any) -> None:
    arguments = [
        "--tasks",
        "1",
        "--seeds",
        "0",
        "--effect",
        "-1",
        "--alpha",
        "2",
        "--seed-sd",
        "-1",
    ]
    assert main([*arguments, "--family", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tasks: expected 2 to 1000, got 1",
        "seeds: expected at least 1, got 0",
        "family: expected at least 1, got 0",
        "alpha: expected between 0 and 1, got 2.0",
        "effect: expected above 0, got -1.0",
        "seed-sd: expected at least 0, got -1.0",
        "noise: expected --noise, or --task-sd and --rest-sd, got neither",
    ]


def test_the_luck_of_one_seed_is_said_of_both_tests(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "8", "--seed-sd", "1", "--task-sd", "0", "--rest-sd", "0"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "The test over seeds and tasks errs with one seed too." in said
    assert main([*arguments, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["outlook"]["detectable"] is None
