from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cluster.acts import factorial as factorials
from cluster.acts.confirm import Proposer, Run, trial_config
from cluster.acts.factorial import cell_runs, factorial, tuning_runs
from cluster.acts.tuning import best_settings, settings
from cluster.settings import TUNED, StudyConfig
from cluster.study.ledger import Ledger
from cluster.study.trials import Assignment
from search_spaces.drawing import CONTROL
from trainables.config import ConfigError, TrialConfig
from trainables.identity import design_digest
from trainables.overlay import overlay
from trainables.shape import Shape

SHAPE = Shape(depth=3, width=48, num_heads=4, num_key_value_heads=2)
BASE = overlay(TrialConfig(), {"backbone.num_layers": 3, "training.steps": 4})
TWO = ("attention.key_value_heads", "pooling.token_scope")
RATE, TEMPERATURE = "training.learning_rate", "objective.temperature"


def study_of(**changes: Any) -> StudyConfig:
    given: dict[str, Any] = {
        "mode": "factorial",
        "space": "attention",
        "factors": TWO,
        "base": BASE,
    }
    return StudyConfig(**(given | changes))


def score_of(trial: Assignment) -> float:
    """A formula: each token scope has a learning rate and a temperature that suit it."""
    rates = {"last_token": 5e-4, "mean": 1e-3, "weighted_mean": 2e-3, "all_tokens": 3e-3}
    best = rates[trial.config.pooling.token_scope]
    return 0.9 - abs(trial.config.training.learning_rate / best - 1) / 10


class Machine:
    """Runs acts as the driver does, without Ray; breaks off after `patience` trials in all."""

    def __init__(self, config: StudyConfig, folder: Path, patience: int = 10_000) -> None:
        self.config, self.folder, self.patience = config, folder, patience
        self.done: list[Assignment] = []
        self.storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))

    def run_act(self, act: str, runs: Sequence[Run]) -> optuna.Study:
        proposer = Proposer(runs, self.config.base)
        study = optuna.create_study(
            study_name=act, storage=self.storage, load_if_exists=True, direction="maximize"
        )
        proposer.enqueue(study)
        ledger = Ledger(
            study, proposer, num_trials=len(runs), folder=self.folder / act, observers=[]
        )
        while (trial := ledger.next_trial()) is not None:
            if len(self.done) == self.patience:
                raise KeyboardInterrupt
            self.done.append(trial)
            outcome = {"scores": {"a": score_of(trial)}, "categories": {"a": "STS"}}
            ledger.complete(trial.number, outcome | {"failures": {}, "cost": {}})
        return study

    def run(self) -> bool:
        said: list[str] = []
        ok = factorials.run(self.config, SHAPE, self.folder, self.run_act, said.append)
        self.said = said
        return ok


def test_the_control_comes_first_and_the_fraction_keeps_it() -> None:
    whole = factorial(study_of(), SHAPE)
    assert whole.cells[0] == CONTROL
    assert whole.num_cells == len(whole.cells) == 3 * 4
    part = factorial(study_of(fraction=6), SHAPE)
    assert part.cells[0] == CONTROL
    assert len(part.cells) == 6
    assert part.fraction is not None
    assert part.fraction.num_estimable == part.fraction.num_effects == 6


def test_equal_designs_are_one_cell() -> None:
    base = overlay(BASE, {"instructions.query": "Find: "})
    made = factorial(study_of(space="literature", factors=(), base=base), SHAPE)
    digests = [design_digest(overlay(base, params)) for params in made.cells]
    assert len(digests) == len(set(digests)) == 10  # e5_mistral is the control here


def test_a_control_that_the_space_does_not_have_is_a_cell_nonetheless() -> None:
    base = overlay(BASE, {"attention.mask": "bidirectional"})
    made = factorial(study_of(space="pooling", factors=("pooling.token_scope",), base=base), SHAPE)
    assert [params["attention.mask"] for params in made.cells if "attention.mask" in params] == [
        "causal"
    ]
    assert len(made.cells) == 5


