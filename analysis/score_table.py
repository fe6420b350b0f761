"""Models' scores without holes: say what is missing in it, and find its aliases.

Nothing is filled in: a model without all scores, or a task that not all models have, is left out
and named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis.arrays import FloatArray, IntArray
from analysis.pairs import seed_means
from analysis.score_sources import is_study, read_csv, read_scores
from analysis.scores import COLUMNS, Scores, ScoresError, scores_from
from analysis.table import TableError, load

ALIAS_TOLERANCE = 5e-4  # of a score: the same weights under two names, run on two machines
SHOWN = 5  # faults of a kind, before "and N more"

LeftOut = Literal["models", "tasks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """Every model's score on every task; `left_out` says in words what is not in it."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    categories: tuple[str, ...]  # of each task
    scores: FloatArray  # [models, tasks]
    left_out: tuple[str, ...] = ()

    def only(self, names: Sequence[str]) -> "ScoreTable":
        """Return the table of some tasks.

        Raises:
            ScoresError: If one of them is not there.
        """
        absent = [name for name in names if name not in self.tasks]
        if absent:
            raise ScoresError(
                f"tasks: expected some of {', '.join(self.tasks)}, got {', '.join(absent)}"
            )
        kept = [place for place, task in enumerate(self.tasks) if task in names]
        return replace(
            self,
            tasks=tuple(self.tasks[place] for place in kept),
            categories=tuple(self.categories[place] for place in kept),
            scores=self.scores[:, kept],
        )

    def full_mean(self, of: Literal["tasks", "categories"]) -> FloatArray:
        """Return each model's mean over tasks, or over categories of their tasks' mean."""
        if of == "tasks":
            mean: FloatArray = self.scores.mean(axis=1)
            return mean
        kinds = np.array(self.categories)
        parts = [self.scores[:, kinds == kind].mean(axis=1) for kind in dict.fromkeys(kinds)]
        balanced: FloatArray = np.mean(parts, axis=0)
        return balanced


def read(source: str, *, missing: LeftOut = "models") -> ScoreTable:
    """Read what `score_sources.read_scores` reads, but of a study what chose; leave out holes.

    Scores of several seeds are averaged. Of a study, the finished trials and the baselines are the
    models.

    Raises:
        ScoresError: With every fault of the source, or if it leaves nothing to learn from.
    """
    scores = _of_study(Path(source)) if is_study(Path(source)) else read_scores(source)
    beyond = np.abs(np.nan_to_num(scores.values)).max(initial=0.0)
    if beyond > 1:
        raise ScoresError(
            f"score: expected -1 to 1, got {beyond:g}; divide scores of 0 to 100 by 100"
        )
    wide = pd.DataFrame(seed_means(scores.values), scores.models, scores.tasks)
    whole, left_out = _without_holes(wide.sort_index().sort_index(axis=1), missing)
    if not whole.size:
        raise ScoresError(
            f"{source}: expected models with a score on every task, got none"
            f"{'; try --missing tasks' if missing == 'models' else ''}"
        )
    kinds = dict(zip(scores.tasks, scores.categories, strict=True))
    return ScoreTable(
        models=tuple(map(str, whole.index)),
        tasks=tuple(map(str, whole.columns)),
        categories=tuple(kinds[task] for task in whole.columns),
        scores=whole.to_numpy(dtype=np.float64),
        left_out=tuple(left_out),
    )


def _of_study(folder: Path) -> Scores:
    try:
        results = load(folder)
    except TableError as error:
        raise ScoresError(str(error)) from error
    done = results.trials.loc[results.trials["status"] == "complete", "name"]
    trials = results.scores[results.scores["name"].isin(done)]
    scores = pd.concat([trials, results.baselines], ignore_index=True)
    frame = scores[scores["split"] == "choosing"].assign(model=scores["name"])
    return scores_from(frame[list(COLUMNS)])


def read_costs(path: Path, tasks: Sequence[str]) -> FloatArray:
    """Read the seconds of each task from a CSV file with the columns `task` and `seconds`.

    Raises:
        ScoresError: With every task that has no positive number, or two.
    """
    frame = read_csv(path)
    absent = [column for column in ("task", "seconds") if column not in frame.columns]
    if absent:
        raise ScoresError(f"{path}: expected the columns task,seconds, got no {', '.join(absent)}")
    seconds = pd.to_numeric(frame.set_index("task")["seconds"], errors="coerce")
    twice = sorted(set(seconds.index[seconds.index.duplicated()]))
    faults = [f"{task}: expected one row, got several" for task in twice]
    found = seconds[~seconds.index.duplicated()].reindex(list(tasks))
    bad = found.index[~(np.isfinite(found) & (found > 0))]
    faults += [f"{task}: expected seconds above 0, got {found[task]}" for task in bad]
    if faults:
        raise ScoresError("\n".join(f"{path}: {fault}" for fault in faults))
    return found.to_numpy(dtype=np.float64)


def aliases(scores: FloatArray, tolerance: float = ALIAS_TOLERANCE) -> IntArray:
    """Return a group's number for each model; those of equal scores are in one group.

    Scores are equal if no task's differ by more than `tolerance`; aliases of aliases are aliases.

    >>> aliases(np.array([[0.1, 0.2], [0.5, 0.6], [0.1, 0.2]])).tolist()
    [0, 1, 0]
    """
    groups: IntArray = np.arange(len(scores))
    for one in range(len(scores)):
        same = np.abs(scores - scores[one]).max(axis=1) <= tolerance
        found = np.unique(groups[same])
        groups[np.isin(groups, found)] = found.min()
    return groups


def owners(models: Sequence[str], groups: IntArray) -> IntArray:
    """Return `groups` with the models of one owner, the name before the first slash, joined."""
    joined = groups.copy()
    first: dict[str, int] = {}
    for place, model in enumerate(models):
        other = first.setdefault(model.partition("/")[0], place)
        joined[joined == joined[place]] = joined[other]
    return joined


def _without_holes(wide: pd.DataFrame, missing: LeftOut) -> tuple[pd.DataFrame, list[str]]:
    """Return the table without the models, or the tasks, that lack scores, and what they lack."""
    if missing == "tasks":
        turned, left_out = _without_holes(wide.T, "models")
        return turned.T, [text.replace(": no score on", ": no score of") for text in left_out]
    holes = wide.isna()
    lacking = holes.any(axis=1)
    left_out = [f"{name}: no score on {_some(row)}" for name, row in holes[lacking].iterrows()]
    return wide[~lacking], left_out


def _some(holes: "pd.Series[bool]") -> str:
    names = [str(name) for name in holes.index[holes]]
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
