"""Two tests that look at signs alone: the sign test over tasks, sign flips over items.

Both are conditional on the sizes of the differences. The sign test uses nothing but who won; the
sign-flip test asks how often random signs give a mean as far from 0, which for items of one task
(queries, texts) is the permutation test of two paired systems (Fisher, 1935).
"""

import numpy as np
from scipy import special

from analysis.arrays import FloatArray, IntArray

CHUNK = 2**22  # signs that are held at once
EQUAL = 1 - 1e-12  # two means that differ by rounding are equal


def sign_test(differences: FloatArray) -> FloatArray:
    """Two-sided exact sign test of each row of differences (P, n); p is (P,).

    Zeros and NaN take no part (Conover, 1999, section 3.4); a row without others has p 1.

    >>> sign_test(np.array([[0.1, 0.2, 0.3, 0.4, -0.5]]))
    array([0.375])
    """
    wins, losses = (differences > 0).sum(axis=1), (differences < 0).sum(axis=1)
    tail = special.bdtr(np.minimum(wins, losses), wins + losses, 0.5)
    return np.asarray(np.minimum(2 * tail, 1.0), dtype=np.float64)


def sign_flip(differences: FloatArray, draws: int, generator: np.random.Generator) -> FloatArray:
    """Two-sided p (P,) of the mean of each row of differences (P, I) under random signs.

    (b + 1) / (draws + 1), where b random signs give a mean at least as far from 0 (Phipson and
    Smyth, 2010). All rows get the same signs. Where all 2^I signs are at most `draws`, each is
    looked at once and p is exact. Zeros stay and change nothing; no value may be NaN.
    """
    num_items = differences.shape[1]
    observed = np.abs(differences.sum(axis=1)) * EQUAL
    exact = num_items < 60 and 2**num_items <= draws
    total = 2**num_items if exact else draws
    step = max(CHUNK // max(num_items, 1), 1)
    beyond = np.zeros(len(differences), dtype=np.int64)
    for start in range(0, total, step):
        count = min(step, total - start)
        signs = _every(start, count, num_items) if exact else _drawn(generator, count, num_items)
        beyond += (np.abs(signs @ differences.T) >= observed).sum(axis=0)
    p = beyond / total if exact else (beyond + 1) / (total + 1)
    return np.asarray(p, dtype=np.float64)


def _every(start: int, count: int, num_items: int) -> FloatArray:
    numbers: IntArray = np.arange(start, start + count, dtype=np.int64)
    bits = (numbers[:, None] >> np.arange(num_items)) & 1
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


def _drawn(generator: np.random.Generator, count: int, num_items: int) -> FloatArray:
    bits = generator.integers(0, 2, (count, num_items), dtype=np.int8)
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)
