from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from cluster.acts import confirm
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL
from trainables.identity import design_digest
from trainables.overlay import overlay

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
