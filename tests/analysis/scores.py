"""Tables of models' scores for the tests of proxy suites."""

import csv
from pathlib import Path

import numpy as np

from analysis.arrays import FloatArray

KINDS = ("Retrieval", "STS", "Clustering")


def drawn(num_models: int, num_tasks: int, *, noise: float = 0.03, seed: int = 0) -> FloatArray:
    """Scores [models, tasks] of one talent and, in each task, of some more."""
    generator = np.random.default_rng(seed)
    talent = generator.normal(0, 0.1, (num_models, 3))
    share = generator.dirichlet([1.0, 1.0, 1.0], num_tasks)
    spread = generator.uniform(0.3, 1.7, num_tasks) * noise
    return 0.5 + talent @ share.T + spread * generator.normal(size=(num_models, num_tasks))


def write(path: Path, scores: FloatArray, without: tuple[tuple[int, int], ...] = ()) -> Path:
    """Write a table of owners' models m00 …, tasks t00 … in three categories; some cells lack."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("model", "category", "task", "score"))
        for (model, task), score in np.ndenumerate(scores):
            if (model, task) not in without:
                name = f"owner{model % 12}/m{model:02d}"
                rows.writerow((name, KINDS[task % 3], f"t{task:02d}", float(score)))
    return path
