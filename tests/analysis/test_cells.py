"""Of a factorial: every cell against the control, in one family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.arms import EVERYWHERE
from analysis.inference.corrections import holm
from analysis.report import write
from analysis.table import load
from analysis.verdict import reach_verdict
from tests.analysis.conftest import BETTER, CATEGORIES, CONTROL, Study, identity, variants


@pytest.fixture
def cells(tmp_path: Path) -> Study:
    """A factorial of the control and five cells over three seeds, one of them better."""
    study = Study(tmp_path / "ablation", {identity(BETTER): dict.fromkeys(CATEGORIES, 0.08)})
    others = [params for params in variants() if params not in (CONTROL, BETTER)][:4]
    designs: list[dict[str, Any]] = [CONTROL, BETTER, *others]
    for seed in (1, 2, 3):
        for number, params in enumerate(designs):
            role = "control" if params == CONTROL else "cell"
            name = f"cells-{10 * seed + number:04d}"
            study.add(name, params, role=role, seed=seed, split="confirming")
    for number, params in enumerate(designs[:2]):
        study.add(f"tune-{number:04d}", params, role="tuning")
    return study


def test_every_cell_meets_the_control_in_every_category_in_one_family(cells: Study) -> None:
    verdict = reach_verdict(load(cells.folder))
    found = verdict.against_control
    assert len(found) == 5 * len(CATEGORIES)
    assert {f.baseline.role for f in found if f.baseline} == {"control"}
    assert [f.holm_p for f in found] == holm([f.contrast.p for f in found if f.contrast]).tolist()
    assert verdict.against_untrained == ()


def test_the_surest_come_first_and_only_they_are_said_on_a_terminal(cells: Study) -> None:
    _, sentences = write(cells.folder)
    assert sentences[0].startswith(
        "bidirectional, mean, cross_attention(layers 4, width 256) beats the control on "
    )
    assert sentences[8] == "The report has 12 more contrasts."
    assert "attention.mask" in sentences[9] or "pooling." in sentences[9]
    assert sentences[-1].startswith("Of 20 contrasts of cells with the control (5 of them), ")


def test_the_page_speaks_of_cells_and_draws_their_runs(cells: Study) -> None:
    file, _ = write(cells.folder)
    page = file.read_text()
    assert "Cell against the control" in page
    assert "Winner" not in page
    assert "Each finished run of the cells once; star: cell that is better in a category" in page
    assert page.count("cross_attention(layers 4, width 256) beats the control") >= 1


def test_a_control_that_has_no_run_leaves_nothing_to_test(cells: Study) -> None:
    for path in (cells.folder / "results").glob("cells-*0.json"):
        path.unlink()
    verdict: Any = reach_verdict(load(cells.folder))
    assert {f.why_not for f in verdict.against_control} == {"the control has no complete run"}


MASKS, SCOPES = ("causal", "bidirectional", "prefix"), ("last", "mean")


@pytest.fixture
def crossed(tmp_path: Path) -> Study:
    """A whole factorial of mask and scope, tuned, in which the mask matters and nothing else."""
    study = Study(tmp_path / "crossed", seed_spread=0.001)
    designs = [
        {
            "attention.mask": mask,
            "pooling.token_scope": scope,
            "pooling.head": "none",
            "training.learning_rate": 1e-5 * (1 + len(mask) + len(scope)),
        }
        for mask in MASKS
        for scope in SCOPES
    ]
    for design in designs:
        gain = 0.05 * (design["attention.mask"] == "bidirectional")
        study.effects[identity(design)] = dict.fromkeys(CATEGORIES, gain)
    for seed in (1, 2, 3, 4):
        for number, design in enumerate(designs):
            role = "cell" if number else "control"
            name = f"cells-{10 * seed + number:04d}"
            study.add(name, design, role=role, seed=seed, split="confirming")
    study.add("tune-0000", designs[0], role="tuning")
    return study


def test_the_factors_that_matter_are_found(crossed: Study) -> None:
    verdict = reach_verdict(load(crossed.folder))
    kinds = (*sorted(CATEGORIES), EVERYWHERE)
    assert len(verdict.main_effects) == 3 * len(kinds)  # two masks and a scope, no learning rate
    assert len(verdict.interactions) == 2 * len(kinds)
    best = {f.category: f for f in verdict.main_effects if f.outcome == "better"}
    assert EVERYWHERE in best
    assert {f.winner.label for f in best.values() if f.winner} == {"attention.mask bidirectional"}
    for finding in (best["Retrieval"], best["Classification"]):
        contrast = finding.contrast
        assert contrast
        assert contrast.low < 0.05 < contrast.high
    assert {f.outcome for f in verdict.interactions} == {"open"}
    p = [f.contrast.p for f in verdict.main_effects if f.contrast]
    assert [f.holm_p for f in verdict.main_effects] == pytest.approx(holm(p).tolist())


def test_a_main_effect_is_the_mean_of_the_cells_own_differences(crossed: Study) -> None:
    results = load(crossed.folder)
    cells = results.scores.merge(results.trials[["name", "attention.mask"]], on="name")
    means = cells[cells["category"] == "Retrieval"].groupby("attention.mask")["score"].mean()
    finding = next(
        f
        for f in reach_verdict(results).main_effects
        if f.category == "Retrieval" and f.winner and f.winner.label.endswith("prefix")
    )
    assert finding.contrast
    confirmed = cells[(cells["split"] == "confirming") & (cells["category"] == "Retrieval")]
    means = confirmed.groupby("attention.mask")["score"].mean()
    assert finding.contrast.effect == pytest.approx(means["prefix"] - means["causal"])


def test_the_page_shows_factors(crossed: Study) -> None:
    file, sentences = write(crossed.folder)
    page = file.read_text()
    assert "Main effects: a level against the control" in page
    assert "Interactions: two levels together" in page
    assert 'aria-label="Mean score by the levels of two factors"' in page
    assert any(
        s.startswith("attention.mask bidirectional beats attention.mask causal") for s in sentences
    )
