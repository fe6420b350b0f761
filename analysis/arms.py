"""The arms of a confirmation, what they scored while choosing, and their paired contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.contrasts import Contrast, Differences, compare, pair
from analysis.pseudovalues import SeedsByItems, seeds_by_items
from analysis.table import Results, category_scores

EVERYWHERE = "the mean of all tasks"  # what stands beside the categories


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One training configuration in the confirmation: `rows` is the row of each seed."""

    role: str
    digest: str
    design: str
    label: str
    rows: Mapping[int, str]

    @property
    def deterministic(self) -> bool:
        """Whether no seed changes it: an untrained model with one run."""
        return self.role == "untrained" and len(self.rows) == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryContrast:
    """The contrast of two arms in a category (None: no task in common), and what is not in it."""

    contrast: Contrast | None
    tasks: tuple[str, ...]
    dropped: tuple[str, ...]


def confirmed_arms(results: Results) -> list[Arm]:
    """The arms with a complete row on the confirming split, ordered by role, label and digest.

    Of two rows of one seed, the one whose name comes last counts.
    """
    trials = results.trials
    done = trials[(trials["split"] == "confirming") & (trials["status"] == "complete")]
    keys = ["role", "label", "digest", "design"]
    return [
        Arm(
            **{str(key): str(group[key].iloc[0]) for key in keys},
            rows=dict(zip(group["seed"].tolist(), group["name"].tolist(), strict=True)),
        )
        for _, group in done.sort_values("name").groupby(keys)
    ]


def confirming_tasks(results: Results, category: str) -> list[str]:
    """The tasks of a category that were scored on the confirming split, by name."""
    return _tasks(results, "confirming", category)


def choosing_tasks(results: Results, category: str) -> list[str]:
    """The tasks of a category that were scored on the choosing split, by name."""
    return _tasks(results, "choosing", category)


def _tasks(results: Results, split: str, category: str) -> list[str]:
    scores = results.scores[results.scores["split"] == split]
    chosen = scores if category == EVERYWHERE else scores[scores["category"] == category]
    return sorted(set(chosen["task"]))


def means_in(results: Results, split: str, category: str) -> "pd.Series[float] | None":
    """The score of each complete row in a category; of all categories the mean over them."""
    scores = category_scores(results, split)
    if category == EVERYWHERE:
        return scores.mean(axis=1, skipna=False)
    return scores[category] if category in scores else None


def choosing_rows(results: Results, arm: Arm) -> list[str]:
    """The complete search rows that speak for `arm`: its digest, or else its design.

    A finalist trained longer than in the search has another digest there but the same design.
    """
    trials = results.trials
    done = trials[(trials["split"] == "choosing") & (trials["status"] == "complete")]
    trained = done["role"] == "untrained" if arm.role == "untrained" else done["steps"] > 0
    for key in ("digest", "design"):
        rows = done.loc[trained & (done[key] == getattr(arm, key)), "name"]
        if len(rows):
            return [str(name) for name in rows]
    return []


def choosing_score(results: Results, arm: Arm, category: str) -> float:
    """Mean choosing score of the arm's configuration; of several of its design, the best one's."""
    scores = means_in(results, "choosing", category)
    rows = choosing_rows(results, arm)
    if scores is None or not rows:
        return float("nan")
    own = scores.reindex(rows)
    digests = results.trials.set_index("name")["digest"].reindex(rows)
    return float(own.groupby(digests).mean().max())


def contrast_in(
    items: pd.DataFrame, arm: Arm, other: Arm, tasks: Sequence[str]
) -> CategoryContrast:
    """Arm minus other over those of the `tasks` that both have, on the seeds of all of them.

    `items` has the items of both arms' rows, with their `name`.
    """
    found: dict[str, Differences] = {}
    dropped = []
    for task in tasks:
        left, right = (on_task(items, a, task) for a in (arm, other))
        if not left.seeds or not right.seeds:
            absent = arm.label if not left.seeds else other.label
            dropped.append(f"{task}: no items of {absent}")
            continue
        found[task] = pair(left, right, fixed_control=other.deterministic)
        dropped += [f"{task}: {reason}" for reason in found[task].dropped]
    return joined(found, dropped)


def joined(found: Mapping[str, Differences], dropped: Sequence[str]) -> CategoryContrast:
    """One contrast of the differences of several tasks, on the seeds that all of them have."""
    used = {task: cells for task, cells in found.items() if cells.values.size}
    seeds = sorted(set.intersection(*(set(c.seeds) for c in used.values()))) if used else []
    lost = [
        f"{task}: seed {seed}: not in every task"
        for task, cells in used.items()
        for seed in cells.seeds
        if seed not in seeds
    ]
    values = [c.values[np.isin(c.seeds, seeds)] for c in used.values()]
    contrast = compare(values) if seeds else None
    return CategoryContrast(contrast=contrast, tasks=tuple(used), dropped=(*dropped, *lost))


def on_task(items: pd.DataFrame, arm: Arm, task: str) -> SeedsByItems:
    """An arm's runs on a task; without seeds where it has no items."""
    mine = items[items["task"] == task]
    runs = {seed: mine[mine["name"] == name] for seed, name in arm.rows.items()}
    return seeds_by_items({seed: run for seed, run in runs.items() if len(run)})
