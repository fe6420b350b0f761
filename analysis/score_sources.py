"""Where scores come from: CSV files, mteb's result folders, studies of this project, MLflow.

Each reader gives a long table; `scores.scores_from` checks it. mteb's files do not say to which
category a task belongs: the folders of mteb's own task statistics do, and are looked at without
importing mteb, which would load torch.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.scores import COLUMNS, SEED, Scores, ScoresError, scores_from
from analysis.table import TableError, load

SCHEME = "mlflow:"  # before the name of an experiment
OTHER = "Other"  # category of a task that mteb does not know
NO_CATEGORIES = ("adaptation", "system")  # before the dot in names of metrics that are no scores
PAGE = 500


def read_scores(
    source: str,
    tracking_uri: str | None = None,
    models: Sequence[str] = (),
    category: str | None = None,
) -> Scores:
    """Read a CSV file, a folder of mteb results, a study's folder, or `mlflow:EXPERIMENT`.

    Raises:
        ScoresError: If the source cannot be read, or does not have `models` and `category`; the
            message lists every fault.
    """
    frame, lines = _read(source, tracking_uri)
    return scores_from(frame, lines, models, category)


def _read(source: str, tracking_uri: str | None) -> tuple[pd.DataFrame, str]:
    """The long table, and what one of its rows is called."""
    if source.startswith(SCHEME):
        return _mlflow(source.removeprefix(SCHEME), tracking_uri), "metric"
    path = Path(source)
    if path.is_dir():
        return (_study(path) if is_study(path) else _mteb(path)), "row"
    if not path.is_file():
        raise ScoresError(
            f"scores: expected a CSV file, a folder of results or {SCHEME}EXPERIMENT, "
            f"got nothing at {source}"
        )
    return read_csv(path), "line"


def is_study(path: Path) -> bool:
    """Whether a path is the folder of one of this project's studies."""
    return any((path / "results").glob("*.json"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as text.

    Raises:
        ScoresError: If it is none.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ScoresError(f"scores: expected a CSV file at {path}, got: {error}") from error


def _study(folder: Path) -> pd.DataFrame:
    """The complete runs of the confirming split: a model is a design, named by its label."""
    try:
        results = load(folder)
    except TableError as error:
        raise ScoresError(str(error)) from error
    done = results.trials.loc[results.trials["status"] == "complete", "name"]
    rows = results.scores[
        (results.scores["split"] == "confirming") & results.scores["name"].isin(done)
    ]
    if rows.empty:
        raise ScoresError(f"scores: expected confirmed runs in {folder}, got none")
    untrained = rows["label"] + ", untrained"
    named = rows.assign(model=rows["label"].where(rows["role"] != "untrained", untrained))
    return named[[*COLUMNS, SEED]].drop_duplicates(["model", "task", SEED], keep="last")


def _mteb(folder: Path) -> pd.DataFrame:
    """`MODEL/REVISION/TASK.json`, or `TASK.json` directly in a model's folder."""
    paths = [p for p in sorted(folder.rglob("*.json")) if p.name != "model_meta.json"]
    if not paths:
        raise ScoresError(
            f"scores: expected mteb's results, MODEL/REVISION/TASK.json, in {folder}, got none"
        )
    kinds, faults = _kinds(), []
    rows: dict[tuple[str, str], float] = {}
    sources: dict[tuple[str, str], Path] = {}
    for path in paths:
        try:
            task, score = _mteb_score(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            faults.append(f"{path}: expected one task's results of mteb, got {error!r}")
            continue
        parts = path.relative_to(folder).parts
        model = parts[0].replace("__", "/") if len(parts) > 1 else folder.name
        first = sources.setdefault((model, task), path)
        if first != path:
            faults.append(f"{path}: expected one result of {model} on {task}, got {first} too")
        rows[model, task] = score
    if faults:
        raise ScoresError("\n".join(faults))
    cells = [(model, kinds.get(task, OTHER), task, score) for (model, task), score in rows.items()]
    return pd.DataFrame(cells, columns=list(COLUMNS))


def _mteb_score(result: dict[str, Any]) -> tuple[str, float]:
    """The task and its main score: the mean over the subsets of the test or only split."""
    splits = result["scores"]
    if len(splits) > 1 and "test" not in splits:
        raise ValueError(f"scores: expected one split or test, got {sorted(splits)}")
    subsets = splits.get("test") or next(iter(splits.values()))
    values = [float(subset["main_score"]) for subset in subsets]
    return str(result["task_name"]), sum(values) / len(values)


def _kinds() -> dict[str, str]:
    """The category of each task that the installed mteb describes; empty without mteb."""
    found = importlib.util.find_spec("mteb")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "descriptive_stats"
    return {path.stem: path.parent.name for path in sorted(folder.glob("*/*.json"))}


def _mlflow(experiment: str, tracking_uri: str | None) -> pd.DataFrame:
    """The finished runs with metrics named CATEGORY.TASK; of a study's, the confirming ones.

    A model is a run's tag `model`, or else its note (a study's label of the design), or its name;
    its seed is the parameter `seed`.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
        known = [each.name for each in client.search_experiments()] if found is None else []
    except MlflowException as error:
        raise ScoresError(f"scores: expected an MLflow that answers, got: {error}") from error
    if found is None:
        names = ", ".join(known) or "none"
        raise ScoresError(f"scores: expected an experiment of {names}, got {experiment!r}")
    rows, token = [], None
    while True:
        page = client.search_runs(
            [found.experiment_id],
            "attributes.status = 'FINISHED'",
            max_results=PAGE,
            page_token=token,
        )
        rows += [row for run in page for row in _run_rows(run)]
        token = page.token
        if not token:
            break
    if not rows:
        raise ScoresError(
            f"scores: expected finished runs with metrics named CATEGORY.TASK in {experiment!r}, "
            "got none"
        )
    frame = pd.DataFrame(rows, columns=[*COLUMNS, SEED])
    return frame if frame[SEED].any() else frame.drop(columns=SEED)


def _run_rows(run: Any) -> list[tuple[str, str, str, float, str]]:
    tags, seed = run.data.tags, run.data.params.get("seed", "")
    if tags.get("split", "confirming") != "confirming":
        return []
    model = tags.get("model") or tags.get("mlflow.note.content") or run.info.run_name
    split = [(name.partition("."), value) for name, value in run.data.metrics.items()]
    return [
        (model, category, task, value, seed)
        for (category, _, task), value in split
        if task and category not in NO_CATEGORIES
    ]
