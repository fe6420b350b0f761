"""Compare every pair of models over the tasks that both were scored on.

    python -m analysis.compare --scores scores.csv
    python -m analysis.compare --scores scores.csv --models A B C --category Retrieval
    python -m analysis.compare --scores results --format html > pairs.html
    python -m analysis.compare --scores mlflow:poolsearch --tracking-uri http://localhost:5000

The CSV has the columns model, category, task, score and perhaps seed, a row for each. In every
category, and in all of them together, each pair gets Wilcoxon's signed-rank test over tasks, exact
with ties and zeros; the p values of a category's pairs are corrected together.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import get_args

import pandas as pd

from analysis.inference.corrections import Correction
from analysis.inference.signed_rank import Zeros
from analysis.markup import table
from analysis.pairs import KEYS, compare_pairs
from analysis.score_sources import read_scores
from analysis.scores import ScoresError, choose
from analysis.wording import format_p

HEADS = (
    *("A", "B", "Category", "Tasks", "A - B", "95 % interval", "W", "p", "p adjusted"),
    *("Rank-biserial", "Won", "Lost", "Tied", "Note"),
)
NUMBERS = tuple(range(3, 13))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 2 if the scores cannot be compared."""
    given = _parser().parse_args(arguments)
    try:
        scores = read_scores(given.scores, given.tracking_uri, given.models, given.category)
        models = choose(scores, given.models, given.category)
    except ScoresError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    found = compare_pairs(
        scores,
        models,
        given.category,
        correction=given.correction,
        zeros=given.zeros,
        related=given.related,
    )
    sys.stdout.write({"table": as_text, "json": as_json, "html": as_html}[given.format](found))
    return 0


def as_json(found: pd.DataFrame) -> str:
    """A list of objects with the keys `KEYS`; null where there is no number."""
    columns = [
        [None if isinstance(v, float) and not math.isfinite(v) else v for v in found[key].tolist()]
        for key in KEYS
    ]
    rows = [dict(zip(KEYS, row, strict=True)) for row in zip(*columns, strict=True)]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(found: pd.DataFrame) -> str:
    """Columns of equal width."""
    rows = [HEADS, *_rows(found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if at in NUMBERS else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def as_html(found: pd.DataFrame) -> str:
    """One page; nothing fetched, every name escaped."""
    style = files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    body = table(HEADS, _rows(found), numbers=NUMBERS, texts=(0, 1, 13))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Pairs of models</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<h1>Pairs of models</h1>\n{body}</body>\n</html>\n"
    )


def _rows(found: pd.DataFrame) -> list[list[str]]:
    return [
        [
            row["a"],
            row["b"],
            row["category"],
            str(row["n"]),
            _number(row["mean_difference"], "+.4g"),
            _interval(row["ci_low"], row["ci_high"]),
            _number(row["statistic"], "g"),
            _p(row["p"]),
            _p(row["p_adjusted"]),
            _number(row["effect_rank_biserial"], "+.2f"),
            *(str(row[key]) for key in ("wins", "losses", "ties")),
            row["note"],
        ]
        for row in found.to_dict("records")
    ]


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else ""


def _interval(low: float, high: float) -> str:
    return f"[{low:+.4g}, {high:+.4g}]" if math.isfinite(low) and math.isfinite(high) else ""


def _p(p: float) -> str:
    return format_p(p).removeprefix("= ") if math.isfinite(p) else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--scores",
        required=True,
        metavar="SOURCE",
        help="a CSV file; a folder of mteb's results, MODEL/REVISION/TASK.json; the folder of a "
        "study; or mlflow:EXPERIMENT, whose runs have metrics named CATEGORY.TASK",
    )
    add("--models", nargs="+", default=[], metavar="MODEL", help="those to compare (default: all)")
    add("--category", metavar="NAME", help="only this one; 'all' for the pooled comparison alone")
    add(
        "--correction",
        choices=get_args(Correction),
        default="holm",
        help="of the p values of a category's pairs: holm for claims (default), bh (Benjamini and "
        "Hochberg) for exploration",
    )
    add(
        "--zeros",
        choices=get_args(Zeros),
        default="wilcox",
        help="differences of zero: left out (wilcox, the default), or ranked first (pratt)",
    )
    add(
        "--related",
        action="store_true",
        help="count tasks of one source once: STS12 to STS16, CQADupstack*",
    )
    add("--format", choices=("table", "json", "html"), default="table")
    add("--tracking-uri", metavar="URI", help="of MLflow (default: its own setting)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
