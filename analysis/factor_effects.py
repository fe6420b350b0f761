"""The main effects and interactions of a confirmed factorial, in each category and in all.

A factor is a parameter that varies between cells. The settings that each cell was tuned to (its
learning rates and temperature) are none: a cell stands for its design at its best. Every effect is
tested as two arms are, over seeds and items, on the weighted sum of the cells' values.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.arms import EVERYWHERE, Arm, CategoryContrast, confirming_tasks, joined, on_task
from analysis.contrasts import Differences, blend, pair
from analysis.factorial import CellContrast, Levels, interactions, levels_of, main_effects
from analysis.pseudovalues import SeedsByItems
from analysis.table import Results, parameter_columns
from analysis.wording import Finding

TUNED = ("training.", "objective.")
Evidence = Mapping[str, Sequence[SeedsByItems]]  # of each cell, by task


def factor_effects(
    results: Results, arms: Sequence[Arm], items: pd.DataFrame, categories: Sequence[str]
) -> tuple[list[Finding], list[Finding]]:
    """The findings on levels and on two levels together, not yet corrected.

    `arms` are the cells, the control first: its levels are the references.
    """
    cells = cell_levels(results, arms)
    tasks = {category: confirming_tasks(results, category) for category in categories}
    evidence = {
        task: [on_task(items, arm, task) for arm in arms]
        for category, names in tasks.items()
        for task in names
    }
    if len(tasks) > 1:
        tasks[EVERYWHERE] = [task for names in tasks.values() for task in names]
    families = main_effects(cells), interactions(cells)
    mains, crossed = (
        [_finding(each, c, {t: evidence[t] for t in tasks[c]}) for c in tasks for each in family]
        for family in families
    )
    return mains, crossed


def factor_names(results: Results) -> list[str]:
    """The parameters that may be factors; tuned settings are none where there is a tuning."""
    tuned = (results.trials["role"] == "tuning").any()
    return [n for n in parameter_columns(results.trials) if not (tuned and n.startswith(TUNED))]


def cell_levels(results: Results, arms: Sequence[Arm]) -> list[Levels]:
    """The levels of each arm."""
    trials, names = results.trials.set_index("name"), factor_names(results)
    rows = [trials.loc[next(iter(arm.rows.values()))] for arm in arms]
    return [levels_of({name: row[name] for name in names}, names) for row in rows]


def _finding(contrast: CellContrast, category: str, evidence: Evidence) -> Finding:
    made = _contrast(contrast, evidence)
    dropped = made.dropped
    if contrast.method == "additive":
        dropped = ("a fraction: by least squares, as if factors did not interact", *dropped)
    return Finding(
        category=category,
        winner=_side(contrast.label),
        baseline=_side(contrast.reference),
        contrast=made.contrast,
        tasks=made.tasks,
        dropped=dropped,
        why_not="" if made.contrast else "the cells have no scored items in common",
    )


def _side(label: str) -> Arm:
    return Arm(role="level", digest="", design="", label=label, rows={})


def _contrast(contrast: CellContrast, evidence: Evidence) -> CategoryContrast:
    """The cells with positive weights against those with negative ones."""
    found: dict[str, Differences] = {}
    dropped: list[str] = []
    for task, cells in evidence.items():
        weighted = [(float(w), cell) for w, cell in zip(contrast.weights, cells, strict=True) if w]
        if any(not cell.seeds for _, cell in weighted):
            dropped.append(f"{task}: no items of some cells")
            continue
        found[task] = pair(
            blend([(w, cell) for w, cell in weighted if w > 0]),
            blend([(-w, cell) for w, cell in weighted if w < 0]),
        )
        dropped += [f"{task}: {reason}" for reason in found[task].dropped]
    return joined(found, dropped)
