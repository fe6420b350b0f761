"""Models that were scored as they are, beside the control: for reference, and for no test."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.table import SPLITS, Results, means_over, tasks_of

NOTE = (
    "Models that were scored as they are, on the tasks of this study. No test is made of them: "
    "they were trained on other data, by others, or cut texts elsewhere. A category in which one "
    "lacks a task of the study's has no score."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A row of the table: a baseline, or the control in its seeds' mean."""

    label: str
    split: str
    means: dict[str, float]  # of each category; NaN without all of its tasks
    lacking: tuple[str, ...]  # tasks of the study that it has no score on


def references(results: Results) -> list[Reference]:
    """The baselines of each split below the control; nothing without baselines."""
    found = []
    for split in SPLITS:
        theirs = results.baselines[results.baselines["split"] == split]
        if len(theirs):
            ours = results.scores[results.scores["split"] == split]
            tasks = tasks_of(ours if len(ours) else theirs)
            found += _control(ours, tasks, split) + _baselines(theirs, tasks, split)
    return found


def categories(found: Sequence[Reference]) -> list[str]:
    """The categories of all of them, in order."""
    return sorted({category for each in found for category in each.means})


def _control(ours: pd.DataFrame, tasks: "pd.Series[list[str]]", split: str) -> list[Reference]:
    control = ours[ours["role"] == "control"]
    if not len(control):
        return []
    means = means_over(control, tasks).mean()
    label = f"control: {control['label'].iloc[0]}"
    return [Reference(label=label, split=split, means=_plain(means), lacking=())]


def _baselines(theirs: pd.DataFrame, tasks: "pd.Series[list[str]]", split: str) -> list[Reference]:
    wanted = [task for names in tasks for task in names]
    means = means_over(theirs, tasks)
    found = []
    for name, scores in theirs.groupby("name"):
        have = set(scores["task"])
        found.append(
            Reference(
                label=str(scores["label"].iloc[0]),
                split=split,
                means=_plain(means.T[name]),
                lacking=tuple(task for task in wanted if task not in have),
            )
        )
    return found


def _plain(means: "pd.Series[float]") -> dict[str, float]:
    return {str(category): float(mean) for category, mean in means.items()}
