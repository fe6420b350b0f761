import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.report import main, mark, search_points
from analysis.table import load
from analysis.verdict import reach_verdict

Attributes = list[tuple[str, str | None]]
FETCHED = ("src", "href", "xlink:href", "data")
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Collects what a page would fetch, its ids, and whether its tags are nested well."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: Attributes) -> None:
        self.links += [value or "" for key, value in attributes if key in FETCHED]
        self.ids += [value or "" for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Attributes) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(filled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main([str(filled.folder), "--output", str(path)]) == 0
    return path


def test_the_page_has_the_sentences_and_all_trials(filled: Any, written: Path) -> None:
    text = unescape(written.read_text(encoding="utf-8"))
    results = load(filled.folder)
    verdict = reach_verdict(results)
    for finding in (*verdict.against_control, *verdict.against_untrained):
        assert finding.sentence in text
    for trial in results.trials.itertuples():
        assert f"<td>{trial.name}</td>" in text
    for word in (
        "out of memory",
        "below the median at step 60",
        "torch 2.13.0",
        "Method",
        "What is missing",
        "never compared as if they had finished",
        "What mattered",
        "Two parameters together",
        "Luck of the winners",
        "Noise floor",
    ):
        assert word in text


def test_the_page_is_self_contained_and_well_formed(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert parsed.links
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"<script|<link|@import|url\((?!#)", text)
    assert text.count("<svg") == 5
    assert 'name="viewport"' in text


def test_two_reports_are_equal_to_the_byte(filled: Any, written: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "analysis.report",
        str(filled.folder),
        "--output",
        str(tmp_path / "report.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "report.html").read_bytes() == written.read_bytes()
    assert (tmp_path / "results.csv").read_bytes() == written.with_name("results.csv").read_bytes()
    assert done.stdout.splitlines()[-1] == str(tmp_path / "report.html")
    assert "beats the control on Retrieval by" in done.stdout


def test_everything_is_escaped(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert('x')</script> & \"more\""
    study.add(
        "search-0000",
        {"attention.mask": evil, "pooling.token_scope": "last", "pooling.head": "none"},
        status="failed",
        reason=evil,
    )
    study.add(
        "search-0001",
        {"attention.mask": "$x^$_", "pooling.token_scope": "mean", "pooling.head": "none"},
    )
    study.add(
        "search-0002",
        {"attention.mask": evil, "pooling.token_scope": "mean", "pooling.head": "none"},
        versions={"<b>": "<i>"},
    )
    assert main([str(study.folder)]) == 0
    text = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


def test_without_a_confirmation_the_search_is_shown_without_p(
    make_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study()
    for path in (study.folder / "results").glob("confirm-*"):
        path.unlink()
    assert main([str(study.folder)]) == 0
    text = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "The confirmation is missing" in text
    assert "The confirmation is missing" in capsys.readouterr().out
    assert "Holm p =" not in text
    assert "<h2>Contrasts" not in text
    assert text.count("<svg") == 4
    assert (mark(load(study.folder), reach_verdict(load(study.folder))) == "winner").sum() == 1


def test_only_failures_still_make_a_page(study: Any) -> None:
    study.add(
        "search-0000",
        {"attention.mask": "causal", "pooling.token_scope": "last", "pooling.head": "none"},
        status="failed",
        curve=[],
    )
    assert main([str(study.folder)]) == 0
    text = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "out of memory" in text


def test_what_cannot_be_read_is_said_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("results: expected a folder at ")


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m analysis.report outputs/first\n" in capsys.readouterr().out


def test_stopped_trials_are_not_in_the_comparison(filled: Any) -> None:
    results = load(filled.folder)
    points, unscored = search_points(results, mark(results, reach_verdict(results)))
    assert set(points["status"]) == {"complete"}
    assert unscored == 4
    assert points["mark"].value_counts().to_dict() == {"other": 12, "winner": 1, "control": 1}


def test_a_number_with_many_values_is_drawn_as_a_number() -> None:
    generator = np.random.default_rng(0)
    points = pd.DataFrame(
        {
            "score": generator.uniform(size=30),
            "mark": "other",
            "learning_rate": pd.Series(10 ** generator.uniform(-5, -2, 30), dtype=object),
            "flag": pd.Series([True, False, None] * 10, dtype=object),
            "one": pd.Series([1] * 30, dtype=object),
        }
    )
    drawing = figures.parameter_strips(points, ["learning_rate", "flag", "one"])
    assert "learning_rate" in drawing
    assert ">True<" in drawing
    assert ">0.0001<" in drawing
    assert ">one<" not in drawing
    assert figures.parameter_strips(points, ["one"]) == ""


def test_cost_has_a_front_over_what_the_design_fixes() -> None:
    points = pd.DataFrame(
        {
            "score": [0.2, 0.4],
            "mark": "other",
            "trainable_parameters": pd.array([1000, 3000], dtype="Int64"),
            "flops_per_token": [4e7, 5e7],
            "seconds": [9.0, 5.0],
        }
    )
    drawing = figures.cost(points)
    for title in ("trainable parameters", "FLOPs per token, forward", "training seconds"):
        assert f">{title}<" in drawing
    assert drawing.count("best for its cost") == 1  # in the one legend


def test_a_cost_that_no_trial_knows_has_no_panel() -> None:
    unknown = pd.array([None, None], dtype="Int64")
    points = pd.DataFrame(
        {
            "score": [0.2, 0.4],
            "mark": "other",
            "trainable_parameters": unknown,
            "flops_per_token": [float("nan")] * 2,
            "seconds": [9.0, 5.0],
        }
    )
    drawing = figures.cost(points)
    assert ">training seconds<" in drawing
    assert "parameters" not in drawing
    assert "FLOPs" not in drawing


def test_the_method_says_what_an_interval_covers(written: Path) -> None:
    text = unescape(written.read_text(encoding="utf-8"))
    for words in (
        "other training seeds and other items (queries, test texts, sets, documents) of the same",
        "not cover other tasks, another corpus, other few-shot fits of the classifier (their seed "
        "is fixed for all designs) or other k-means seeds",
        "each of two families: the winner against the control in each category and on the mean",
        "the best of the untrained models that were run, no more",
    ):
        assert words in text