def test_what_cannot_be_had_is_refused_together() -> None:
    with pytest.raises(ConfigError) as raised:
        factorial(study_of(factors=("attention.mak", TWO[1]), fraction=9999), SHAPE)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("factors.attention.mak: expected one of 'attention.mask', ")
    assert lines[0].endswith("got 'attention.mak' (did you mean 'attention.mask'?)")
    assert lines[1].startswith("fraction: expected at most ")  # all of them
    assert lines[1].endswith(", the cells of the space, got 9999; leave it out for all of them")
    with pytest.raises(ConfigError, match="fraction: expected at most 12, the cells of the space"):
        factorial(study_of(fraction=13), SHAPE)


def test_settings_are_the_bases_own_and_others_spread_around_it() -> None:
    found = settings(study_of(tune=5))
    assert found[0] == {
        RATE: BASE.training.learning_rate,
        "training.head_learning_rate": BASE.training.head_learning_rate,
        TEMPERATURE: BASE.objective.temperature,
    }
    assert settings(study_of(tune=3)) == found[:3]
    for name, span in TUNED.items():
        values = [setting[name] / found[0][name] for setting in found]
        assert all(1 / span * 0.99 <= value <= span * 1.01 for value in values)
        assert min(values) < 1 < max(values)
        assert len(set(values)) == 5
    assert settings(study_of()) == ({},)


def test_what_is_tuned_and_how_far_can_be_chosen() -> None:
    given = {RATE: 10.0, "training.weight_decay": None, TEMPERATURE: None}
    found = settings(study_of(tune=9, tuned=given))
    assert list(found[0]) == list(given)
    for name, span in {RATE: 10, "training.weight_decay": 4, TEMPERATURE: 3}.items():
        values = [setting[name] / found[0][name] for setting in found]
        assert all(0.99 / span <= value <= 1.01 * span for value in values)
        assert max(values) / min(values) > span  # of the square of it
    config = study_of(tune=3, tuned={"lora.alpha": 2.0})
    made = factorial(config, SHAPE)
    runs = tuning_runs(config, made)
    assert len(runs) == 12 * 3  # every cell as often
    assert {run.params["lora.alpha"] for run in runs} == {s["lora.alpha"] for s in made.settings}
    assert not any(RATE in run.params for run in runs)
    told = factorials.describe(config, made)[-1]
    assert told == "tuned: lora.alpha up to 2 times either way"


def test_what_costs_or_cannot_be_multiplied_is_not_tuned() -> None:
    with pytest.raises(ConfigError) as raised:
        study_of(tune=3, tuned={"training.steps": 2, "lora.dropout": 2, RATE: 1})
    lines = str(raised.value).splitlines()
    assert [line.partition(": expected")[0] for line in lines] == [
        "tuned.training.steps",
        "tuned.lora.dropout",
        f"tuned.{RATE}",
    ]


def test_a_learned_temperature_starts_within_its_limit() -> None:
    learned = {"objective.learned_temperature": True, TEMPERATURE: 0.012}
    base = overlay(BASE, learned)
    for setting in settings(study_of(tune=8, base=base)):
        overlay(base, setting)


def test_every_block_has_every_cell_once_in_an_order_by_lot() -> None:
    config = study_of(tune=3, num_seeds=4)
    made = factorial(config, SHAPE)
    tuning = tuning_runs(config, made)
    runs = cell_runs(config, made, [made.settings[0]] * 12)
    for plan, count in ((tuning, 3), (runs, 4)):
        blocks = [plan[12 * n : 12 * (n + 1)] for n in range(count)]
        assert len(plan) == 12 * count
        designs = [[design_digest(trial_config(run, BASE)) for run in block] for block in blocks]
        assert all(set(block) == set(designs[0]) and len(set(block)) == 12 for block in designs)
        assert len({tuple(block) for block in designs}) == count
    assert {run.role for run in tuning} == {"tuning"}
    assert {(run.seed, run.split) for run in tuning} == {(BASE.seed, "choosing")}
    assert [run.role for run in runs].count("control") == 4
    assert [run.seed for run in runs] == [1] * 12 + [2] * 12 + [3] * 12 + [4] * 12
    assert {run.split for run in runs} == {"confirming"}
    again = factorial(config, SHAPE)
    assert tuning_runs(config, again) == tuning


