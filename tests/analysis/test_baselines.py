from collections.abc import Callable
from typing import Any

from analysis.report import write
from analysis.table import load
from analysis.verdict import reach_verdict
from tests.analysis.conftest import BETTER, Study


def add_baseline(study: Study, name: str, split: str = "confirming", **changes: Any) -> None:
    params = {**BETTER, "pooling.width": 999}
    study.add(name, params, role="baseline", split=split, **changes)


def test_a_baseline_is_shown_and_changes_no_verdict(make_study: Callable[..., Study]) -> None:
    study = make_study()
    before = reach_verdict(load(study.folder))
    page_before = write(study.folder)[0].read_text()
    add_baseline(study, "baseline-a")
    add_baseline(
        study,
        "baseline-b",
        label="somebody/model",
        scores={"Other": 0.9, "STSConfirming": 0.5},
        categories={"Other": "Pairs", "STSConfirming": "STS"},
    )
    assert reach_verdict(load(study.folder)) == before
    page = write(study.folder)[0].read_text()
    assert "Baselines" not in page_before
    section = page[page.index("<h2>Baselines</h2>") :]
    section = section[: section.index("</section>")]
    assert "somebody/model" in section
    assert "ClassificationConfirming, ClusteringConfirming, RetrievalConfirming" in section
    assert "control: causal, last, none" in section
    assert "Pairs" not in section
    assert (
        page.replace(
            page[page.index("<section>\n<h2>Baselines") : page.index("<section>\n<h2>Score")], ""
        )
        == page_before
    )


def test_baselines_alone_can_be_reported(study: Study) -> None:
    add_baseline(study, "baseline-a", split="choosing")
    output, sentences = write(study.folder)
    assert "baseline-a" not in "".join(sentences)
    assert "<h2>Baselines</h2>" in output.read_text()
