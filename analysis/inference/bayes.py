"""The Bayesian signed-rank test: how probable it is that one model is better *in practice*.

A p value near 1 does not say that two models are equal. Here differences within a region of
practical equivalence (say one point, 0.01) count as none, and the answer is three probabilities.
What is random are the weights of the tasks: a Dirichlet process whose prior is one pseudo-task
with the difference 0 and the weight `strength` (Benavoli, Corani, Demšar and Zaffalon, 2017,
section 4.2). Seeds are averaged before. Being a Monte Carlo estimate, a probability p has the
standard error sqrt(p (1 - p) / draws), and 0 means "not once in all draws".

Letters: P pairs of models, n tasks, B draws.
"""

import numpy as np

from analysis.arrays import BoolArray, FloatArray

STRENGTH = 0.5  # of the prior, in tasks; as the authors' own program has it
CHUNK = 8192


def bayesian_signed_rank(
    differences: FloatArray,
    rope: float,
    draws: int,
    generator: np.random.Generator,
    strength: float = STRENGTH,
) -> FloatArray:
    """Probabilities (P, 3) that the first model is worse, equivalent or better by over `rope`.

    In each draw every two tasks vote by the mean of their differences, (P, n), with the product of
    their weights; the answer with the most votes wins the draw, and a tie is shared.
    """
    num_pairs, num_tasks = differences.shape
    with_prior = np.concatenate([np.zeros((num_pairs, 1)), differences], axis=1)
    weights = np.array([strength, *np.ones(num_tasks)])
    wins = np.zeros((num_pairs, 3))
    for start in range(0, draws, CHUNK):
        drawn = generator.dirichlet(weights, min(CHUNK, draws - start))
        for pair, values in enumerate(with_prior):
            sums = values[:, None] + values
            wins[pair] += _wins(drawn, sums < -2 * rope, sums > 2 * rope)
    return wins / draws


def _wins(weights: FloatArray, below: BoolArray, above: BoolArray) -> FloatArray:
    """How many draws each answer wins; weights is (B, n + 1), the others (n + 1, n + 1)."""
    worse = ((weights @ below.astype(np.float64)) * weights).sum(axis=1)
    better = ((weights @ above.astype(np.float64)) * weights).sum(axis=1)
    votes = np.stack([worse, 1 - worse - better, better], axis=1)
    best = votes >= votes.max(axis=1, keepdims=True) - 1e-12
    return np.asarray((best / best.sum(axis=1, keepdims=True)).sum(axis=0), dtype=np.float64)