def test_each_cell_is_run_at_its_own_best_setting(tmp_path: Path) -> None:
    config = study_of(tune=5, num_seeds=2)
    machine = Machine(config, tmp_path)
    assert machine.run()
    tuned = [trial for trial in machine.done if trial.role == "tuning"]
    rest = [trial for trial in machine.done if trial.role != "tuning"]
    assert (len(tuned), len(rest)) == (12 * 5, 12 * 2)
    for trial in rest:
        own = [t for t in tuned if design_digest(t.config) == design_digest(trial.config)]
        best = max(own, key=score_of)
        assert trial.config.training.learning_rate == best.config.training.learning_rate
        assert trial.config.objective.temperature == best.config.objective.temperature
    assert len({trial.config.training.learning_rate for trial in rest}) > 1


def test_a_factorial_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    config = study_of(tune=2, num_seeds=2)
    (tmp_path / "whole").mkdir()
    whole = Machine(config, tmp_path / "whole")
    assert whole.run()
    seen = []
    for patience in (5, 19, 10, 10_000):
        machine = Machine(config, tmp_path, patience)
        try:
            assert machine.run()
        except KeyboardInterrupt:
            pass
        seen += [(trial.role, trial.config) for trial in machine.done]
    expected = [(trial.role, trial.config) for trial in whole.done]
    assert sorted(seen, key=str) == sorted(expected, key=str)
    plan = json.loads((tmp_path / "cells" / "plan.json").read_text())
    assert plan == json.loads((tmp_path / "whole" / "cells" / "plan.json").read_text())


def test_without_tuning_the_cells_are_run_at_once(tmp_path: Path) -> None:
    machine = Machine(study_of(num_seeds=1), tmp_path)
    assert machine.run()
    assert len(machine.done) == 12
    assert not list((tmp_path / "tune").glob("0*"))
    rates = {trial.config.training.learning_rate for trial in machine.done}
    assert rates == {BASE.training.learning_rate}


def test_a_cell_without_a_finished_tuning_is_left_out_and_named(tmp_path: Path) -> None:
    config = study_of(tune=2, num_seeds=1)
    made = factorial(config, SHAPE)
    study = optuna.create_study(direction="maximize")
    for run in tuning_runs(config, made):
        trial = study.ask()
        trial.set_user_attr("params", run.params)
        if run.params["pooling.token_scope"] == "mean":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, 0.5)
    best = best_settings(made.cells, made.settings, study)
    assert [setting is None for setting in best] == [
        params["pooling.token_scope"] == "mean" for params in made.cells
    ]
    assert best[0] == made.settings[0]  # of equal values the first
    runs = cell_runs(config, made, best)
    assert len(runs) == 9
    assert "mean" not in {run.params["pooling.token_scope"] for run in runs}


def test_the_plan_is_told_in_a_few_lines() -> None:
    config = study_of(fraction=6, tune=4)
    lines = factorials.describe(config, factorial(config, SHAPE))
    assert lines[0] == (
        "a D-optimal fraction of 6 of 12 cells of attention.key_value_heads (3), "
        "pooling.token_scope (4)"
    )
    assert lines[1].startswith("6 of 6 effects (the mean, main effects) can be told, with a D-eff")
    few = study_of(fraction=3)
    (_, told, *_) = factorials.describe(few, factorial(few, SHAPE))
    assert told == "3 of 6 effects (the mean, main effects) can be told; all with --fraction 6"
    assert factorials.describe(study_of(), factorial(study_of(), SHAPE))[0] == (
        "all 12 cells of attention.key_value_heads (3), pooling.token_scope (4)"
    )
    assert lines[-2:] == [
        "4 settings tuned in each, then 3 seeds of each, in 3 blocks by lot",
        "tuned: training.learning_rate up to 4 times, training.head_learning_rate up to 4 times, "
        "objective.temperature up to 3 times either way",
    ]


def test_a_word_for_what_is_to_be_told_is_a_size() -> None:
    main = factorial(study_of(fraction="main"), SHAPE)
    assert len(main.cells) == 1 + 2 + 3
    pairs = factorial(study_of(fraction="pairs"), SHAPE)
    assert pairs.fraction is None  # two crossed factors: that takes all cells
    assert len(pairs.cells) == 12
    with pytest.raises(ConfigError, match=r"fraction: expected one of 'main', 'pairs', got 'few'"):
        study_of(fraction="few")
