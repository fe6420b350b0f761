from typing import Any

import numpy as np
import pytest

from analysis.arms import confirmed_arms
from analysis.curse import leads
from analysis.table import items, load
from tests.analysis.conftest import CONTROL, Study

CATEGORIES = ["Classification", "Retrieval"]


def of(study: Any, categories: list[str] = CATEGORIES) -> Any:
    results = load(study.folder)
    arms = confirmed_arms(results)
    evidence = items(results, [name for arm in arms for name in arm.rows.values()])
    return leads(results, arms, evidence, categories)


def test_leads_are_over_the_control_in_both_halves(filled: Any) -> None:
    results = load(filled.folder)
    found = of(filled)
    assert [(lead.category, lead.label.split(",")[0]) for lead in found] == [
        (category, mask) for category in CATEGORIES for mask in ("bidirectional", "prefix")
    ]
    scores = results.scores[results.scores["category"] == "Retrieval"]
    choosing = scores[scores["split"] == "choosing"].set_index("name")["score"]
    names = results.trials.set_index("label")["name"]
    lead = next(lead for lead in found if lead.category == "Retrieval")
    own = [name for name in names.loc[[lead.label]] if name in choosing.index]
    control = [name for name in names.loc[["causal, last, none"]] if name in choosing.index]
    assert lead.selected == pytest.approx(choosing[own].max() - choosing[control].max())
    assert lead.shrinkage == pytest.approx(lead.selected - lead.confirmed.effect)


def test_without_a_control_there_is_no_lead(filled: Any, make_study: Any) -> None:
    study = make_study()
    for path in (study.folder / "results").glob("confirm-*.json"):
        if '"role": "control"' in path.read_text():
            path.unlink()
    assert of(study) == []


def test_the_best_of_equal_designs_loses_its_lead(tmp_path: Any) -> None:
    """Twenty designs that are all as good as the control: the best one's lead is luck."""
    selected, confirmed = [], []
    for number in range(6):
        study = Study(tmp_path / str(number), seed_spread=0.02)
        study.add("search-0000", CONTROL, role="control", seed=number)
        designs = [{**CONTROL, "pooling.width": 8 * n} for n in range(1, 21)]
        for place, params in enumerate(designs):
            study.add(f"search-{place + 1:04d}", params, seed=number)
        scores = load(study.folder).scores
        retrieval = scores[scores["category"] == "Retrieval"].set_index("name")["score"]
        best = designs[int(str(retrieval.drop("search-0000").idxmax())[-4:]) - 1]
        for seed in (101, 102, 103):
            study.add(f"confirm-c{seed}", CONTROL, role="control", seed=seed, split="confirming")
            study.add(f"confirm-f{seed}", best, role="finalist", seed=seed, split="confirming")
        (lead,) = of(study, ["Retrieval"])
        selected.append(lead.selected)
        confirmed.append(lead.confirmed.effect)
    assert np.mean(selected) > 0.02
    assert abs(np.mean(confirmed)) < np.mean(selected) / 2
