"""Contrasts of factors against marginal means, least squares and NV-Embed's published table."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols

from analysis.contrasts import compare
from analysis.factorial import (
    Levels,
    contrast_values,
    factors_of,
    interactions,
    level_contrast,
    levels_of,
    main_effects,
)
from analysis.inference.corrections import holm
from analysis.inference.signed_rank import signed_rank

POOLINGS, MASKS = ("EOS", "mean", "latent", "self-attention"), ("causal", "bidirectional")
# NV-Embed (arXiv 2405.17428), after the second stage: EOS, mean, latent and self-attention, each
# bidirectional and causal; categories are the sets of MTEB
NV_EMBED = {
    "Retrieval": (58.39, 56.59, 58.71, 57.88, 59.36, 58.33, 58.64, 57.71),
    "Reranking": (60.37, 59.23, 60.77, 60.27, 60.54, 60.57, 60.5, 60.38),
    "Clustering": (51.43, 49.81, 52.80, 51.58, 52.80, 51.7, 53.34, 51.51),
    "PairClassification": (84.06, 80.99, 87.45, 82.89, 86.91, 83.45, 86.12, 84.44),
    "Classification": (85.85, 85.04, 87.06, 86.08, 87.35, 86.58, 86.76, 86.25),
    "STS": (79.55, 79.12, 82.53, 81.74, 82.84, 81.94, 82.38, 81.52),
}
NV_CELLS: list[Levels] = [
    {"attention": mask, "pooling": pooling} for pooling in POOLINGS for mask in MASKS
]
NV_SCORES = np.array(  # (C, 1, 6), the causal cell of each pooling first, as in NV_CELLS
    [[[row[place ^ 1] for row in NV_EMBED.values()]] for place in range(len(NV_CELLS))]
)


def whole() -> list[Levels]:
    """Two by three by two cells, the control first."""
    return [
        {"mask": mask, "scope": scope, "heads": heads}
        for mask, scope, heads in product(("causal", "bi"), ("last", "mean", "all"), ("1", "8"))
    ]


def test_a_whole_factorial_has_differences_of_marginal_means() -> None:
    cells = whole()
    scores = np.random.default_rng(0).normal(0, 1, (len(cells), 1, 1))
    frame = pd.DataFrame(cells).assign(score=scores.ravel())
    found = main_effects(cells)
    assert [effect.label for effect in found] == ["mask bi", "scope mean", "scope all", "heads 8"]
    for effect in found:
        means = frame.groupby(effect.factors[0])["score"].mean()
        expected = means[effect.levels[0]] - means[effect.references[0]]
        assert contrast_values(scores, effect)[0, 0] == pytest.approx(expected)
        assert effect.method == "matched"
        assert effect.weights.sum() == pytest.approx(0)


def test_interactions_are_differences_of_differences() -> None:
    cells = whole()
    scores = np.random.default_rng(1).normal(0, 1, (len(cells), 1, 1))
    frame = pd.DataFrame(cells).assign(score=scores.ravel())
    found = interactions(cells)
    assert len(found) == 1 * 2 + 1 * 1 + 2 * 1
    for effect in found:
        means = frame.groupby(list(effect.factors))["score"].mean()
        (a, b), (r, s) = effect.levels, effect.references
        expected = means[a, b] - means[a, s] - means[r, b] + means[r, s]
        assert contrast_values(scores, effect)[0, 0] == pytest.approx(expected)
        assert effect.reference == "the sum of their own effects"


def test_additive_scores_have_their_effects_and_no_interaction() -> None:
    cells = whole()
    gains = {"mask": {"bi": 3.0}, "scope": {"mean": 1.0, "all": -2.0}, "heads": {"8": 0.5}}
    scores = np.array([[[sum(gains[f].get(v, 0) for f, v in cell.items())]] for cell in cells])
    for effect in main_effects(cells):
        expected = gains[effect.factors[0]][effect.levels[0]]
        assert contrast_values(scores, effect)[0, 0] == pytest.approx(expected)
    for effect in interactions(cells):
        assert contrast_values(scores, effect)[0, 0] == pytest.approx(0)


def test_a_factor_that_some_cells_lack_is_averaged_over() -> None:
    cells: list[Levels] = [
        {"mask": mask, **head}
        for mask in ("causal", "bi")
        for head in ({"head": "none"}, {"head": "x", "width": "1"}, {"head": "x", "width": "2"})
    ]
    effects = {effect.label: effect.weights for effect in main_effects(cells)}
    assert list(effects) == ["mask bi", "head x", "width 2"]
    np.testing.assert_allclose(effects["head x"], [-0.5, 0.25, 0.25, -0.5, 0.25, 0.25])
    np.testing.assert_allclose(effects["width 2"], [0, -0.5, 0.5, 0, -0.5, 0.5])


def test_a_fraction_has_the_effects_of_least_squares() -> None:
    """A half of 2 x 2 x 2 x 2: no cell has a partner that differs in one factor alone."""
    cells: list[Levels] = [
        dict(zip("abcd", map(str, levels), strict=True))
        for levels in product((0, 1), repeat=4)
        if sum(levels) % 2 == 0
    ]
    scores = np.random.default_rng(2).normal(0, 1, len(cells))
    fit = ols("score ~ a + b + c + d", pd.DataFrame(cells).assign(score=scores)).fit()
    found = main_effects(cells)
    assert {effect.method for effect in found} == {"additive"}
    for effect in found:
        expected = fit.params[f"{effect.factors[0]}[T.1]"]
        assert effect.weights @ scores == pytest.approx(expected)


def test_confounded_factors_have_no_effect() -> None:
    cells: list[Levels] = [{"a": "0", "b": "0"}, {"a": "1", "b": "1"}]
    assert main_effects(cells) == []
    assert interactions(cells) == []


def test_any_named_pair_of_levels() -> None:
    effect = level_contrast(whole(), "scope", "all", "mean")
    assert effect is not None
    assert effect.weights[:6] == pytest.approx([0, 0, -0.25, -0.25, 0.25, 0.25])
    assert level_contrast(whole(), "scope", "all", "nothing") is None


def test_levels_are_text_and_missing_ones_are_absent() -> None:
    cell = levels_of({"width": 128, "layers": [1, 2], "scope": None, "x": float("nan")}, ["width"])
    assert cell == {"width": "128"}
    assert factors_of([cell, {"width": "256", "head": "x"}]) == {"width": ["128", "256"]}


class TestNvEmbed:
    """Which attention, which pooling: eight cells on six categories of MTEB."""

    cells = NV_CELLS
    scores = NV_SCORES

    def test_the_effects_are_those_of_least_squares_over_the_categories(self) -> None:
        long = pd.DataFrame(
            [
                {**cell, "category": name, "score": self.scores[at, 0, column]}
                for at, cell in enumerate(self.cells)
                for column, name in enumerate(NV_EMBED)
            ]
        )
        formula = "score ~ C(category) + C(attention, Sum) * C(pooling, Sum)"
        fit = ols(formula, long).fit()
        mask = main_effects(self.cells)[0]
        assert mask.label == "attention bidirectional"
        values = contrast_values(self.scores, mask)
        assert abs(fit.params["C(attention, Sum)[S.bidirectional]"]) * 2 == pytest.approx(
            values.mean()
        )

    def test_bidirectional_attention_and_any_pooling_help(self) -> None:
        effects = main_effects(self.cells)
        values = [contrast_values(self.scores, effect) for effect in effects]
        tested = [compare([each]) for each in values]
        shown = {e.label: t.effect for e, t in zip(effects, tested, strict=True)}
        table = np.array(list(NV_EMBED.values()))  # each pooling: bidirectional, causal
        poolings = table.reshape(6, 4, 2).mean(axis=(0, 2))
        assert shown == pytest.approx(
            {
                "attention bidirectional": table[:, ::2].mean() - table[:, 1::2].mean(),
                "pooling mean": poolings[1] - poolings[0],
                "pooling latent": poolings[2] - poolings[0],
                "pooling self-attention": poolings[3] - poolings[0],
            }
        )
        assert shown["attention bidirectional"] == pytest.approx(1.288, abs=5e-4)
        for each, test in zip(values, tested, strict=True):
            expected = stats.ttest_1samp(each[0], 0)
            interval = expected.confidence_interval()
            assert test.p == pytest.approx(expected.pvalue)
            assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
        assert (signed_rank(np.concatenate(values)).p == 0.03125).all()  # 6 of 6 categories
        assert (holm([0.03125] * 4) > 0.05).all()  # so no test over them survives

    def test_the_mask_does_not_depend_on_the_pooling(self) -> None:
        found = interactions(self.cells)
        tested = [compare([contrast_values(self.scores, effect)]) for effect in found]
        assert [effect.levels[1] for effect in found] == list(POOLINGS[1:])
        assert (holm([test.p for test in tested]) > 0.4).all()
        assert max(abs(test.effect) for test in tested) < 0.6

    def test_one_category_alone(self) -> None:
        retrieval = self.scores[:, :, :1]
        mask = contrast_values(retrieval, main_effects(self.cells)[0])[0, 0]
        assert mask == pytest.approx((1.80 + 0.83 + 1.03 + 0.93) / 4)
