import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.arrays import FloatArray
from analysis.pseudovalues import (
    item_values,
    left_out_pairs,
    seeds_by_items,
    spearman_pseudovalues,
)


def all_pairs(number: int) -> list[str]:
    return [f"d{a:02d}|d{b:02d}" for a in range(number) for b in range(a + 1, number)]


def frame(pairs: list[str], value: FloatArray, gold: FloatArray) -> pd.DataFrame:
    return pd.DataFrame({"kind": "pair", "item": pairs, "value": value, "gold": gold})


def slow_jackknife(frame: pd.DataFrame) -> FloatArray:
    """Leave out each document in turn, with scipy on what remains; then shift to theta."""
    theta = stats.spearmanr(frame["value"], frame["gold"]).statistic
    documents = sorted({d for pair in frame["item"] for d in pair.split("|")})
    values = []
    for document in documents:
        rest = frame[[document not in pair.split("|") for pair in frame["item"]]]
        without = stats.spearmanr(rest["value"], rest["gold"]).statistic
        values.append(len(documents) * theta - (len(documents) - 1) * without)
    return np.array(values) - np.mean(values) + theta


@pytest.mark.parametrize("decimals", [1, 6])  # with many ties, and without
def test_pairs_against_a_slow_loop(decimals: int) -> None:
    generator = np.random.default_rng(3)
    pairs = all_pairs(12)
    gold = generator.integers(0, 6, len(pairs)).astype(float)
    value = (gold + generator.normal(0, 2, len(pairs))).round(decimals)
    cells = frame(pairs, value, gold)
    got = item_values(cells)
    np.testing.assert_allclose(got, slow_jackknife(cells), rtol=1e-10)
    assert got.mean() == pytest.approx(stats.spearmanr(value, gold).statistic)
    assert got.index.tolist() == [f"d{n:02d}" for n in range(12)]


def test_the_order_of_pairs_and_a_monotone_scale_do_not_matter() -> None:
    generator = np.random.default_rng(4)
    pairs = all_pairs(10)
    gold, value = generator.normal(size=(2, len(pairs)))
    cells = frame(pairs, value, gold)
    expected = item_values(cells)
    np.testing.assert_allclose(item_values(cells.iloc[::-1]), expected)
    np.testing.assert_allclose(item_values(cells.assign(value=np.exp(value))), expected)


def test_pairs_that_share_no_document_are_left_out_as_pairs() -> None:
    pairs = [f"a{n}|b{n}" for n in range(30)]
    units = left_out_pairs(pairs)
    assert sorted(units) == sorted(pairs)
    assert all(pairs[at[0]] == name and len(at) == 1 for name, at in units.items())


def test_the_jackknife_variance_of_disjoint_pairs_is_that_of_the_correlation() -> None:
    generator = np.random.default_rng(5)
    pairs = [f"a{n}|b{n}" for n in range(60)]
    drawn, estimated = [], []
    for _ in range(200):
        gold, noise = generator.normal(size=(2, 60))
        values = item_values(frame(pairs, gold + noise, gold))
        drawn.append(values.mean())
        estimated.append(values.var(ddof=1) / 60)
    assert np.mean(estimated) == pytest.approx(np.var(drawn), rel=0.25)


def test_the_jackknife_variance_of_all_pairs_is_that_of_the_correlation() -> None:
    generator = np.random.default_rng(6)
    left, right = np.triu_indices(20, 1)
    pairs = all_pairs(20)
    drawn, estimated = [], []
    for _ in range(200):
        quality = generator.normal(size=20)  # of documents, so pairs that share one go together
        gold = generator.normal(size=len(pairs))
        value = gold * (quality[left] + quality[right]) + generator.normal(size=len(pairs))
        values = item_values(frame(pairs, value, gold))
        drawn.append(values.mean())
        estimated.append(values.var(ddof=1) / 20)
    assert 0.85 < np.mean(estimated) / np.var(drawn) < 1.5  # the jackknife errs upwards


def test_a_constant_prediction_has_no_value() -> None:
    pairs = all_pairs(5)
    units = list(left_out_pairs(pairs).values())
    values = spearman_pseudovalues(np.ones(10), np.arange(10.0), units)
    assert np.isnan(values).all()


def test_other_kinds_pass_as_they_are() -> None:
    cells = pd.DataFrame(
        {"kind": "query", "item": ["q1", "q0"], "value": [0.2, 0.4], "gold": [np.nan, np.nan]}
    )
    assert item_values(cells).to_dict() == {"q1": 0.2, "q0": 0.4}


def test_seeds_are_stacked_and_gaps_stay_gaps() -> None:
    def make(names: list[str], value: list[float]) -> pd.DataFrame:
        return pd.DataFrame({"kind": "text", "item": names, "value": value, "gold": np.nan})

    stacked = seeds_by_items({7: make(["a", "b"], [1.0, 0.0]), 3: make(["b", "c"], [0.5, 0.25])})
    assert stacked.seeds == (3, 7)
    assert stacked.items == ("a", "b", "c")
    np.testing.assert_array_equal(stacked.values, [[np.nan, 0.5, 0.25], [1.0, 0.0, np.nan]])


def test_errors() -> None:
    mixed = pd.DataFrame({"kind": ["query", "text"], "item": ["a", "b"], "value": [0.0, 1.0]})
    with pytest.raises(ValueError, match=r"kind: expected one kind .* got \['query', 'text'\]"):
        item_values(mixed)
    with pytest.raises(ValueError, match=r"item: expected a pair 'docA\|docB', got 'd1'"):
        left_out_pairs(["d1"])
