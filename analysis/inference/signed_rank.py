"""Wilcoxon's signed-rank test, exact with any ties and zeros, for many pairs of models at once.

What is random: under the null hypothesis each task's difference is as likely to have the other
sign, so the test runs over the 2^n signs with the sizes held fixed. It generalises to other tasks
as far as these are a sample of them; it knows nothing of seeds, which are averaged before.

Ties get midranks, and the null distribution is that of these midranks, not the tabulated one.
Zeros: "wilcox" leaves them out before ranking (Wilcoxon, 1945), "pratt" ranks them and then leaves
out their ranks (Pratt, 1959). Ties and zeros are exact equality: round the differences first if
they come from rounded scores. p is twice the smaller tail, at most 1, and at least 2^(1-n).

Letters: P pairs of models, n tasks. A difference that is missing is NaN and lowers its pair's n.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.arrays import FloatArray, IntArray

Zeros = Literal["wilcox", "pratt"]
MOST_TASKS = 1000  # 2^-n is a normal number up to here


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedRank:
    """Rank sums of the positive and the negative differences, and p; all are (P,)."""

    positive: FloatArray
    negative: FloatArray
    p: FloatArray

    @property
    def statistic(self) -> FloatArray:
        """The smaller rank sum (P,), as scipy has it."""
        return np.minimum(self.positive, self.negative)

    @property
    def rank_biserial(self) -> FloatArray:
        """The matched-pairs rank-biserial correlation (P,), -1 to 1 (Kerby, 2014); 0 of zeros.

        The share of the rank sum that is positive, less the share that is negative.
        """
        total = self.positive + self.negative
        ahead = (self.positive - self.negative) / np.where(total > 0, total, 1.0)
        return np.asarray(ahead, dtype=np.float64)


def signed_rank(differences: FloatArray, zeros: Zeros = "wilcox") -> SignedRank:
    """Test each row of differences (P, n), two-sided; a row without a non-zero value has p 1.

    Raises:
        ValueError: If there are more than 1000 tasks; use `signs.sign_flip` there.

    >>> signed_rank(np.array([[0.3, 0.1, 0.2, 0.5, 0.4]])).p
    array([0.0625])
    """
    if differences.shape[1] > MOST_TASKS:
        raise ValueError(
            f"differences: expected at most {MOST_TASKS} tasks, got {differences.shape[1]}; "
            "use signs.sign_flip"
        )
    ranks, signs = doubled_midranks(differences, zeros)
    positive = (ranks * (signs > 0)).sum(axis=1)
    negative = (ranks * (signs < 0)).sum(axis=1)
    tails = _lower_tails(ranks, np.minimum(positive, negative))
    return SignedRank(positive=positive / 2, negative=negative / 2, p=np.minimum(2 * tails, 1.0))


def doubled_midranks(differences: FloatArray, zeros: Zeros) -> tuple[IntArray, FloatArray]:
    """Twice the midranks of |difference|, in ascending order, and the signs in that order.

    Both are (P, n). Doubled, so that midranks are whole; 0 where a value takes no part.
    """
    sizes = np.abs(differences)
    if zeros == "wilcox":
        sizes = np.where(sizes == 0, np.nan, sizes)
    order = np.argsort(sizes, axis=1, kind="stable")
    ordered = np.take_along_axis(sizes, order, axis=1)
    at = np.arange(ordered.shape[1])
    starts = np.ones(ordered.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:, :-1] = starts[:, 1:]
    first = np.maximum.accumulate(np.where(starts, at, 0), axis=1)
    last = np.where(ends, at, ordered.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.where(np.nan_to_num(ordered) > 0, first + last + 2, 0).astype(np.int64)
    return ranks, np.sign(np.take_along_axis(differences, order, axis=1))


def _lower_tails(ranks: IntArray, sums: IntArray) -> FloatArray:
    """P(W <= sum) for each row; rows with the same ranks share one distribution."""
    rows = np.ascontiguousarray(ranks)
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, pattern = np.unique(keys, return_index=True, return_inverse=True)
    largest = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(largest, pattern, sums)
    tails = np.empty(len(ranks))
    by_pattern = np.argsort(pattern, kind="stable")
    ends = np.cumsum(np.bincount(pattern))
    for row, most, members in zip(first, largest, np.split(by_pattern, ends[:-1]), strict=True):
        tails[members] = lower_tail(ranks[row], int(most))[sums[members]]
    return tails


def lower_tail(ranks: IntArray, most: int) -> FloatArray:
    """P(W <= w) for w = 0 ... most, (most + 1,), where W adds each of the ranks (n,) or 0.

    Dynamic programming over the ranks: each is added or not, with one half each. All terms are
    positive, so the tail is right to the relative precision of a double.

    >>> lower_tail(np.array([1, 2, 3]), 3)
    array([0.125, 0.25 , 0.375, 0.625])
    """
    kept = ranks[ranks > 0]
    step = int(np.gcd.reduce(kept)) if len(kept) else 1
    reach = most // step
    mass = np.zeros(reach + 1)
    mass[0] = np.ldexp(1.0, -len(kept))
    for rank in (kept // step).tolist():
        if rank <= reach:
            mass[rank:] += mass[:-rank]
    return np.asarray(np.cumsum(mass)[np.arange(most + 1) // step], dtype=np.float64)
