"""Say what a study's results say: sentences on the terminal, and one page to keep.

    python -m analysis.report outputs/first

prints the verdict and writes `report.html` (self-contained) and `results.csv` into outputs/first.
The study's folder is the one that has `results/` in it; a search that still runs can be read too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import figures
from analysis.arms import choosing_rows
from analysis.page import page
from analysis.table import (
    Results,
    TableError,
    category_scores,
    load,
    parameter_columns,
    write_csv,
)
from analysis.verdict import Verdict, reach_verdict


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
    """Write the page and `results.csv` beside it; return the page's path and the sentences.

    Raises:
        TableError: If the folder holds no results that can be read.
    """
    output = output or study_folder / "report.html"
    results = load(study_folder)
    verdict = reach_verdict(results)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(results, verdict, draw(results, verdict)), encoding="utf-8")
    write_csv(results, output.with_name("results.csv"))
    findings = (*verdict.against_control, *verdict.against_untrained)
    return output, [*(finding.sentence for finding in findings), *verdict.notes]


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
    points, unscored = search_points(results, marks)
    curves = results.curves[results.curves["name"].isin(marks.index)]
    curves = curves.assign(mark=curves["name"].map(marks))
    families = [
        ("winner against the control", verdict.against_control),
        ("winner against the best untrained", verdict.against_untrained),
    ]
    left_out = f" Not shown: {unscored} search trials without all scores." if unscored else ""
    star = "winner of a category" if verdict.against_control else "best trial of the search"
    return {
        "forest": (
            figures.forest(families),
            "Difference with its 95 % interval. Filled: Holm p below 0.05, corrected over the "
            "categories of its panel: each panel is a family of its own.",
        ),
        "cost": (
            figures.cost(points),
            f"Each finished search trial once; star: {star}; diamond: control. A line joins "
            "the trials that none of lower cost reaches. Seconds depend on what else ran at the "
            f"same time, so they have no line.{left_out}",
        ),
        "curves": (
            figures.learning_curves(curves),
            "Dotted, with a hollow end: stopped early or failed, so not compared.",
        ),
        "strips": (
            figures.parameter_strips(points, parameter_columns(results.trials)),
            "Finished search trials by the level of each parameter, where it has a "
            "meaning; bar: median. This describes the search and tests nothing: "
            f"parameters vary together here.{left_out}",
        ),
    }


def mark(results: Results, verdict: Verdict) -> "pd.Series[str]":
    """What each trained search row is in the figures: control, winner or other; index name.

    Without a confirmation, the complete trial with the best mean score stands as winner.
    """
    trials = results.trials.set_index("name")
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


def search_points(results: Results, marks: "pd.Series[str]") -> tuple[pd.DataFrame, int]:
    """The search trials with a score in every category, and how many have none."""
    means = category_scores(results, "choosing").mean(axis=1, skipna=False).rename("score")
    trials = results.trials.set_index("name").reindex(marks.index).assign(mark=marks)
    points = trials.join(means).dropna(subset=["score"]).reset_index()
    return points, len(marks) - len(points)


if __name__ == "__main__":
    sys.exit(main())
