"""Corrections for many tests: Holm for claims, Benjamini and Hochberg for exploration.

Both take p values along the last axis, a family each, and give adjusted p values of the same
shape, clipped at 1. NaN is a test that was not made: it stays NaN, and its family is smaller.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.arrays import FloatArray, IntArray

Correction = Literal["holm", "bh"]


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p values (Holm, 1979): the chance of any false claim is bounded.

    It holds whatever the dependence between the tests.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    ordered, order, sizes, ranks = _ordered(p_values)
    raised = np.maximum.accumulate(ordered * np.maximum(sizes - ranks, 0), axis=-1)
    return _back(np.minimum(raised, 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini and Hochberg's (1995) adjusted p values: the share of false claims is bounded.

    For independent or positively dependent tests; all pairs of models are not quite, so it is
    offered for exploration.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    ordered, order, sizes, ranks = _ordered(p_values)
    scaled = np.where(np.isnan(ordered), np.inf, ordered * (sizes / (ranks + 1)))
    lowered = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    return _back(np.where(np.isnan(ordered), np.nan, np.minimum(lowered, 1.0)), order)


CORRECTIONS = {"holm": holm, "bh": benjamini_hochberg}


def _ordered(p_values: ArrayLike) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    values = np.asarray(p_values, dtype=np.float64)
    order: IntArray = np.argsort(values, axis=-1, kind="stable")
    ranks: IntArray = np.arange(values.shape[-1])
    sizes: IntArray = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    return np.take_along_axis(values, order, axis=-1), order, sizes, ranks


def _back(adjusted: FloatArray, order: IntArray) -> FloatArray:
    result = np.empty_like(adjusted)
    np.put_along_axis(result, order, adjusted, axis=-1)
    return result
