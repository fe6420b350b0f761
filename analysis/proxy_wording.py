"""What was learned of proxy suites: as lines, as an object for other programs, as a picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.arrays import FloatArray, IntArray
from analysis.figures import styled
from analysis.held_out import CHOSEN, Correlation, HeldOut, Suite
from analysis.score_table import ScoreTable
from analysis.subsets import Limits
from analysis.svg import QUIET, WINNER, new_figure, to_svg

NAMES = {
    "mean": "mean of the tasks",
    "category_mean": "mean of the categories",
    "fitted": "fitted weights",
    CHOSEN: "best of these, chosen in the fold",
}
SHOWN = 10  # tasks whose stability is printed; the file has all


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What one rule learned from all models, and how well it did on models held out."""

    suite: Suite
    held_out: HeldOut
    among_all: Correlation
    among_best: Correlation


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All that the program has to say."""

    table: ScoreTable
    target: FloatArray  # [models]
    groups: IntArray  # of aliases
    learned: Mapping[str, Learned]  # by rule, and the one that is chosen
    limits: Limits
    wanted: float
    random: tuple[float, float, float]  # sets by lot: 5, 50, 95 %
    searches: Mapping[str, Mapping[str, Correlation]]  # by rule and search
    settings: Mapping[str, Any]


def sentences(findings: Findings) -> list[str]:
    """Return the lines for a terminal."""
    table, chosen = findings.table, findings.learned[CHOSEN]
    groups = _alias_groups(findings)
    lines = [
        f"{len(table.models)} models, {len(table.tasks)} tasks; "
        f"aliases, never in two folds: {'; '.join(map(' = '.join, groups)) or 'none'}",
        *(f"left out: {text}" for text in table.left_out),
        "",
        *_rows(findings),
        "",
        f"held-out Spearman of the chosen rule: {_interval(chosen.among_all)}; confidence that it "
        f"is at least {findings.wanted:g}: {chosen.among_all.sureness:.1%}",
        *_searches(findings),
        "",
        f"tasks, by the share of {len(chosen.held_out.suites)} folds that chose them "
        f"(two folds' suites have {chosen.held_out.overlap():.0%} of their tasks in common):",
        *_stability(findings),
        "",
        *_suites(findings),
    ]
    return lines


def _rows(findings: Findings) -> list[str]:
    best = next(iter(findings.learned.values())).among_best.num_models
    rows = [f"{'held-out Spearman':34} {'all models':24} {f'the best {best}':24}"]
    for name, found in findings.learned.items():
        rows.append(
            f"{NAMES[name]:34} {_interval(found.among_all):24} {_interval(found.among_best):24}"
        )
    low, middle, high = findings.random
    size = len(findings.learned[CHOSEN].suite.tasks)
    by_lot = f"mean of {size} tasks by lot (5 to 95 %)"
    rows.append(f"{by_lot:34} {middle:.3f} [{low:.3f}, {high:.3f}]")
    return rows


def _interval(found: Correlation) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _searches(findings: Findings) -> list[str]:
    return [
        f"{NAMES[rule]}, {search} search: {_interval(found)}"
        for rule, by_search in findings.searches.items()
        for search, found in by_search.items()
    ]


def _stability(findings: Findings) -> list[str]:
    table = findings.table
    shares = findings.learned[CHOSEN].held_out.chosen_share(len(table.tasks))
    order = np.argsort(-shares, kind="stable")[:SHOWN]
    return [
        f"  {shares[at]:4.0%} {table.tasks[at]} ({table.categories[at]})"
        for at in order
        if shares[at] > 0
    ]


def _suites(findings: Findings) -> list[str]:
    learned = findings.learned
    chosen = learned[CHOSEN].suite.rule.name
    lines = []
    for name in dict.fromkeys((chosen, "category_mean")):
        suite = learned[name].suite
        tasks = " ".join(findings.table.tasks[at] for at in suite.tasks)
        use = " (as a search here ranks; for its --tasks)" if name == "category_mean" else ""
        weights = ", ".join(f"{w:.3f}" for w in suite.weights)
        lines.append(f"{NAMES[name]}{use}: {tasks}")
        lines += [f"  weights {weights}"] if name == "fitted" else []
    return lines


def _alias_groups(findings: Findings) -> list[list[str]]:
    models = findings.table.models
    groups = [np.flatnonzero(findings.groups == g) for g in np.unique(findings.groups)]
    return [[models[at] for at in group] for group in groups if len(group) > 1]


def as_dict(findings: Findings) -> dict[str, Any]:
    """Return what other programs read; `tasks` is the suite of the chosen rule."""
    learned = findings.learned
    return {
        "tasks": _tasks(findings, learned[CHOSEN].suite),
        "rule": learned[CHOSEN].suite.rule.name,
        "suites": {name: _suite(findings, name) for name in learned if name != CHOSEN},
        "held_out": {
            name: {"all": asdict(found.among_all), "best": asdict(found.among_best)}
            for name, found in learned.items()
        },
        "wanted": findings.wanted,
        "random": dict(zip(("low", "median", "high"), findings.random, strict=True)),
        "searches": {
            rule: {search: asdict(found) for search, found in by_search.items()}
            for rule, by_search in findings.searches.items()
        },
        "models": len(findings.table.models),
        "left_out": list(findings.table.left_out),
        "aliases": _alias_groups(findings),
        "settings": dict(findings.settings),
    }


def _suite(findings: Findings, name: str) -> dict[str, Any]:
    table, found = findings.table, findings.learned[name]
    tasks = _tasks(findings, found.suite)
    shares = found.held_out.chosen_share(len(table.tasks)).tolist()
    return {
        "tasks": tasks,
        "weights": dict(zip(tasks, found.suite.weights.tolist(), strict=True)),
        "intercept": found.suite.intercept,
        "seconds": findings.limits.seconds(found.suite.tasks),
        "categories": {table.tasks[at]: table.categories[at] for at in found.suite.tasks},
        "chosen_share": dict(zip(table.tasks, shares, strict=True)),
        "overlap": found.held_out.overlap(),
    }


def _tasks(findings: Findings, suite: Suite) -> list[str]:
    return [findings.table.tasks[at] for at in suite.tasks]


@styled
def draw(findings: Findings) -> str:
    """Return a picture: each model's full mean against what was said of it without it."""
    predicted, target = findings.learned[CHOSEN].held_out.predicted.mean(axis=0), findings.target
    figure, (axes,) = new_figure(4.2, 4)
    axes.axline((target.mean(), target.mean()), slope=1, color=QUIET, linewidth=0.8)
    axes.scatter(predicted, target, s=14, color=WINNER)
    axes.set_xlabel("said of it by tasks that were learned without it")
    axes.set_ylabel("a model's full mean")
    return to_svg(figure, "proxy", "Full means of models against their held-out predictions")
