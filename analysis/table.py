"""Read the results folder of a study into tables, and nothing else.

A study keeps one JSON object for each finished run of a trial, and the scored items beside it in
parquet; `README.md` has the schema. Everything here raises `TableError` rather than guess.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

BASELINE = "baseline"
ROLES = ("search", "control", "finalist", "untrained", "cell", "tuning", BASELINE)
SPLITS = ("choosing", "confirming")
STATUSES = ("complete", "pruned", "failed")
CHOICES = {"role": ROLES, "split": SPLITS, "status": STATUSES}
FIELDS: dict[str, tuple[type, ...]] = {
    "study": (str,),
    "trial": (str,),
    "role": (str,),
    "digest": (str,),
    "design": (str,),
    "label": (str,),
    "seed": (int,),
    "split": (str,),
    "status": (str,),
    "reason": (str, NoneType),
    "steps": (int,),
    "total_steps": (int,),
    "seconds": (int, float),
    "trainable_parameters": (int, NoneType),
    "head_parameters": (int, NoneType),
    "embedding_size": (int, NoneType),
    "flops_per_token": (int, float, NoneType),
    "worker_seconds": (int, float, NoneType),
    "gpu_seconds": (int, float, NoneType),
    "params": (dict,),
    "scores": (dict,),
    "categories": (dict,),
    "failures": (dict,),
    "curve": (list,),
    "versions": (dict,),
}
LATER = (  # null where a row has none
    *("head_parameters", "embedding_size", "flops_per_token"),
    *("worker_seconds", "gpu_seconds"),
)
COUNTS = ("trainable_parameters", "head_parameters", "embedding_size")
NESTED = ("params", "scores", "categories", "failures", "curve", "versions")
TRIAL_COLUMNS = ("name", *(field for field in FIELDS if field not in NESTED))
SCORE_KEYS = ("name", "trial", "role", "design", "digest", "label", "seed", "split")
SCORE_COLUMNS = (*SCORE_KEYS, "task", "category", "score")
FAILURE_COLUMNS = ("name", "trial", "role", "split", "task", "reason")
CURVE_COLUMNS = ("name", "role", "status", "step", "loss", "quick_score")
ITEM_COLUMNS = ("task", "category", "kind", "item", "value", "gold")
KINDS = ("query", "text", "set", "pair")
INFORMATION = ("fit",)  # kinds that add up to the same score again, and enter no test


class TableError(ValueError):
    """A results folder that cannot be read; the message lists every fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The runs of one study. The `name` of a row is the stem of its file.

    `trials` has one row for each run, with a column for each parameter; `scores` one for each run
    and scored task (0 to 1); `failures` one for each task that could not be scored; `curves` one
    for each reported step; `versions` one for each distinct package and version.
    Baselines, which were scored as they are, are in `baselines` alone, as in `scores`: no test is
    made of them, and no task of theirs changes a mean.
    """

    folder: Path
    study: str
    trials: pd.DataFrame
    scores: pd.DataFrame
    failures: pd.DataFrame
    curves: pd.DataFrame
    versions: pd.DataFrame
    baselines: pd.DataFrame


def load(study_folder: Path | str) -> Results:
    """Read every row under `study_folder/results`.

    Raises:
        TableError: If the folder is missing or empty, or a row cannot be read.
    """
    folder = Path(study_folder)
    found = _read_rows(folder / "results")
    rows = [row for row in found if row["role"] != BASELINE]
    return Results(
        folder=folder,
        study=str(found[0]["study"]),
        trials=_trials(rows),
        scores=_scores(rows),
        failures=_failures(rows),
        curves=_curves(rows),
        versions=_versions(rows),
        baselines=_scores([row for row in found if row["role"] == BASELINE]),
    )


def items(results: Results, names: Iterable[str]) -> pd.DataFrame:
    """Read the items of the named rows: the columns of the parquet files, and `name` first.

    Rows that are there for information are left out.

    A row without an items file gives no items; the caller compares the names.

    Raises:
        TableError: If a file cannot be read or does not have the columns of the contract.
    """
    parts = []
    for name in names:
        path = results.folder / "results" / f"{name}.items.parquet"
        if path.exists():
            part = _read_items(path)
            part.insert(0, "name", name)
            parts.append(part)
    if not parts:
        return pd.DataFrame(columns=["name", *ITEM_COLUMNS])
    return pd.concat(parts, ignore_index=True)


def category_scores(results: Results, split: str) -> pd.DataFrame:
    """Mean score of each complete row in each category of `split`; index name, columns category.

    A row that lacks one task of a category has no score there (NaN): a mean over fewer tasks
    would not be comparable.
    """
    done = results.trials.loc[results.trials["status"] == "complete", "name"]
    wanted = (results.scores["split"] == split) & results.scores["name"].isin(done)
    scores = results.scores[wanted]
    return means_over(scores, tasks_of(scores))


def tasks_of(scores: pd.DataFrame) -> "pd.Series[Any]":
    """The list of tasks of each category."""
    return scores.drop_duplicates("task").groupby("category")["task"].agg(list)


def means_over(scores: pd.DataFrame, tasks: "pd.Series[Any]") -> pd.DataFrame:
    """Mean score of each row over the `tasks` of each category; NaN where it lacks one."""
    wide = scores.pivot_table(index="name", columns="task", values="score")
    means = {
        category: wide.reindex(columns=list(names)).mean(axis=1, skipna=False)
        for category, names in tasks.items()
    }
    return pd.DataFrame(means, index=wide.index).sort_index(axis=1)


def write_csv(results: Results, path: Path) -> None:
    """Write one line for each row: its columns, its parameters, and `score.TASK` for each task."""
    wide = results.scores.pivot_table(index="name", columns="task", values="score")
    wide = wide.add_prefix("score.").reset_index()
    results.trials.merge(wide, on="name", how="left").to_csv(path, index=False)


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        given = folder.parent.resolve()
        study = given.parent if given.name == folder.name else "as in outputs/STUDY"
        raise TableError(
            f"results: expected a folder at {folder}, got nothing there; "
            f"give the study's own folder, {study}"
        )
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise TableError(
            f"results: expected at least one row (*.json) in {folder}, got none; "
            "a row appears as soon as a trial has finished"
        )
    rows, faults = [], []
    for path in paths:
        row, wrong = _read_row(path)
        rows.append(row)
        faults += [f"{path.name}: {fault}" for fault in wrong]
    studies = sorted({str(row.get("study")) for row in rows})
    if not faults and len(studies) > 1:
        faults.append(f"study: expected one study in {folder}, got {studies}")
    if faults:
        faults.append("remove a broken row, and its trial can be run again")
        raise TableError("\n".join(faults))
    return rows


def _read_row(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return {}, [f"expected a JSON object, got {error}"]
    if not isinstance(row, dict):
        return {}, [f"expected a JSON object, got {type(row).__name__}"]
    row = {**dict.fromkeys(LATER), **row}
    return {**row, "name": path.stem}, _faults(row)


def _faults(row: Mapping[str, Any]) -> list[str]:
    faults = []
    for field, types in FIELDS.items():
        if field not in row:
            faults.append(f"{field}: expected a value, got none")
        elif not isinstance(row[field], types):
            names = " or ".join("null" if t is NoneType else t.__name__ for t in types)
            faults.append(f"{field}: expected {names}, got {row[field]!r}")
        elif field in CHOICES and row[field] not in CHOICES[field]:
            faults.append(f"{field}: expected one of {CHOICES[field]}, got {row[field]!r}")
    return faults or _nested_faults(row)


def _nested_faults(row: Mapping[str, Any]) -> list[str]:
    faults = []
    for task, score in row["scores"].items():
        if not isinstance(score, int | float) or not -1 <= score <= 1:
            faults.append(f"scores.{task}: expected a score from 0 to 1, got {score!r}")
        if task not in row["categories"]:
            faults.append(f"categories.{task}: expected a category, got none")
    for number, point in enumerate(row["curve"]):
        if not isinstance(point, dict) or not isinstance(point.get("step"), int):
            faults.append(f"curve.{number}: expected an object with a step, got {point!r}")
    return faults


def _trials(rows: list[dict[str, Any]]) -> pd.DataFrame:
    cells = [{c: row[c] for c in TRIAL_COLUMNS} for row in rows]
    frame = pd.DataFrame(cells, columns=list(TRIAL_COLUMNS))
    frame = frame.astype(dict.fromkeys(COUNTS, "Int64") | {"flops_per_token": float})
    names = sorted({name for row in rows for name in row["params"]})
    for name in names:
        column = f"params.{name}" if name in TRIAL_COLUMNS else name
        frame[column] = pd.Series([row["params"].get(name) for row in rows], dtype=object)
    return frame


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """The columns of `trials` that hold parameters, in order."""
    return [str(column) for column in trials.columns if column not in TRIAL_COLUMNS]


def _scores(rows: list[dict[str, Any]]) -> pd.DataFrame:
    cells = [
        {**{k: row[k] for k in SCORE_KEYS}, "task": t, "category": row["categories"][t]}
        | {"score": float(score)}
        for row in rows
        for t, score in sorted(row["scores"].items())
    ]
    return pd.DataFrame(cells, columns=list(SCORE_COLUMNS))


def _failures(rows: list[dict[str, Any]]) -> pd.DataFrame:
    cells = [
        {**row, "task": task, "reason": str(reason)}
        for row in rows
        for task, reason in sorted(row["failures"].items())
    ]
    return pd.DataFrame(cells, columns=list(FAILURE_COLUMNS))


def _curves(rows: list[dict[str, Any]]) -> pd.DataFrame:
    points = [{**row, **point} for row in rows for point in row["curve"]]
    frame = pd.DataFrame(points, columns=list(CURVE_COLUMNS))
    numbers = ["step", "loss", "quick_score"]
    frame[numbers] = frame[numbers].astype(float)
    return frame


def _versions(rows: list[dict[str, Any]]) -> pd.DataFrame:
    pairs = {(p, str(version)) for row in rows for p, version in row["versions"].items()}
    return pd.DataFrame(sorted(pairs), columns=["package", "version"])


def _read_items(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path.name}: expected a parquet file, got {error}") from error
    absent = [column for column in ITEM_COLUMNS if column not in frame.columns]
    if absent:
        raise TableError(f"{path.name}: expected the columns {ITEM_COLUMNS}, got none of {absent}")
    frame = frame[~frame["kind"].isin(INFORMATION)]
    strange = sorted(set(frame["kind"]) - set(KINDS))
    if strange:
        raise TableError(f"{path.name}: kind: expected one of {KINDS}, got {strange}")
    twice = frame.loc[frame.duplicated(["task", "item"]), "item"]
    if len(twice):
        item = twice.iloc[0]
        raise TableError(f"{path.name}: item: expected each once in a task, got {item!r} twice")
    return frame[list(ITEM_COLUMNS)].astype({"value": float, "gold": float})


def is_missing(value: object) -> bool:
    """Whether a parameter is absent from a row: None or NaN.

    >>> [is_missing(v) for v in (None, float("nan"), 0, "none")]
    [True, True, False, False]
    """
    return value is None or (isinstance(value, float) and math.isnan(value))
