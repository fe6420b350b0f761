"""Learn which few tasks rank models as all tasks do, and say how well they rank new models.

The table of scores has a row for each model and task: model,category,task,score. A study's folder
does as well: its finished trials are the models then. What is reported is held out: the tasks were
learned from other models than those that they are judged by.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from analysis import held_out, subsets
from analysis.arrays import FloatArray, IntArray
from analysis.proxy_wording import Findings, Learned, as_dict, draw, sentences
from analysis.score_table import (
    ScoreTable,
    aliases,
    owners,
    read,
    read_costs,
)
from analysis.scores import ScoresError

EXAMPLES = """examples:
  python -m analysis.proxy --scores scores.csv --tasks 5 --output outputs/proxy
  python -m analysis.proxy --scores scores.csv --budget 600 --costs seconds.csv --cover STS
      at most ten minutes, and a task of STS among them; seconds.csv has rows of task,seconds
  python -m analysis.proxy --scores outputs/first --tasks 3 --of categories
      from the finished trials of a search, whose score is the mean over categories
"""
MOST_TASKS = 5  # without --tasks and --budget
FEWEST = 10  # models to learn from, aliases counted once
NUM_RANDOM = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 2 if nothing can be learned."""
    options = _parser().parse_args(arguments)
    try:
        findings = learn(options)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in sentences(findings):
        sys.stdout.write(f"{line}\n")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        written = options.output / "proxy.json"
        written.write_text(json.dumps(as_dict(findings), indent=1) + "\n", encoding="utf-8")
        written.with_suffix(".svg").write_text(draw(findings), encoding="utf-8")
        sys.stdout.write(f"{written}\n")
    return 0


