"""The statistics' speed: the heavy parts, beside scipy and statsmodels in a loop.

The loop over all pairs is run whole, once; slower peers are run for a share of the work and their
time is scaled up, which the line says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.arrays import FloatArray
from analysis.inference.bayes import bayesian_signed_rank
from analysis.inference.rank_tests import nemenyi
from analysis.inference.resampling import bootstrap_seeds_and_tasks
from analysis.inference.signs import sign_flip
from analysis.pairs import compare_pairs, differences
from analysis.scores import Scores, scores_from
from tests.benchmarks.paired import timed

MODELS, TASKS, SEEDS = 183, 41, 5
DRAWS = 50_000
TURNS = 3


def run(device: str) -> Iterator[str]:
    """Yield a line for each part."""
    yield from _pairs()
    yield from _bootstrap()
    yield from _others()


def table(models: int, tasks: int) -> pd.DataFrame:
    """A long table of scores, as from a leaderboard of 16 digits."""
    generator = np.random.default_rng(0)
    skill, hardness = generator.normal(0.6, 0.05, (models, 1)), generator.normal(0, 0.1, tasks)
    values = skill + hardness + generator.normal(0, 0.03, (models, tasks))
    model, task = np.indices(values.shape).reshape(2, -1)
    return pd.DataFrame({"model": model, "task": task, "score": values.ravel()}).assign(
        category="any"
    )


def _pairs() -> Iterator[str]:
    frame = table(MODELS, TASKS)

    def ours(frame: pd.DataFrame) -> pd.DataFrame:
        scores = scores_from(frame)
        return compare_pairs(scores, scores.models, "all")

    seconds = _best(lambda: ours(frame))
    expected: list[FloatArray] = []
    theirs = timed(lambda: expected.append(_loop(scores_from(frame))))
    found = ours(frame)
    apart = [
        float(np.abs(found[key] - column).max())
        for key, column in zip(("p", "p_adjusted"), expected[0], strict=True)
    ]
    yield _line(
        f"all {len(found)} pairs, Holm, notes", seconds, "scipy + statsmodels loop", theirs
    )
    yield f"  largest difference of p {apart[0]:.1e}, of Holm's p {apart[1]:.1e}"
    rounded = frame.assign(score=frame["score"].round(4))
    yield _line("the same, of scores with 4 decimals", _best(lambda: ours(rounded)))


def _loop(scores: Scores) -> FloatArray:
    rows, _, _ = differences(scores.values[:, 0])
    tests: list[Any] = [stats.wilcoxon(row, method="exact") for row in rows]
    p = np.array([test.pvalue for test in tests])
    return np.stack([p, multipletests(p, method="holm")[1]])


def _bootstrap() -> Iterator[str]:
    scores = np.random.default_rng(1).normal(0, 1, (8, SEEDS, TASKS))
    share = 200

    def theirs() -> None:
        generator = np.random.default_rng(2)
        for _ in range(DRAWS // share):
            seeds, tasks = generator.integers(0, SEEDS, SEEDS), generator.integers(0, TASKS, TASKS)
            again = scores[:, seeds][:, :, tasks].reshape(8, -1)
            stats.trim_mean(again, 0.25, axis=1)

    for statistic in ("iqm", "mean"):
        seconds = _best(
            lambda chosen=statistic: bootstrap_seeds_and_tasks(  # type: ignore[misc]
                scores, DRAWS, np.random.default_rng(2), chosen
            )
        )
        name = f"{DRAWS} draws of 8 x {SEEDS} x {TASKS}, {statistic}"
        if statistic == "iqm":
            scaled = share * timed(theirs)
            yield _line(name, seconds, f"scipy.trim_mean loop (x{share} of its share)", scaled)
        else:
            yield _line(name, seconds)


def _others() -> Iterator[str]:
    generator = np.random.default_rng(3)
    rows = generator.normal(0.01, 0.03, (10, TASKS))
    yield _line(
        f"Bayesian signed-rank, 10 pairs, {DRAWS} draws",
        _best(lambda: bayesian_signed_rank(rows, 0.01, DRAWS, generator)),
    )
    items = generator.normal(0.01, 0.3, (10, 1000))
    yield _line(
        "sign flips, 10 pairs of 1000 items, 10000 draws",
        _best(lambda: sign_flip(items, 10_000, generator)),
    )
    scores = generator.normal(0, 1, (TASKS, 20))
    yield _line("Nemenyi, 20 models", _best(lambda: nemenyi(scores)))


def _best(work: Callable[[], object]) -> float:
    return min(timed(work) for _ in range(TURNS))


def _line(name: str, seconds: float, peer: str = "", theirs: float | None = None) -> str:
    beside = "" if theirs is None else f"  {peer} {theirs:8.2f} s  {theirs / seconds:6.0f}x"
    return f"{name:44} {seconds:7.3f} s{beside}"
