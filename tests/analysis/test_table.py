import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import table
from analysis.table import TableError, category_scores, items, load, write_csv

PARAMS = {"attention.mask": "causal", "pooling.token_scope": "last", "pooling.head": "none"}


def test_rows_become_tables(filled: Any) -> None:
    results = load(filled.folder)
    assert results.study == "first"
    assert len(results.trials) == 18 + 9 + 2
    for column in table.COUNTS:
        assert results.trials[column].dtype == "Int64"
    assert results.trials["flops_per_token"].dtype == float
    assert table.parameter_columns(results.trials) == [
        "attention.mask",
        "pooling.head",
        "pooling.num_layers",
        "pooling.token_scope",
        "pooling.width",
    ]
    absent = results.trials.loc[results.trials["pooling.head"] == "none", "pooling.width"]
    assert all(table.is_missing(value) for value in absent)
    assert list(results.scores.columns) == list(table.SCORE_COLUMNS)
    assert set(results.scores["split"]) == {"choosing", "confirming"}
    assert results.versions.to_numpy().tolist() == [
        ["torch", "2.13.0"],
        ["transformers", "5.23.0"],
    ]


def test_items_are_those_of_the_named_rows(filled: Any) -> None:
    cells = items(load(filled.folder), ["confirm-0001", "search-0007"])
    assert set(cells["name"]) == {"confirm-0001"}  # search-0007 failed and has no items
    assert cells.columns.tolist() == ["name", *table.ITEM_COLUMNS]
    assert cells["task"].value_counts()["STSConfirming"] == 30 * 29 // 2


def test_a_mean_over_fewer_tasks_is_no_score(study: Any) -> None:
    both = {"scores": {"A": 0.2, "B": 0.4}, "categories": {"A": "STS", "B": "STS"}}
    study.add("search-0000", PARAMS, **both)
    study.add("search-0001", PARAMS, scores={"A": 0.9}, categories={"A": "STS"})
    means = category_scores(load(study.folder), "choosing")["STS"]
    assert means["search-0000"] == pytest.approx(0.3)
    assert pd.isna(means["search-0001"])


def test_csv_has_one_line_for_each_row(filled: Any, tmp_path: Path) -> None:
    write_csv(load(filled.folder), tmp_path / "results.csv")
    frame = pd.read_csv(tmp_path / "results.csv")
    assert len(frame) == 29
    assert {"name", "pooling.width", "score.STSChoosing", "reason"} <= set(frame.columns)


def test_a_parameter_named_like_a_column_keeps_both(study: Any) -> None:
    study.add("search-0000", PARAMS | {"seed": 7}, seed=3)
    trials = load(study.folder).trials
    assert trials["seed"].tolist() == [3]
    assert trials["params.seed"].tolist() == [7]


def test_an_older_row_without_all_costs_is_read(study: Any) -> None:
    path = study.add("search-0000", PARAMS)
    row = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in row.items() if k not in table.LATER}))
    study.add("search-0001", PARAMS, flops_per_token=None)
    trials = load(study.folder).trials
    assert trials["trainable_parameters"].tolist() == [400_000] * 2
    assert trials["embedding_size"].isna().tolist() == [True, False]
    assert trials["flops_per_token"].isna().all()


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"results: expected a folder at .*nowhere/results, got"):
        load(tmp_path / "nowhere")


def test_the_results_folder_itself_leads_to_its_study(filled: Any) -> None:
    with pytest.raises(TableError) as error:
        load(filled.folder / "results")
    assert str(error.value).endswith(f"give the study's own folder, {filled.folder}")


def test_no_rows(study: Any) -> None:
    with pytest.raises(TableError, match=r"at least one row \(\*\.json\) in .*, got none"):
        load(study.folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"role": "winner"}, r"search-0000\.json: role: expected one of \('search', .*'winner'"),
        ({"seed": "1"}, r"search-0000\.json: seed: expected int, got '1'"),
        ({"reason": 3}, r"search-0000\.json: reason: expected str or null, got 3"),
        (
            {"scores": {"A": 1.2}, "categories": {"A": "STS"}},
            r"scores\.A: expected a score from 0 to 1, got 1\.2",
        ),
        ({"scores": {"A": float("nan")}, "categories": {"A": "STS"}}, r"scores\.A: .* got nan"),
        (
            {"scores": {"A": 0.2}, "categories": {}},
            r"categories\.A: expected a category, got none",
        ),
        ({"curve": [{"loss": 1}]}, r"curve\.0: expected an object with a step, got \{'loss': 1\}"),
    ],
)
def test_a_faulty_row_is_named(study: Any, change: Any, fault: Any) -> None:
    study.add("search-0000", PARAMS, **change)
    with pytest.raises(TableError, match=fault):
        load(study.folder)


def test_all_faults_come_together(study: Any) -> None:
    path = study.add("search-0000", PARAMS)
    row = json.loads(path.read_text())
    del row["digest"]
    path.write_text(json.dumps(row))
    (study.folder / "results" / "search-0001.json").write_text('{"study": ')
    with pytest.raises(TableError) as error:
        load(study.folder)
    assert str(error.value).splitlines() == [
        "search-0000.json: digest: expected a value, got none",
        "search-0001.json: expected a JSON object, got Expecting value: line 1 column 11 "
        "(char 10)",
        "remove a broken row, and its trial can be run again",
    ]


def test_what_is_there_for_information_enters_no_test(study: Any) -> None:
    study.add("search-0000", PARAMS)
    path = study.folder / "results" / "search-0000.items.parquet"
    results = load(study.folder)
    before = items(results, ["search-0000"])
    good = pd.read_parquet(path)
    fits = good.assign(kind="fit", value=0.0)
    pd.concat([fits, good, fits.assign(item="fit0")]).to_parquet(path)
    pd.testing.assert_frame_equal(items(results, ["search-0000"]), before)


def test_items_that_break_the_contract(study: Any) -> None:
    study.add("search-0000", PARAMS)
    path = study.folder / "results" / "search-0000.items.parquet"
    results = load(study.folder)
    good = pd.read_parquet(path)
    good.drop(columns="gold").to_parquet(path)
    with pytest.raises(TableError, match=r"search-0000\.items\.parquet: expected the columns"):
        items(results, ["search-0000"])
    good.assign(kind="word").to_parquet(path)
    with pytest.raises(TableError, match=r"kind: expected one of .*, got \['word'\]"):
        items(results, ["search-0000"])
    pd.concat([good, good.tail(1)]).to_parquet(path)
    with pytest.raises(TableError, match="item: expected each once in a task, got 'i007' twice"):
        items(results, ["search-0000"])
    path.write_bytes(b"no parquet")
    with pytest.raises(TableError, match=r"search-0000\.items\.parquet: expected a parquet file"):
        items(results, ["search-0000"])
