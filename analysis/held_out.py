"""How well a learned set of tasks ranks models that it was not learned from.

Models are split into folds; everything that is learned (the set, its weights, the rule) is learned
from the other folds alone, so what is said of a fold's models is said of new models. The splits
are drawn several times. Aliases stay in one fold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, t

from analysis.arrays import BoolArray, FloatArray, IntArray
from analysis.subsets import Moments, Rule, Score

CHOSEN = "chosen"  # the rule that was best inside the training folds
NUM_INNER = 5  # folds that choose among rules
STRENGTHS = (0.01, 0.1, 1.0)
LEVEL = 0.95

Search = Callable[[Score], tuple[int, ...]]
"""From how good sets are to the best set of tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A learned set of tasks, and what it says a model's full mean is."""

    tasks: tuple[int, ...]
    weights: FloatArray
    intercept: float
    rule: Rule

    def predict(self, scores: FloatArray) -> FloatArray:
        """Return the predicted full mean [n] of models with `scores` [n, all tasks]."""
        predicted: FloatArray = self.intercept + scores[:, list(self.tasks)] @ self.weights
        return predicted


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What was said of each model by what was learned without it, under one rule."""

    predicted: FloatArray  # [repeats, models]
    suites: tuple[Suite, ...]  # of each repeat and fold

    def chosen_share(self, num_tasks: int) -> FloatArray:
        """Return in which share of the folds each task was chosen."""
        counts = np.bincount([t for s in self.suites for t in s.tasks], minlength=num_tasks)
        shares: FloatArray = counts / len(self.suites)
        return shares

    def overlap(self) -> float:
        """Return the mean share of common tasks, of all in either, of two folds' suites."""
        sets = [set(suite.tasks) for suite in self.suites]
        pairs = [(a, b) for place, a in enumerate(sets) for b in sets[:place]]
        return float(np.mean([len(a & b) / len(a | b) for a, b in pairs]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """A held-out rank correlation, its 95 % interval, and its range over the splits."""

    value: float
    low: float
    high: float
    sureness: float  # confidence that it is at least what is wanted
    worst_split: float
    best_split: float
    num_models: int


def rules(kinds: IntArray) -> dict[str, tuple[Rule, ...]]:
    """Return the rules by name; of a name with several, inner folds take the best."""
    return {
        "mean": (Rule(name="mean"),),
        "category_mean": (Rule(name="category_mean", kinds=kinds),),
        "fitted": tuple(Rule(name="fitted", strength=s) for s in STRENGTHS),
    }


def learn(
    scores: FloatArray,
    target: FloatArray,
    groups: IntArray,
    search: Search,
    families: Mapping[str, Sequence[Rule]],
    generator: np.random.Generator,
) -> dict[str, Suite]:
    """Learn a suite by each family of rules, and by the best of all, from these models alone."""
    every = [rule for family in families.values() for rule in family]
    errors = [0.0]
    if len(every) > 1:
        fold = split(groups, NUM_INNER, generator)
        errors = [_error(scores, target, fold, search, rule) for rule in every]
    best = {
        name: min((errors[every.index(r)], place) for place, r in enumerate(family))
        for name, family in families.items()
    }
    chosen = min(best, key=lambda name: best[name][0])
    suites = {
        name: fit(scores, target, search, families[name][place])
        for name, (_, place) in best.items()
    }
    return {**suites, CHOSEN: suites[chosen]}


def fit(scores: FloatArray, target: FloatArray, search: Search, rule: Rule) -> Suite:
    """Return the best suite of a rule for these models, and its weights."""
    moments = Moments.of(scores, target)
    tasks = search(lambda subsets: moments.explained(subsets, rule))
    weights = moments.weights(np.array([tasks]), rule)[0]
    intercept = float(target.mean() - scores[:, list(tasks)].mean(axis=0) @ weights)
    return Suite(tasks=tasks, weights=weights, intercept=intercept, rule=rule)


def hold_out(
    scores: FloatArray,
    target: FloatArray,
    groups: IntArray,
    search: Search,
    families: Mapping[str, Sequence[Rule]],
    *,
    repeats: int,
    num_folds: int,
    seed: int,
) -> dict[str, HeldOut]:
    """Return what is said of each model by what was learned from the other folds, by rule."""
    generator = np.random.default_rng(seed)
    names = (*families, CHOSEN)
    predicted = {name: np.empty((repeats, len(scores))) for name in names}
    suites: dict[str, list[Suite]] = {name: [] for name in names}
    for repeat in range(repeats):
        fold = split(groups, num_folds, generator)
        for number in range(num_folds):
            rest, held = fold != number, fold == number
            learned = learn(scores[rest], target[rest], groups[rest], search, families, generator)
            for name, suite in learned.items():
                predicted[name][repeat, held] = suite.predict(scores[held])
                suites[name].append(suite)
    return {n: HeldOut(predicted=predicted[n], suites=tuple(suites[n])) for n in names}


def split(groups: IntArray, num_folds: int, generator: np.random.Generator) -> IntArray:
    """Return the fold of each model: groups whole and by lot, large ones first, folds alike."""
    numbers, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = generator.permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    taken = np.zeros(num_folds, dtype=np.int64)
    fold = np.empty(len(numbers), dtype=np.int64)
    for group in order:
        fold[group] = taken.argmin()
        taken[fold[group]] += sizes[group]
    return fold[place]


def correlate(
    predicted: FloatArray,
    target: FloatArray,
    groups: IntArray,
    among: BoolArray,
    wanted: float = 0.0,
) -> Correlation:
    """Return Spearman's correlation of `predicted` [repeats, models] with the full mean.

    It is taken among some of the models; `wanted` is what `sureness` is about.
    The mean over repeats is taken of Fisher's z = artanh(rho). The interval is the jackknife's:
    the groups of models are a sample, of which each is left out in turn. It stands for other
    models, not for other tasks, and takes what was learned in each fold as given.
    """
    splits = [spearman(row[among], target[among]) for row in predicted]
    present = np.unique(groups[among])
    value, number = _mean_z(predicted[:, among], target[among]), len(present)
    rest = [among & (groups != group) for group in present]
    without = np.array([_mean_z(predicted[:, kept], target[kept]) for kept in rest])
    error = math.sqrt((number - 1) * float(without.var()))
    half = float(t.isf((1 - LEVEL) / 2, number - 1)) * error
    above = value - math.atanh(wanted)
    return Correlation(
        value=math.tanh(value),
        low=math.tanh(value - half),
        high=math.tanh(value + half),
        sureness=float(t.cdf(above / error, number - 1)) if error else float(above >= 0),
        worst_split=min(splits),
        best_split=max(splits),
        num_models=int(among.sum()),
    )


def spearman(left: FloatArray, right: FloatArray) -> float:
    """Return Spearman's rank correlation; 0 where one side is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 9.0, 4.0]))
    0.5
    """
    one, other = (rankdata(each) - (len(each) + 1) / 2 for each in (left, right))
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else 0.0


def _mean_z(predicted: FloatArray, target: FloatArray) -> float:
    almost = 1 - 1e-9  # a perfect rank order has no finite z
    return float(
        np.mean([math.atanh(np.clip(spearman(p, target), -almost, almost)) for p in predicted])
    )


def _error(
    scores: FloatArray, target: FloatArray, fold: IntArray, search: Search, rule: Rule
) -> float:
    """Return the mean squared error on models that a suite was not learned from."""
    errors = np.empty(len(target))
    for number in np.unique(fold):
        rest, held = fold != number, fold == number
        suite = fit(scores[rest], target[rest], search, rule)
        errors[held] = suite.predict(scores[held]) - target[held]
    return float(np.mean(errors**2))
