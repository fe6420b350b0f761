"""Many models over the same tasks: Friedman's test, then Nemenyi's or Conover's for all pairs.

What is random: within each task all orders of the models are equally likely under the null
hypothesis, and tasks are independent. Ties get midranks and lower the rank variance accordingly;
a task on which all models are equal says nothing. The tables' chi-square is too timid (Demšar,
2006), so F of Iman and Davenport (1980) is given beside it. Nemenyi's p are corrected for all
pairs by construction, Conover's are not: pass them to `corrections`.

Letters: T tasks, M models. All scores must be there.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from analysis.arrays import FloatArray

SMALLEST_P = 1e-15  # below it, the range's quadrature returns noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Friedman:
    """The omnibus test; `mean_ranks` is (M,), and the highest score has the highest rank."""

    mean_ranks: FloatArray
    chi_square: float
    p_chi_square: float
    f: float
    p_f: float


def friedman(scores: FloatArray) -> Friedman:
    """Test that all models of scores (T, M) rank alike (Friedman, 1937; ties as Conover, 1999)."""
    ranks = _ranks(scores)
    num_tasks, num_models = ranks.shape
    spread = _spread(ranks)
    center = (num_models + 1) / 2
    between = float(num_tasks * ((ranks.mean(axis=0) - center) ** 2).sum())
    chi_square = between * num_tasks / spread if spread else 0.0
    most = num_tasks * (num_models - 1)
    rest = most - chi_square
    f = (num_tasks - 1) * chi_square / rest if rest > 1e-9 * most else np.inf
    freedom = (num_models - 1, (num_models - 1) * (num_tasks - 1))
    return Friedman(
        mean_ranks=ranks.mean(axis=0),
        chi_square=chi_square,
        p_chi_square=_clip(special.chdtrc(num_models - 1, chi_square)).item(),
        f=float(f),
        p_f=_clip(special.fdtrc(*freedom, f)).item(),
    )


def nemenyi(scores: FloatArray) -> FloatArray:
    """Nemenyi's p (M, M) for all pairs of scores (T, M), corrected for all of them; diagonal 1.

    The range of mean ranks against the studentized range (Nemenyi, 1963; Demšar, 2006, section
    3.2.2). It does not know ties, which makes it timid.
    """
    ranks = _ranks(scores)
    num_tasks, num_models = ranks.shape
    error = np.sqrt(num_models * (num_models + 1) / (12 * num_tasks))
    distances, where = np.unique(_distances(ranks.mean(axis=0)), return_inverse=True)
    p = stats.studentized_range.sf(distances / error, num_models, np.inf)
    return _clip(p[where].reshape(num_models, num_models))


def conover(scores: FloatArray) -> FloatArray:
    """Conover's p (M, M) for all pairs of scores (T, M), not corrected; diagonal 1.

    Rank sums against Student's t with the variance that Friedman's statistic leaves (Conover and
    Iman, 1979; Conover, 1999, section 5.8). Only to be read where Friedman's test is significant.
    """
    ranks = _ranks(scores)
    num_tasks, num_models = ranks.shape
    freedom = (num_tasks - 1) * (num_models - 1)
    sums = ranks.sum(axis=0)
    left = float((ranks**2).sum()) - float((sums**2).sum()) / num_tasks
    distances = _distances(sums)
    error = np.sqrt(2 * num_tasks * max(left, 0.0) / freedom)
    same = distances <= 1e-9 * num_tasks
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(same, 0.0, distances / error)
    return _clip(2 * special.stdtr(freedom, -t))


def _ranks(scores: FloatArray) -> FloatArray:
    return np.asarray(stats.rankdata(scores, axis=1), dtype=np.float64)


def _spread(ranks: FloatArray) -> float:
    """The variance of a rank within its task, summed over the tasks."""
    num_models = ranks.shape[1]
    squares = float((ranks**2).sum()) - ranks.size * (num_models + 1) ** 2 / 4
    return float(squares / (num_models - 1))


def _distances(values: FloatArray) -> FloatArray:
    return np.abs(values[:, None] - values[None, :])


def _clip(p: FloatArray) -> FloatArray:
    return np.clip(p, SMALLEST_P, 1.0)
