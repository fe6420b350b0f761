"""Of a factorial: every cell against the control, in one family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
    assert sentences[9].startswith("Of 20 contrasts of cells with the control (5 of them), ")
    assert len(sentences) == 10


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