def learn(options: argparse.Namespace) -> Findings:
    """Learn the suites that the options ask for.

    Raises:
        ScoresError: If the scores or the costs cannot be read, or are too few.
        ValueError: If no set of tasks is within the limits.
    """
    table = read(options.scores, missing=options.missing)
    groups = aliases(table.scores)
    together = owners(table.models, groups) if options.owners else groups
    _check(options, table, together)
    target = table.full_mean(options.of)
    table = table.only(options.among) if options.among else table
    limits = _limits(options, table)
    best = target >= np.sort(target)[-(options.best or max(3, len(target) // 3))]
    kinds = np.unique(table.categories, return_inverse=True)[1]
    families = held_out.rules(kinds)
    search = _search(options.search, options.width, len(table.tasks), limits)
    held = held_out.hold_out(
        table.scores,
        target,
        together,
        search,
        families,
        repeats=options.repeats,
        num_folds=options.folds,
        seed=options.seed,
    )
    generator = np.random.default_rng(options.seed)
    suites = held_out.learn(table.scores, target, together, search, families, generator)
    everyone = np.ones(len(target), dtype=bool)
    correlate = partial(held_out.correlate, target=target, groups=together, wanted=options.wanted)
    learned = {
        name: Learned(
            suite=suites[name],
            held_out=found,
            among_all=correlate(found.predicted, among=everyone),
            among_best=correlate(found.predicted, among=best),
        )
        for name, found in held.items()
    }
    return Findings(
        table=table,
        target=target,
        groups=groups,
        learned=learned,
        limits=limits,
        wanted=options.wanted,
        random=_random(table, target, len(suites[held_out.CHOSEN].tasks), generator),
        searches=_compare(options, table, target, together, limits) if options.compare else {},
        settings={
            name: getattr(options, name)
            for name in ("of", "missing", "owners", "repeats", "folds", "seed", "search", "width")
        },
    )


def _check(options: argparse.Namespace, table: ScoreTable, groups: IntArray) -> None:
    """Refuse what is too little to learn from."""
    number, faults = len(np.unique(groups)), []
    what = "owners of models" if options.owners else "different models"
    if number < FEWEST:
        faults.append(f"--scores: expected at least {FEWEST} {what}, got {number}")
    if not np.ptp(table.full_mean(options.of)):
        faults.append("--scores: expected models that differ, got equal means")
    if not 2 <= options.folds <= number:
        faults.append(f"--folds: expected 2 to {number}, got {options.folds}")
    if options.repeats < 1:
        faults.append(f"--repeats: expected at least 1, got {options.repeats}")
    if options.width < 1:
        faults.append(f"--width: expected at least 1, got {options.width}")
    if not 0 < options.wanted < 1:
        faults.append(f"--wanted: expected above 0 and below 1, got {options.wanted}")
    if options.best is not None and not 3 <= options.best <= len(table.models):
        faults.append(f"--best: expected 3 to {len(table.models)}, got {options.best}")
    if faults:
        raise ScoresError("\n".join(faults))


def _limits(options: argparse.Namespace, table: ScoreTable) -> subsets.Limits:
    """Return what a set may be; every fault of the options in one message."""
    kinds, most = np.array(table.categories), len(table.tasks)
    faults = [
        f"--cover: expected one of {', '.join(sorted(set(kinds)))}, got {name}"
        for name in options.cover
        if name not in kinds
    ]
    if (options.budget is None) != (options.costs is None):
        faults.append("--budget and --costs: expected both or none, got one of them")
    if options.tasks is not None and not 1 <= options.tasks <= most:
        faults.append(f"--tasks: expected 1 to {most}, got {options.tasks}")
    if faults:
        raise ScoresError("\n".join(faults))
    usual = most if options.budget is not None else min(MOST_TASKS, most)
    limits = subsets.Limits(
        num_tasks=options.tasks or usual,
        costs=read_costs(options.costs, table.tasks) if options.costs else None,
        budget=math.inf if options.budget is None else options.budget,
        cover=tuple(np.flatnonzero(kinds == name) for name in dict.fromkeys(options.cover)),
    )
    if not limits.lead_on(()):
        raise ScoresError(
            f"--cover: expected categories that {limits.num_tasks} tasks can cover"
            f"{' in ' + format(limits.budget, 'g') + ' seconds' if options.costs else ''}, "
            f"got {', '.join(options.cover)}"
        )
    return limits


def _search(name: str, width: int, num_all: int, limits: subsets.Limits) -> held_out.Search:
    if name == "exhaustive":
        return lambda score: subsets.exhaustive(score, num_all, limits)
    kept = 1 if name == "greedy" else width
    return lambda score: subsets.beam(score, num_all, limits, kept)


def _compare(
    options: argparse.Namespace,
    table: ScoreTable,
    target: FloatArray,
    groups: IntArray,
    limits: subsets.Limits,
) -> dict[str, dict[str, held_out.Correlation]]:
    """Return the held-out correlation of each search and rule, on the same splits."""
    everyone = np.ones(len(target), dtype=bool)
    found: dict[str, dict[str, held_out.Correlation]] = {}
    for rule in (subsets.Rule(name="mean"), subsets.Rule(name="fitted", strength=0.1)):
        for name in ("greedy", "beam", "exhaustive"):
            held = held_out.hold_out(
                table.scores,
                target,
                groups,
                _search(name, options.width, len(table.tasks), limits),
                {rule.name: (rule,)},
                repeats=options.repeats,
                num_folds=options.folds,
                seed=options.seed,
            )
            found.setdefault(rule.name, {})[name] = held_out.correlate(
                held[rule.name].predicted, target, groups, everyone, options.wanted
            )
    return found


def _random(
    table: ScoreTable, target: FloatArray, size: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Return the 5, 50 and 95 % quantiles of the plain mean's correlation over sets by lot."""
    found = []
    for _ in range(NUM_RANDOM):
        tasks = generator.choice(len(table.tasks), size, replace=False)
        found.append(held_out.spearman(table.scores[:, tasks].mean(axis=1), target))
    low, middle, high = np.quantile(found, (0.05, 0.5, 0.95)).tolist()
    return low, middle, high


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.proxy",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--scores",
        required=True,
        metavar="SOURCE",
        help="a CSV file, a folder of mteb's results, a study's folder or mlflow:EXPERIMENT",
    )
    add("--tasks", type=int, metavar="K", help="at most so many (default: 5; all with --budget)")
    add("--budget", type=float, metavar="SECONDS", help="that the tasks may take together")
    add("--costs", type=Path, metavar="FILE", help="a CSV file: task,seconds")
    add("--among", nargs="+", metavar="TASK", help="take these only; the full mean is of all")
    add("--cover", nargs="+", default=[], metavar="CATEGORY", help="with a task of each")
    add(
        "--of",
        choices=("tasks", "categories"),
        default="tasks",
        help="what is to be predicted: the mean over all tasks (default), or over categories of "
        "their tasks' mean, which a search here ranks by",
    )
    add(
        "--missing",
        choices=("models", "tasks"),
        default="models",
        help="what is left out where a score is missing (default: models); it is listed",
    )
    add("--owners", action="store_true", help="keep an owner's models (OWNER/NAME) in one fold")
    add("--best", type=int, metavar="N", help="look at the best N too (default: a third)")
    add("--wanted", type=float, default=0.97, metavar="RHO", help="how sure it is at least this")
    add("--search", choices=("greedy", "beam", "exhaustive"), default="beam")
    add("--width", type=int, default=30, help="sets that a beam search goes on with (default: 30)")
    add("--compare", action="store_true", help="compare the three searches (minutes)")
    add("--folds", type=int, default=5, help="that the models are split into (default: 5)")
    add("--repeats", type=int, default=10, help="of the split (default: 10)")
    add("--seed", type=int, default=0, help="of the splits (default: 0)")
    add("--output", type=Path, metavar="FOLDER", help="where to write proxy.json and proxy.svg")
    return parser


if __name__ == "__main__":
    sys.exit(main())
