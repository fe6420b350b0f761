"""Say what a study's results say: sentences on the terminal, and one page to keep.

    python -m analysis.report outputs/first

prints the verdict and writes `report.html` (self-contained), `report.md` and `results.csv` into
outputs/first.
The study's folder is the one that has `results/` in it; a search that still runs can be read too.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import factor_figures, figures, search_sections
from analysis.arms import choosing_rows, confirmed_arms
from analysis.factor_effects import factor_names
from analysis.markdown import markdown
from analysis.page import page
from analysis.table import (
    Results,
    TableError,
    category_scores,
    items,
    load,
    parameter_columns,
    write_csv,
)
from analysis.verdict import Verdict, reach_verdict
from analysis.wording import Finding

SHOWN = 8  # sentences of a family on a terminal; the page has all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 2 if the results cannot be read."""
    options = _parser().parse_args(arguments)
    try:
        output, sentences = write(options.study_folder, options.output)
    except TableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in [*sentences, output]:
        sys.stdout.write(f"{line}\n")
    return 0


def write(study_folder: Path, output: Path | None = None) -> tuple[Path, list[str]]:
    """Write the page, and beside it the same in Markdown and `results.csv`.

    Returns the page's path and the sentences.

    Raises:
        TableError: If the folder holds no results that can be read.
    """
    output = output or study_folder / "report.html"
    results = load(study_folder)
    verdict, more = with_plan(results, reach_verdict(results))
    output.parent.mkdir(parents=True, exist_ok=True)
    text = page(results, verdict, draw(results, verdict), more)
    output.write_text(text, encoding="utf-8")
    output.with_suffix(".md").write_text(markdown(text), encoding="utf-8")
    write_csv(results, output.with_name("results.csv"))
    families = (verdict.against_control, verdict.main_effects, verdict.against_untrained)
    said = [sentence for family in families for sentence in _shown(family)]
    return output, [*said, *verdict.notes]


def with_plan(results: Results, verdict: Verdict) -> tuple[Verdict, dict[str, str]]:
    """The verdict with what it says of the registered plan, and the page's further sections."""
    arms = confirmed_arms(results)
    evidence = items(results, [name for arm in arms for name in arm.rows.values()])
    winners = {f.category: f.winner.label for f in verdict.against_control if f.winner}
    plan, said = search_sections.plan(results, arms, {} if verdict.of_cells else winners)
    more = {
        "plan": plan,
        "ranks": search_sections.ranks(results, arms),
        "mattered": search_sections.what_mattered(results),
        "luck": search_sections.luck(results, arms, evidence),
        "noise": search_sections.noise(results),
    }
    return replace(verdict, notes=(*verdict.notes, *said)), more


def _shown(findings: Sequence[Finding]) -> list[str]:
    """The sentences of a family's first findings, and how many more there are."""
    sentences = [finding.sentence for finding in findings]
    if len(sentences) <= SHOWN:
        return sentences
    return [*sentences[:SHOWN], f"The report has {len(sentences) - SHOWN} more contrasts."]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "study_folder",
        type=Path,
        metavar="STUDY_FOLDER",
        help="the folder of one study, as in outputs/first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write the page (default: STUDY_FOLDER/report.html); "
        "results.csv goes beside it",
    )
    return parser


def draw(results: Results, verdict: Verdict) -> dict[str, tuple[str, str]]:
    """Each figure's SVG and caption, by name."""
    marks = mark(results, verdict)
    points, unscored = search_points(results, marks, _split(verdict))
    curves = results.curves[results.curves["name"].isin(marks.index)]
    curves = curves.assign(mark=curves["name"].map(marks))
    drawn = _contrasts(verdict) | _trials(results, verdict, points, unscored)
    drawn["curves"] = (
        figures.learning_curves(curves),
        "Dotted, with a hollow end: stopped early or failed, so not compared.",
    )
    if verdict.of_cells:
        drawn["interactions"] = (
            factor_figures.interaction_lines(points, factor_names(results)),
            "Mean score of the cells with two levels: lines that are not parallel are an "
            "interaction. This describes the cells and tests nothing.",
        )
    return drawn


