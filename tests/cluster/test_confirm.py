from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from cluster.acts import confirm
from cluster.settings import StudyConfig
from cluster.study.ledger import Ledger
from cluster.study.storage import journal
from search_spaces.drawing import CONTROL
from trainables.identity import design_digest
from trainables.overlay import overlay

RATE = "training.learning_rate"
MEAN = {**CONTROL, "pooling.token_scope": "mean"}
BOTH = {**MEAN, "attention.mask": "bidirectional"}
LAST = {**CONTROL, "attention.mask": "bidirectional"}


def row(trial: str, params: dict[str, Any], status: str = "complete", **scores: float) -> Any:
    return {
        "trial": trial,
        "role": "control" if params == CONTROL else "search",
        "status": status,
        "params": params,
        "scores": scores,
        "categories": {"sts": "STS", "retrieval": "Retrieval", "classes": "Classification"},
    }


ROWS = [
    row("0", CONTROL, sts=0.9, retrieval=0.9, classes=0.9),
    row("1", MEAN, sts=0.5, retrieval=0.6, classes=0.5),
    row("2", BOTH, sts=0.7, retrieval=0.4, classes=0.3),
    row("3", LAST, sts=0.6, retrieval=0.5, classes=0.4),
    row("4", LAST, status="pruned"),
]


def test_the_best_overall_comes_first_then_winners_of_categories() -> None:
    assert confirm.finalists(ROWS, 2) == [MEAN, BOTH]
    assert confirm.finalists(ROWS, 9) == [MEAN, BOTH, LAST]


def test_control_and_unfinished_trials_are_no_finalists() -> None:
    assert confirm.finalists([ROWS[0], ROWS[4]], 2) == []


def test_with_several_objectives_the_front_comes_first() -> None:
    sizes = {"1": 64, "2": 64, "3": 32, "4": 8, "5": 16}
    rows = [
        ROWS[0] | {"embedding_size": 1},
        row("1", MEAN, sts=0.6, retrieval=0.6, classes=0.6),
        row("2", BOTH, sts=0.7, retrieval=0.7, classes=0.7),  # better than 1, and as small
        row("3", LAST, sts=0.5, retrieval=0.5, classes=0.5),
        row("4", LAST, status="pruned"),
        row("5", MEAN, sts=0.4, retrieval=0.4, classes=0.4),
    ]
    rows = [each | {"embedding_size": sizes.get(each["trial"], 1)} for each in rows]
    both = ("score", "embedding_size")
    ranked = [each["trial"] for each in confirm.by_front([rows[n] for n in (1, 2, 3, 5)], both)]
    assert ranked == ["2", "3", "5", "1"]
    assert confirm.finalists(rows, 3, both) == [BOTH, LAST, MEAN]
    assert confirm.finalists(rows, 2) == [BOTH, MEAN]
    config = StudyConfig(num_finalists=2, num_seeds=1, objectives=both, pruner="none")
    chosen = [run.params for run in confirm.plan(config, rows) if run.role == "finalist"]
    assert chosen == [BOTH, LAST]


def test_the_front_is_that_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    names = ("score", "embedding_size", "flops_per_token")
    table = [
        row(str(n), MEAN, sts=float(s)) | {"embedding_size": int(a), "flops_per_token": int(b)}
        for n, (s, a, b) in enumerate(rng.integers(1, 6, size=(40, 3)))
    ]
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for each in table:
        values = [each["scores"]["sts"], each["embedding_size"], each["flops_per_token"]]
        study.add_trial(optuna.trial.create_trial(values=values))
    front = {str(trial.number) for trial in study.best_trials}
    ranked = [each["trial"] for each in confirm.by_front(table, names)]
    assert set(ranked[: len(front)]) == front
    assert sorted(ranked, key=int) == [each["trial"] for each in table]


