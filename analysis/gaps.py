"""What is not in the comparison, and why: trials, tasks and items that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.arms import Arm
from analysis.table import Results


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Something without a result: which rows, what is missing, and the reason."""

    rows: tuple[str, ...]
    missing: str
    reason: str


def gaps(results: Results, arms: Sequence[Arm], cells: pd.DataFrame) -> tuple[Gap, ...]:
    """All that is missing: trials, tasks, seeds and items; `cells` are the items of the arms."""
    found = [*_trials(results), *_tasks(results), *_seeds(arms), *_items(results, arms, cells)]
    return tuple(found)


def _trials(results: Results) -> list[Gap]:
    stopped = results.trials[results.trials["status"] != "complete"]
    reasons = stopped["reason"].astype(object).where(stopped["reason"].notna(), "no reason given")
    keys = [stopped["split"], stopped["status"], reasons]
    return [
        Gap(rows=tuple(group["name"]), missing=f"{status} trial ({split})", reason=str(reason))
        for (split, status, reason), group in stopped.groupby(keys)
    ]


def _tasks(results: Results) -> list[Gap]:
    return [
        Gap(rows=tuple(group["name"]), missing=f"score on {task}", reason=str(reason))
        for (task, reason), group in results.failures.groupby(["task", "reason"])
    ]


def _seeds(arms: Sequence[Arm]) -> list[Gap]:
    trained = [arm for arm in arms if not arm.deterministic]
    everyone = sorted({seed for arm in trained for seed in arm.rows})
    found = []
    for arm in trained:
        absent = [seed for seed in everyone if seed not in arm.rows]
        if absent:
            text = ", ".join(map(str, absent))
            found.append(
                Gap(
                    rows=tuple(arm.rows.values()),
                    missing=f"seeds {text} of {arm.label}",
                    reason="no complete run; other arms have them",
                )
            )
    return found


def _items(results: Results, arms: Sequence[Arm], cells: pd.DataFrame) -> list[Gap]:
    names = [name for arm in arms for name in arm.rows.values()]
    without = tuple(name for name in names if name not in set(cells["name"]))
    found = []
    if without:
        found.append(Gap(rows=without, missing="all items", reason="no items file beside the row"))
    scored = results.scores[results.scores["name"].isin(names)]
    have = set(zip(cells["name"], cells["task"], strict=True))
    for task, group in scored.groupby("task"):
        rows = tuple(n for n in group["name"] if (n, task) not in have and n not in without)
        if rows:
            found.append(Gap(rows=rows, missing=f"items of {task}", reason="not in the file"))
    return found + _values(cells)


def _values(cells: pd.DataFrame) -> list[Gap]:
    empty = cells[cells["value"].isna()]
    return [
        Gap(
            rows=tuple(sorted(set(group["name"]))),
            missing=f"{len(group)} item values of {task}",
            reason="not a number",
        )
        for task, group in empty.groupby("task")
    ]
