"""A long table of scores, whoever made it: one row for a model, a task and perhaps a seed."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arrays import FloatArray
from analysis.inference.signed_rank import MOST_TASKS

COLUMNS = ("model", "category", "task", "score")
SEED = "seed"
ALL = "all"  # the name of all categories together
SHOWN = 3  # examples of a fault


class ScoresError(ValueError):
    """Scores that cannot be compared; the message lists every fault with its remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores by model, seed and task; NaN where there is none or where it is blank.

    `values` is (M, S, T). A table without seeds has one, "".
    """

    models: tuple[str, ...]
    seeds: tuple[str, ...]
    tasks: tuple[str, ...]
    categories: tuple[str, ...]
    values: FloatArray

    def tasks_of(self, category: str) -> list[int]:
        """The positions of a category's tasks; of all of them for "all"."""
        return [at for at, name in enumerate(self.categories) if category in (ALL, name)]


def scores_from(
    frame: pd.DataFrame,
    lines: str = "row",
    models: Sequence[str] = (),
    category: str | None = None,
) -> Scores:
    """Check a long table and arrange it; the columns may be text, as read from a file.

    `lines` is what a row is called; `models` and `category` are what is going to be chosen.

    Raises:
        ScoresError: If anything is wrong with the table or the choice.
    """
    absent = [_absent(column, frame.columns) for column in COLUMNS if column not in frame.columns]
    if absent:
        raise ScoresError("\n".join(absent))
    frame = frame.reset_index(drop=True)
    if SEED not in frame.columns:
        frame = frame.assign(**{SEED: ""})
    if frame.empty:
        raise ScoresError("score: expected at least one row, got none")
    named = frame[[*COLUMNS, SEED]].assign(score=pd.to_numeric(frame["score"], errors="coerce"))
    for column in ("model", "category", "task", SEED):
        named[column] = named[column].astype(object).where(named[column].notna(), "").astype(str)
        named[column] = named[column].str.strip()
    faults = [*_cell_faults(frame, named, lines), *_table_faults(named, lines)]
    faults += _choice_faults(set(named["model"]) - {""}, set(named["category"]), models, category)
    if faults:
        raise ScoresError("\n".join(faults))
    return _arrange(named)


def choose(scores: Scores, models: Sequence[str], category: str | None) -> tuple[str, ...]:
    """The models to compare: those named, or all.

    Raises:
        ScoresError: If a name is unknown or given twice, or fewer than two models are left.
    """
    faults = _choice_faults(set(scores.models), set(scores.categories), models, category)
    chosen = tuple(models) or scores.models
    if len(set(chosen)) < 2:
        faults.append(f"models: expected two or more to compare, got {', '.join(chosen)}")
    if faults:
        raise ScoresError("\n".join(faults))
    return chosen


def _choice_faults(
    known: set[str], categories: set[str], models: Sequence[str], category: str | None
) -> list[str]:
    faults = [
        f"models: expected a model of the table, got {name!r}"
        f"{_hint(name, known) or f'; it has {_some(sorted(known))}'}"
        for name in models
        if name not in known
    ]
    faults += [
        f"models: expected each once, got {name!r} again"
        for name in dict.fromkeys(models)
        if models.count(name) > 1
    ]
    names = (ALL, *sorted(categories - {ALL}))
    if category is not None and category not in names:
        faults.append(
            f"category: expected one of {', '.join(names)}, got {category!r}"
            f"{_hint(category, names)}"
        )
    return faults


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _absent(column: str, there: Iterable[object]) -> str:
    names = [str(name) for name in there]
    return (
        f"{column}: expected a column of this name, got {', '.join(names) or 'no columns'}"
        f"{_hint(column, names)}; the table needs {', '.join(COLUMNS)}, and {SEED} if there is one"
    )


def _cell_faults(given: pd.DataFrame, named: pd.DataFrame, lines: str) -> list[str]:
    faults = []
    for column in ("model", "category", "task"):
        empty = named.index[named[column] == ""]
        if len(empty):
            faults.append(f"{column}: expected a name, got nothing in {_places(empty, lines)}")
    raw = given["score"].astype(object).where(given["score"].notna(), "").astype(str).str.strip()
    absent = raw.str.lower().isin(["", "nan", "na", "none", "null"])
    strange = named["score"].isna() & ~absent
    if strange.any():
        texts = ", ".join(map(repr, raw[strange].unique()[:SHOWN]))
        places = _places(named.index[strange], lines)
        faults.append(f"score: expected a number, got {texts} in {places}")
    if absent.all():
        faults.append(f"score: expected a number in some {lines}, got none")
    endless = np.isinf(named["score"])
    if endless.any():
        places = _places(named.index[endless], lines)
        faults.append(f"score: expected a finite number, got infinity in {places}")
    return faults


def _table_faults(named: pd.DataFrame, lines: str) -> list[str]:
    faults = []
    keys = ["model", "task", SEED]
    twice = named[named.duplicated(keys, keep=False)]
    for (model, task, seed), rows in list(twice.groupby(keys, sort=False))[:SHOWN]:
        which = f"{model} on {task}" + (f" with seed {seed}" if seed else "")
        faults.append(
            f"score: expected one for each model, task and seed, got {len(rows)} of {which} "
            f"({_places(rows.index, lines)}); keep one, or give the runs a column {SEED!r}"
        )
    if twice[keys].drop_duplicates().shape[0] > SHOWN:
        faults.append(f"score: {len(twice)} rows in all are there more than once")
    num_tasks = named["task"].nunique()
    if num_tasks > MOST_TASKS:
        faults.append(f"task: expected at most {MOST_TASKS} different ones, got {num_tasks}")
    kinds = named.groupby("task")["category"].unique()
    faults += [
        f"category: expected one for each task, got {', '.join(sorted(found))} for {task}"
        for task, found in kinds.items()
        if len(found) > 1
    ]
    if (named["category"] == ALL).any():
        faults.append(f"category: expected another name than {ALL!r}, which is all of them")
    return faults


def _places(rows: "pd.Index[int]", lines: str) -> str:
    """The first few rows; the first line of a file is its head, so its rows start at line 2."""
    first = 2 if lines == "line" else 1
    shown = ", ".join(str(row + first) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{lines}{'s' if len(rows) > 1 else ''} {shown}{more}"


def _hint(name: str, names: Iterable[str]) -> str:
    known = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""


def _arrange(named: pd.DataFrame) -> Scores:
    codes, levels = zip(*(pd.factorize(named[c]) for c in ("model", SEED, "task")), strict=True)
    values = np.full([len(level) for level in levels], np.nan)
    values[codes] = named["score"].to_numpy(float)
    models, seeds, tasks = (tuple(map(str, level)) for level in levels)
    kinds = dict(zip(named["task"], named["category"], strict=True))
    return Scores(
        models=models,
        seeds=seeds,
        tasks=tasks,
        categories=tuple(kinds[task] for task in tasks),
        values=values,
    )
