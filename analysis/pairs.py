"""Every pair of models, over the tasks that both have: Wilcoxon's test, effects and notes.

In each category, and in all of them together, the tasks are the sample: the claim is about other
tasks of the kind. Scores of several seeds are averaged before, so neither p nor interval is about
other seeds: the luck of a few runs, which reaches all tasks, is taken for the model's own. Where
there are seeds enough, `contrasts.compare` and `inference.mixed` cover it. The pairs of a category
are one family of the correction. Differences are rounded to 12 decimals, so that those of
rounded scores tie as they should.

Letters: M models, S seeds, T tasks, P pairs, n tasks of a category.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.arrays import FloatArray, IntArray
from analysis.inference.corrections import CORRECTIONS, Correction
from analysis.inference.effects import mean_difference
from analysis.inference.related import cluster_means, clusters
from analysis.inference.signed_rank import Zeros, signed_rank
from analysis.pair_notes import notes, seed_notes
from analysis.scores import ALL, Scores

KEYS = (
    *("a", "b", "category", "n", "mean_difference", "ci_low", "ci_high", "statistic", "p"),
    *("p_adjusted", "effect_rank_biserial", "wins", "losses", "ties", "note"),
)
DECIMALS = 12


def compare_pairs(
    scores: Scores,
    models: Sequence[str],
    category: str | None = None,
    *,
    correction: Correction = "holm",
    zeros: Zeros = "wilcox",
    related: bool = False,
) -> pd.DataFrame:
    """One row for each pair of `models` and category, with the columns `KEYS`.

    `category` restricts it to one of them ("all" for the pooled comparison); with `related`, the
    tasks of one source count once. A pair without a common task has no test: NaN, and a note.
    """
    names = [category] if category else [ALL, *sorted(set(scores.categories))]
    chosen = [scores.models.index(model) for model in models]
    values = seed_means(scores.values[chosen])
    parts = []
    for name in names:
        at = scores.tasks_of(name)
        table, tasks = values[:, at], tuple(scores.tasks[task] for task in at)
        if related:
            table, tasks = cluster_means(table, clusters(tasks))
        found = _family(table, correction, zeros)
        found.insert(0, "category", name)
        remarks = notes(found, table, models, tasks, correction)
        known = ~np.isnan(scores.values[chosen][:, :, at])
        about = seed_notes(found, known, models, scores.seeds)
        both = zip(remarks, about, strict=True)
        found["note"] = ["; ".join(filter(None, texts)) for texts in both]
        found.insert(0, "b", np.array(models, dtype=object)[found.pop("right")])
        found.insert(0, "a", np.array(models, dtype=object)[found.pop("left")])
        parts.append(found)
    return pd.concat(parts, ignore_index=True)[list(KEYS)]


def seed_means(values: FloatArray) -> FloatArray:
    """Means (M, T) over the seeds that each model has on a task, of values (M, S, T)."""
    number = (~np.isnan(values)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, axis=1) / number, dtype=np.float64)


def differences(table: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
    """First less second (P, n), and the positions (P,) of both, for all pairs of table (M, n)."""
    left, right = np.triu_indices(len(table), 1)
    rows: FloatArray = np.round(table[left] - table[right], DECIMALS)
    return rows, left.astype(np.int64), right.astype(np.int64)


def _family(table: FloatArray, correction: Correction, zeros: Zeros) -> pd.DataFrame:
    """The pairs of one category, corrected; without the names and notes."""
    rows, left, right = differences(table)
    number = (~np.isnan(rows)).sum(axis=1)
    tested = signed_rank(rows, zeros)
    mean, low, high = mean_difference(rows)
    p = np.where(number > 0, tested.p, np.nan)
    return pd.DataFrame(
        {
            "left": left,
            "right": right,
            "n": number,
            "mean_difference": mean,
            "ci_low": low,
            "ci_high": high,
            "statistic": np.where(number > 0, tested.statistic, np.nan),
            "p": p,
            "p_adjusted": CORRECTIONS[correction](p),
            "effect_rank_biserial": np.where(number > 0, tested.rank_biserial, np.nan),
            "wins": (rows > 0).sum(axis=1),
            "losses": (rows < 0).sum(axis=1),
            "ties": (rows == 0).sum(axis=1),
        }
    )
