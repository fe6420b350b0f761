from typing import Any

import numpy as np

from analysis import registration
from analysis.arms import confirmed_arms
from analysis.report import main, with_plan
from analysis.search_figures import critical_difference
from analysis.search_sections import noise, plan, ranks, what_mattered
from analysis.table import load
from analysis.verdict import reach_verdict
from tests.analysis.conftest import CONTROL, Study, identity
from tests.analysis.test_registration import DESIGNS, SEEDS, TASKS


def test_a_page_says_whether_the_results_follow_the_plan(make_study: Any) -> None:
    study = make_study()
    results = load(study.folder)
    assert plan(results, confirmed_arms(results), {}) == ("", [])
    kept = registration.make(results, DESIGNS, SEEDS, TASKS, 0.01)
    registration.write(kept, study.folder)
    verdict, more = with_plan(results, reach_verdict(results))
    assert "the results follow it" in verdict.notes[-1]
    assert kept.sha256 in more["plan"]
    other = registration.make(results, DESIGNS, (101, 102, 109), TASKS, 0.01)
    registration.write(other, study.folder)
    verdict, _ = with_plan(results, reach_verdict(results))
    said = [note for note in verdict.notes if note.startswith("Not as planned: ")]
    assert any("no complete run of the seeds 109" in note for note in said)
    assert main([str(study.folder)]) == 0
    text = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Plan</h2>" in text
    assert "Not as planned: " in text


def test_the_noise_floor_is_the_pooled_spread_of_seeds(study: Study) -> None:
    other = {**CONTROL, "pooling.token_scope": "mean"}
    for seed in (1, 2, 3):
        study.add(f"confirm-c{seed}", CONTROL, role="control", seed=seed, split="confirming")
        study.add(f"confirm-f{seed}", other, role="finalist", seed=seed, split="confirming")
    results = load(study.folder)
    scores = results.scores[results.scores["category"] == "Retrieval"]
    variances = [
        scores[scores["digest"] == identity(params)]["score"].var(ddof=1)
        for params in (CONTROL, other)
    ]
    expected = 100 * float(np.mean(variances)) ** 0.5
    assert f'<td>Retrieval</td><td class="number">{expected:.2f}</td>' in noise(results)


def test_too_few_trials_have_no_importance(study: Study) -> None:
    study.add("search-0000", CONTROL, role="control")
    assert what_mattered(load(study.folder)) == ""


def test_ranks_need_tasks(filled: Any) -> None:
    results = load(filled.folder)
    assert ranks(results, confirmed_arms(results)) == ""  # four tasks


def test_bars_join_what_is_not_told_apart() -> None:
    p = np.array([[1, 0.5, 0.01], [0.5, 1, 0.4], [0.01, 0.4, 1]])
    drawn = critical_difference(["one", "two", "three"], np.array([1.0, 2.0, 3.0]), p)
    assert all(f"  {name}  " in drawn or name in drawn for name in ("one", "two", "three"))
    assert drawn.startswith('<svg role="img"')