def test_the_plan_pairs_fresh_seeds_and_adds_untrained_models() -> None:
    config = StudyConfig(num_seeds=2, num_finalists=1)
    runs = confirm.plan(config, ROWS)
    trained = [(run.role, run.params, run.seed) for run in runs if run.role != "untrained"]
    assert trained == [
        ("control", CONTROL, 1),
        ("finalist", MEAN, 1),
        ("control", CONTROL, 2),
        ("finalist", MEAN, 2),
    ]
    assert config.base.seed not in {run.seed for run in runs if run.role != "untrained"}
    untrained = [run for run in runs if run.role == "untrained"]
    assert [run.params for run in untrained] == [CONTROL, MEAN]
    assert {run.steps for run in untrained} == {0}
    assert {run.steps for run in runs if run.role != "untrained"} == {config.base.training.steps}


def test_each_finalist_has_its_own_untrained_self() -> None:
    runs = confirm.plan(StudyConfig(num_finalists=3), ROWS)
    untrained = [run.params for run in runs if run.role == "untrained"]
    assert untrained == [CONTROL, MEAN, BOTH, LAST]


def test_an_untrained_model_is_not_adapted_either() -> None:
    adapted = {**BOTH, "adaptation.kind": "mntp"}
    rows = [row("1", adapted, sts=0.7, retrieval=0.6, classes=0.5)]
    runs = confirm.plan(StudyConfig(), rows)
    assert {run.params["adaptation.kind"] for run in runs if run.role == "untrained"} == {"none"}
    assert adapted in [run.params for run in runs if run.role == "finalist"]


def test_one_untrained_design_in_two_spellings_is_run_once() -> None:
    longer = {**MEAN, "attention.window": 4}  # which a causal mask does not read
    rows = [row("1", longer, sts=0.7, retrieval=0.6, classes=0.5)]
    runs = confirm.plan(StudyConfig(), rows)
    assert [run.params for run in runs if run.role == "untrained"] == [CONTROL, MEAN]


def test_every_run_is_scored_on_the_confirming_half() -> None:
    config = StudyConfig()
    for run in confirm.plan(config, ROWS):
        made = confirm.trial_config(run, config.base)
        assert made.evaluation.split == "confirming"
        assert design_digest(made) == design_digest(overlay(config.base, run.params))


def test_a_kept_plan_is_not_changed_by_later_rows(tmp_path: Path) -> None:
    config = StudyConfig(num_seeds=1, num_finalists=1)
    first = confirm.kept_plan(config, ROWS, tmp_path)
    later = [*ROWS, row("5", LAST, sts=0.99, retrieval=0.99, classes=0.99)]
    assert confirm.kept_plan(config, later, tmp_path) == first


def test_runs_are_proposed_once_each_in_order() -> None:
    config = StudyConfig(num_seeds=2, num_finalists=1)
    runs = confirm.plan(config, ROWS)
    proposer = confirm.Proposer(runs, config.base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposer.enqueue(study)
    proposer.enqueue(study)
    proposals = [proposer(study.ask()) for _ in runs]
    assert [(p.role, p.config.seed) for p in proposals] == [(r.role, r.seed) for r in runs]


def test_a_run_shows_its_design_to_people(tmp_path: Path) -> None:
    config = StudyConfig(num_seeds=2, num_finalists=1)
    runs = confirm.plan(config, ROWS)
    runs = [replace(run, params={**run.params, RATE: 1e-3}) for run in runs]
    proposer = confirm.Proposer(runs, config.base)
    study = optuna.create_study(storage=journal(tmp_path), study_name="s-confirm")
    proposer.enqueue(study)
    ledger = Ledger(study, proposer, num_trials=len(runs), folder=tmp_path, observers=[])
    for _ in runs:
        assert ledger.next_trial() is not None
    for trial, run in zip(study.trials, runs, strict=True):
        shown = {name: value for name, value in run.params.items() if value is not None}
        assert trial.params.items() >= (shown | {"role": run.role, "seed": run.seed}).items()
        assert trial.user_attrs["label"].startswith("causal, ")
    again = confirm.Proposer(runs, config.base)
    again.enqueue(study)  # nothing twice
    assert len(study.trials) == len(runs)
