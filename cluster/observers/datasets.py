"""The training data as MLflow shows them beside a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from trainables.config import EMBEDDED_TRAIN_DATA, DataConfig
from trainables.data import sources


def mlflow_datasets(data: Sequence[DataConfig]) -> list[dict[str, str]]:
    """Return the fields of an `mlflow.entities.Dataset` for each data set, known by content.

    Raises:
        ConfigError: If one cannot be had.
    """
    return [_described(each.name, f"training.data.{place}") for place, each in enumerate(data)]


def _described(name: str, field: str) -> dict[str, str]:
    content = sources.find(name, field).content()
    return {
        "name": name,
        "digest": hashlib.sha256(content.encode()).hexdigest()[:12],
        "source_type": "embedded" if name == EMBEDDED_TRAIN_DATA else "local",
        "source": json.dumps({"name": name}),
    }
