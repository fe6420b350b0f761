import json
from dataclasses import replace
from typing import Any

import pytest

from analysis.arms import EVERYWHERE, confirmed_arms
from analysis.registration import (
    FILE,
    Design,
    Registration,
    deviations,
    make,
    read,
    sentences,
    summary,
    write,
)
from analysis.table import load
from tests.analysis.conftest import BETTER, CATEGORIES, CONTROL, identity, label, variants

TASKS = {category: [f"{category}Confirming"] for category in CATEGORIES}
SEEDS = (101, 102, 103)


def design(role: str, params: dict[str, Any]) -> Design:
    return Design(role=role, label=label(params), design=identity(params), digest=identity(params))


DESIGNS = [
    design("control", CONTROL),
    design("finalist", BETTER),
    design("finalist", variants()[14]),
]


@pytest.fixture
def plan(filled: Any) -> Registration:
    return make(load(filled.folder), DESIGNS, SEEDS, TASKS, 0.01)


def found(plan: Registration, folder: Any, **winners: str) -> list[str]:
    results = load(folder)
    return deviations(plan, plan.sha256, results, confirmed_arms(results), winners)


def test_winners_are_known_before_anything_is_confirmed(filled: Any, make_study: Any) -> None:
    study = make_study()
    for path in (study.folder / "results").glob("confirm-*"):
        path.unlink()
    before = make(load(study.folder), DESIGNS, SEEDS, TASKS, 0.01)
    assert before == make(load(filled.folder), DESIGNS, SEEDS, TASKS, 0.01)
    assert before.winners["Retrieval"] == label(BETTER)
    assert set(before.outlook) == {*CATEGORIES, EVERYWHERE}


def test_the_outlook_has_more_power_for_more(plan: Registration, filled: Any) -> None:
    results = load(filled.folder)
    more = make(results, DESIGNS, range(8), TASKS, 0.01)
    larger = make(results, DESIGNS, SEEDS, TASKS, 0.03)
    for category, outlook in plan.outlook.items():
        assert 0 < outlook.power_with_seeds < outlook.power <= 1
        assert outlook.power_with_seeds < more.outlook[category].power_with_seeds
        assert outlook.power < larger.outlook[category].power
        assert more.outlook[category].detectable < outlook.detectable
    assert plan.outlook["Retrieval"].num_items == 80


def test_a_plan_is_read_as_it_was_written(plan: Registration, tmp_path: Any) -> None:
    assert read(tmp_path) is None
    write(plan, tmp_path)
    assert read(tmp_path) == (plan, plan.sha256)


def test_a_plan_that_was_changed_is_told(plan: Registration, tmp_path: Any, filled: Any) -> None:
    write(plan, tmp_path)
    kept = json.loads((tmp_path / FILE).read_text())
    kept["plan"]["smallest_effect"] = 0.001
    (tmp_path / FILE).write_text(json.dumps(kept))
    changed, sha256 = read(tmp_path) or (plan, "")
    results = load(filled.folder)
    said = deviations(changed, sha256, results, confirmed_arms(results), {})
    assert said == ["The plan was changed after it was written: its hash is another one."]


def test_results_that_follow_the_plan_have_no_deviation(plan: Registration, filled: Any) -> None:
    assert found(plan, filled.folder, **plan.winners) == []


def test_every_deviation_is_said(plan: Registration, filled: Any) -> None:
    other = replace(plan, seeds=(101, 102, 104))
    assert found(other, filled.folder)[:2] == [
        f"{label(CONTROL)} has no complete run of the seeds 104.",
        f"{label(CONTROL)} was run with seeds beyond the plan: [103].",
    ]
    fewer = replace(plan, designs=plan.designs[:2])
    assert found(fewer, filled.folder) == [f"{label(variants()[14])} was not planned."]
    tasks = {**plan.tasks, "STS": ("SICK-R",)}
    assert found(replace(plan, tasks=tasks), filled.folder) == [
        "On STS, nothing has a score on SICK-R.",
        "STSConfirming (STS) was not planned.",
    ]
    assert found(plan, filled.folder, STS="another") == [
        f"On STS, {plan.winners['STS']} was to be tested, not another."
    ]


def test_a_plan_has_a_line_for_the_console(plan: Registration) -> None:
    said = summary(plan)
    assert said.startswith("2 finalists and the control, 3 seeds each; 80 % power for ")
    assert f"{100 * plan.outlook['STS'].detectable:.1f} on STS" in said


def test_the_sentences_name_what_is_run_and_tested(plan: Registration) -> None:
    first, tested, *rest = sentences(plan)
    assert first == (
        f"Confirm {label(BETTER)}; {label(variants()[14])} against the control "
        f"({label(CONTROL)}), seeds 101, 102, 103."
    )
    assert "Holm, within each family, at 0.05" in tested
    assert any(line.startswith("Retrieval (RetrievalConfirming): bidirectional") for line in rest)
    assert all("a difference of 1 point is seen" in line for line in rest)
