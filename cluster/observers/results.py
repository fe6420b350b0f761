"""The results table: one JSON row for each finished trial, its items in a parquet file beside it.

The schema is documented in `analysis/README.md`; `analysis` reads nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.study.trials import Assignment, Ending
from trainables.identity import design_digest, digest

COST = ("trainable_parameters", "head_parameters", "embedding_size", "flops_per_token")

Usage = Callable[[str], Mapping[str, float]]  # from a trial's name to seconds of workers, of GPUs


class ResultsTable:
    """An observer that writes the rows of a study."""

    def __init__(self, study: str, folder: Path, usage: Usage = lambda _: {}) -> None:
        """Write the rows of `study` into `folder`; `usage` says what a trial has taken."""
        self._usage = usage
        self._study = study
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def started(self, trial: Assignment) -> None:
        """Write nothing yet."""

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        """Write nothing yet."""

    def paused(self, trial: Assignment) -> None:
        """Write nothing yet."""

    def ended(self, trial: Assignment, ending: Ending) -> None:
        """Write the trial's row, its items first; a kill leaves whole files only."""
        outcome = ending.outcome or {}
        if outcome:
            _replace(self._folder / f"{trial.name}.items.parquet", Path(outcome["items"]))
        row = json.dumps(self._row(trial, ending), indent=1) + "\n"
        partial = self._folder / f"{trial.name}.json.partial"
        partial.write_text(row)
        partial.replace(self._folder / f"{trial.name}.json")

    def _row(self, trial: Assignment, ending: Ending) -> dict[str, Any]:
        outcome = ending.outcome or {}
        cost = outcome.get("cost", {})
        last = ending.curve[-1] if ending.curve else {"step": 0, "seconds": 0.0}
        return {
            "study": self._study,
            "trial": trial.name,
            "role": trial.role,
            "digest": digest(trial.config),
            "design": design_digest(trial.config),
            "label": trial.label,
            "seed": trial.config.seed,
            "split": trial.config.evaluation.split,
            "status": ending.status,
            "reason": ending.reason,
            "steps": int(last["step"]),
            "total_steps": trial.config.training.steps,
            "seconds": outcome.get("seconds", last["seconds"]),
            **{name: cost.get(name) for name in COST},
            **self._usage(trial.name),
            "params": trial.params,
            "scores": outcome.get("scores", {}),
            "categories": outcome.get("categories", {}),
            "failures": outcome.get("failures", {}),
            "curve": list(ending.curve),
            "versions": outcome.get("versions", {}),
        }


def _replace(target: Path, source: Path) -> None:
    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a results folder in the order of their trials."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
