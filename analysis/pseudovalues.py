"""From the items of a run to one number for each item, so that all metrics enter one test.

Queries, texts and sets already have a value of their own, and a task's score is their mean. A
Spearman correlation over pairs of documents is no such mean, so each document gets a jackknife
pseudo-value, as the area under the curve does in multi-reader multi-case analysis (Dorfman,
Berbaum and Metz, 1992).

Letters: S seeds, I items, P pairs, U units that are left out in turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from analysis.arrays import FloatArray, IntArray

LARGEST_GROUP = 0.1  # share of the pairs; above it, groups are no units, documents are


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsByItems:
    """One arm on one task: `values` is (S, I), NaN where a run has no value for an item."""

    seeds: tuple[int, ...]
    items: tuple[str, ...]
    values: FloatArray


def seeds_by_items(runs: Mapping[int, pd.DataFrame]) -> SeedsByItems:
    """Stack the items of one task, a frame for each seed, into one array.

    Raises:
        ValueError: If the items of the task are of several kinds, or a pair is no "a|b".
    """
    columns = {seed: item_values(frame) for seed, frame in sorted(runs.items())}
    wide = pd.DataFrame(columns).sort_index()
    return SeedsByItems(
        seeds=tuple(columns),
        items=tuple(str(item) for item in wide.index),
        values=wide.to_numpy(dtype=np.float64).T.copy(),
    )


def item_values(items: pd.DataFrame) -> "pd.Series[float]":
    """One value for each item of one run on one task; their mean is the task's main score."""
    kinds = sorted(set(items["kind"]))
    if len(kinds) != 1:
        raise ValueError(f"kind: expected one kind of items in a task, got {kinds}")
    if kinds != ["pair"]:
        return pd.Series(items["value"].to_numpy(float), index=items["item"].to_numpy(str))
    names = [str(item) for item in items["item"]]
    units = left_out_pairs(names)
    values = spearman_pseudovalues(
        items["value"].to_numpy(float), items["gold"].to_numpy(float), list(units.values())
    )
    return pd.Series(values, index=list(units))


def left_out_pairs(pairs: Sequence[str]) -> dict[str, IntArray]:
    """The pairs (positions) that leave together, by the name of the unit that is left out.

    The unit is a document, with all its pairs. Where the pairs fall into many groups that share no
    document (at the extreme, each document is in one pair), the unit is such a group: leaving out
    the two documents of a pair in turn would count that pair twice and double the variance.

    >>> {name: at.tolist() for name, at in left_out_pairs(["a|b", "a|c", "b|c"]).items()}
    {'a': [0, 1], 'b': [0, 2], 'c': [1, 2]}
    """
    ends = np.array([_documents(pair) for pair in pairs])
    documents, codes = np.unique(ends, return_inverse=True)
    codes = codes.reshape(ends.shape)
    groups = _groups(codes, len(documents))
    if np.bincount(groups).max() <= LARGEST_GROUP * len(pairs):
        first = {int(group): pairs[at] for at, group in reversed(list(enumerate(groups)))}
        return {first[g]: np.flatnonzero(groups == g) for g in sorted(first)}
    return {
        str(document): np.flatnonzero((codes == code).any(axis=1))
        for code, document in enumerate(documents)
    }


def _documents(pair: str) -> list[str]:
    ends = pair.split("|")
    if len(ends) != 2:
        raise ValueError(f"item: expected a pair 'docA|docB', got {pair!r}")
    return ends


def _groups(codes: IntArray, num_documents: int) -> IntArray:
    """The group (connected component) of each pair; codes is (P, 2)."""
    edges = sparse.coo_array(
        (np.ones(len(codes)), (codes[:, 0], codes[:, 1])), shape=(num_documents, num_documents)
    )
    _, component = sparse.csgraph.connected_components(edges, directed=False)
    return np.asarray(component[codes[:, 0]], dtype=np.int64)


def spearman_pseudovalues(
    predicted: FloatArray, gold: FloatArray, units: Sequence[IntArray]
) -> FloatArray:
    """Jackknife pseudo-values of Spearman's correlation; predicted and gold are (P,), result (U,).

    U * theta - (U - 1) * theta_without_the_unit, then shifted to have theta as their mean
    (normalised, as Hillis, Obuchowski, Schartz and Berbaum, 2005): the shift takes away the
    jackknife's correction of bias, so that the effect is the difference of the main scores. NaN
    where the correlation is undefined, as when all predictions are equal.
    """
    ranks = [stats.rankdata(predicted), stats.rankdata(gold)]
    theta = _pearson(ranks[0], ranks[1])
    without = np.array(
        [_pearson(_drop(predicted, ranks[0], unit), _drop(gold, ranks[1], unit)) for unit in units]
    )
    values = len(units) * theta - (len(units) - 1) * without
    return np.asarray(values + (theta - values.mean()), dtype=np.float64)


def _drop(values: FloatArray, ranks: FloatArray, unit: IntArray) -> FloatArray:
    """Ranks of what remains, without sorting again: each loses the left-out ones below it."""
    gone = np.sort(values[unit])
    below = np.searchsorted(gone, values, "left") + np.searchsorted(gone, values, "right")
    return np.asarray(np.delete(ranks - below / 2, unit), dtype=np.float64)


def _pearson(left: FloatArray, right: FloatArray) -> float:
    if len(left) < 2 or np.isnan(left).any() or np.isnan(right).any():
        return float("nan")
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / scale if scale else float("nan")