def _contrasts(verdict: Verdict) -> dict[str, tuple[str, str]]:
    """The forests of the tested differences."""
    one = "cell" if verdict.of_cells else "winner"
    families = [
        (f"{one} against the control", verdict.against_control),
        ("winner against the best untrained", verdict.against_untrained),
    ]
    over = (
        f"all contrasts of cells; the {figures.MOST_ROWS} surest are shown."
        if verdict.of_cells
        else "the categories of its panel: each panel is a family of its own."
    )
    return {
        "forest": (
            figures.forest(families),
            f"Difference with its 95 % interval. Filled: Holm p below 0.05, corrected over {over}",
        ),
        "effects": (
            figures.forest([("main effects", verdict.main_effects)], "effects"),
            "Each level against the control's, with its 95 % interval. Filled: Holm p below 0.05, "
            f"corrected over all main effects; the {figures.MOST_ROWS} surest are shown.",
        ),
    }


def _trials(
    results: Results, verdict: Verdict, points: pd.DataFrame, unscored: int
) -> dict[str, tuple[str, str]]:
    """Scores against costs, and by the levels of parameters."""
    kind = "run of the cells" if verdict.of_cells else "search trial"
    left_out = f" Not shown: {unscored} {kind}s without all scores." if unscored else ""
    star = "winner of a category" if verdict.against_control else "best trial of the search"
    star = "cell that is better in a category" if verdict.of_cells else star
    reading = (
        "in a whole factorial, levels meet the same levels of the other factors; in a fraction, "
        "or where a factor has a meaning in some cells only, not quite."
        if verdict.of_cells
        else "parameters vary together here."
    )
    source = "cells" if verdict.of_cells else "search"
    return {
        "cost": (
            figures.cost(points),
            f"Each finished {kind} once; star: {star}; diamond: control. A line joins "
            "the trials that none of lower cost reaches. Seconds depend on what else ran at the "
            f"same time, so they have no line.{left_out}",
        ),
        "strips": (
            figures.parameter_strips(points, parameter_columns(results.trials)),
            f"Finished {kind}s by the level of each parameter, where it has a meaning; bar: "
            f"median. This describes the {source} and tests nothing: {reading}{left_out}",
        ),
    }


def mark(results: Results, verdict: Verdict) -> "pd.Series[str]":
    """What each trained search row is in the figures: control, winner or other; index name.

    Without a confirmation, the complete trial with the best mean score stands as winner. Of a
    factorial it is the cells' runs, and a winner is a cell that is better in a category.
    """
    trials = results.trials.set_index("name")
    if verdict.of_cells:
        rows = trials[trials["role"].isin(["cell", "control"])]
        marks = pd.Series("other", index=rows.index, dtype=object)
        for finding in verdict.against_control:
            if finding.winner and finding.outcome == "better":
                marks[list(finding.winner.rows.values())] = "winner"
        marks[rows["role"] == "control"] = "control"
        return marks
    rows = trials[(trials["split"] == "choosing") & (trials["role"] != "untrained")]
    marks = pd.Series("other", index=rows.index, dtype=object)
    winners = {f.winner.digest: f.winner for f in verdict.against_control if f.winner}
    for arm in winners.values():
        marks[choosing_rows(results, arm)] = "winner"
    means = category_scores(results, "choosing").mean(axis=1, skipna=False).dropna()
    means = means[means.index.isin(rows.index)]
    if not verdict.against_control and len(means):
        marks[str(means.idxmax())] = "winner"
    marks[rows["role"] == "control"] = "control"
    return marks


def _split(verdict: Verdict) -> str:
    return "confirming" if verdict.of_cells else "choosing"


def search_points(
    results: Results, marks: "pd.Series[str]", split: str = "choosing"
) -> tuple[pd.DataFrame, int]:
    """The marked trials with a score in every category of a split, and how many have none."""
    means = category_scores(results, split).mean(axis=1, skipna=False).rename("score")
    trials = results.trials.set_index("name").reindex(marks.index).assign(mark=marks)
    points = trials.join(means).dropna(subset=["score"]).reset_index()
    return points, len(marks) - len(points)


if __name__ == "__main__":
    sys.exit(main())
