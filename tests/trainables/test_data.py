"""Training triples: bad rows named, held-out texts unseen, batches fixed by seed and step."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables import boolq, data
from trainables.config import ConfigError
from trainables.data import TrainingData, Triple, batch_at, load_triples
from trainables.texts import near_duplicates, normal


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {"query": f"q{number}", "positive": f"p{number}", "negatives": [f"n{number}"]}
    return {**values, **changes}


def write(path: Path, rows: list[Any]) -> str:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def triples(num: int) -> TrainingData:
    return TrainingData(tuple(Triple(f"q{n}", f"p{n}", (f"n{n}",)) for n in range(num)), ())


@pytest.fixture(params=["jsonl", "parquet", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    rows = [row(number) for number in range(50)]
    if request.param == "jsonl":
        return write(tmp_path / "rows.jsonl", rows)
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return str(tmp_path / "rows.parquet")
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "rows"))
    return str(tmp_path / "rows")


def test_every_source_gives_the_same_triples(source: str) -> None:
    loaded = load_triples(source, num_hard_negatives=1)
    assert len(loaded.train) == 45
    assert len(loaded.held_out) == 5
    assert set(loaded.train + loaded.held_out) == set(triples(50).train)


def test_negatives_may_be_one_text_or_missing(tmp_path: Path) -> None:
    rows = [row(n, negatives=f"n{n}") for n in range(20)]
    name = write(tmp_path / "a.jsonl", rows)
    assert load_triples(name, num_hard_negatives=1).train[0].negatives == ("n0",)
    name = write(
        tmp_path / "b.jsonl", [{"query": f"q{n}", "positive": f"p{n}"} for n in range(20)]
    )
    assert load_triples(name, num_hard_negatives=0).train[0].negatives == ()


def test_only_as_many_negatives_as_asked_the_first_ones(tmp_path: Path) -> None:
    rows = [row(n, negatives=[f"a{n}", f"b{n}", f"c{n}"]) for n in range(20)]
    loaded = load_triples(write(tmp_path / "a.jsonl", rows), num_hard_negatives=2)
    assert all(len(triple.negatives) == 2 for triple in loaded.train)
    assert loaded.train[0].negatives == ("a0", "b0")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(1, positive=None), "rows.jsonl:3: positive: expected a text, got None"),
        (row(1, query=" "), "rows.jsonl:3: query: expected a text, got ' '"),
        (row(1, negatives=[1]), "rows.jsonl:3: negatives: expected a list of texts, got [1]"),
        (row(1, negatives=3), "rows.jsonl:3: negatives: expected a list of texts, got 3"),
        (row(1, negatives=[]), "rows.jsonl:3: negatives: expected at least 1, got 0"),
        ({"query": "q"}, "rows.jsonl:3: positive: expected a text, got None"),
        ("{broken", "rows.jsonl:3: expected a JSON object, got '{broken'"),
        ([1, 2], "rows.jsonl:3: expected a JSON object, got '[1, 2]'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    name = write(tmp_path / "rows.jsonl", [row(0), "", bad, row(2)])
    with pytest.raises(ConfigError) as error:
        load_triples(name, num_hard_negatives=1)
    assert str(error.value) == message


def test_ten_bad_rows_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    name = write(tmp_path / "rows.jsonl", [row(n, query=None) for n in range(25)])
    with pytest.raises(ConfigError) as error:
        load_triples(name, num_hard_negatives=1)
    lines = str(error.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 15 more rows"


def test_missing_and_empty_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.data: expected a file, got 'nowhere\.jsonl'"
    ):
        load_triples("nowhere.jsonl", num_hard_negatives=0)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="a folder saved by `datasets` or a hub id, got"):
        load_triples(str(tmp_path / "folder"), num_hard_negatives=0)
    name = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(ConfigError, match=r"training\.data: expected rows, got none"):
        load_triples(name, num_hard_negatives=0)


def test_nothing_held_out_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows share passages and use each other's as negatives, as mined data do."""
    generator = np.random.default_rng(1)
    rows = [
        {
            "query": f"q{n}",
            "positive": f"p{n // 2}",
            "negatives": [f"p{generator.integers(1000, 1200)}", f"p{generator.integers(0, 200)}"],
        }
        for n in range(400)
    ]
    loaded = load_triples(write(tmp_path / "rows.jsonl", rows), num_hard_negatives=1)
    shown = {text for triple in loaded.train for text in triple.texts}
    assert len(loaded.held_out) == 40
    assert all(shown.isdisjoint(triple.texts) for triple in loaded.held_out)
    assert all(len(triple.negatives) == 1 for triple in loaded.train)
    assert "rows share a text with held-out rows: left out" in caplog.text


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    content = triples(100)
    first = [batch_at(content, step, batch_size=8, seed=1) for step in range(30)]
    data.permutation.cache_clear()
    again = [batch_at(content, step, batch_size=8, seed=1) for step in reversed(range(30))]
    assert first == again[::-1]
    assert first != [batch_at(content, step, batch_size=8, seed=2) for step in range(30)]


def test_an_epoch_shows_each_row_once_and_epochs_differ() -> None:
    content = triples(96)
    epochs = [
        [
            t
            for step in range(12 * e, 12 * e + 12)
            for t in batch_at(content, step, batch_size=8, seed=0)
        ]
        for e in range(2)
    ]
    assert set(epochs[0]) == set(epochs[1]) == set(content.train)
    assert epochs[0] != epochs[1]


def test_the_texts_of_a_batch_all_differ() -> None:
    rows = [Triple(f"q{n}", f"p{n % 30}", (f"p{(n + 1) % 30}",)) for n in range(90)]
    content = TrainingData(tuple(rows), ())
    for step in range(40):
        batch = batch_at(content, step, batch_size=8, seed=3)
        counts = Counter(text for triple in batch for text in triple.texts)
        assert len(batch) == 8
        assert max(counts.values()) == 1


def test_too_few_different_texts_for_a_batch_are_named() -> None:
    content = TrainingData(tuple(Triple(f"q{n}", f"p{n % 3}") for n in range(90)), ())
    with pytest.raises(ConfigError) as error:
        batch_at(content, 0, batch_size=8, seed=0)
    expected = (
        "training.batch_size: expected at most 3, the rows found whose texts all differ, got 8"
    )
    assert str(error.value) == expected


def test_near_duplicates_are_revisions_and_not_the_same_subject() -> None:
    base = "the tonne is a unit of mass equal to one thousand kilograms or about 2204 pounds"
    others = [
        base.replace("about", "approximately").upper() + "!",
        "a pound is a unit of mass used in british imperial and united states customary systems",
        *(
            f"entirely other words number {n} with nothing much in common {n * 7}"
            for n in range(20)
        ),
    ]
    assert near_duplicates(others, [base]) == {0}


def test_hard_negatives_are_the_best_by_bm25_but_never_the_answer() -> None:
    """Against a slow loop over the formula of Robertson and Zaragoza 2009."""
    passages = [
        "red fox runs",
        "red fox red fox sleeps in the den",
        "a blue whale",
        "fox",
        "sea",
        "sky",
    ]
    passages += [f"filler words {n} here" for n in range(12)]
    found = boolq.hard_negatives(["red fox"], [0], passages)[0]
    words = [passage.split() for passage in passages]
    mean = np.mean([sum(len(w) > 1 for w in each) for each in words])

    def score(each: list[str]) -> float:
        length = sum(len(w) > 1 for w in each)
        total = 0.0
        for word in ("red", "fox"):
            present = sum(word in other for other in words)
            rarity = np.log(1 + (len(words) - present + 0.5) / (present + 0.5))
            count = each.count(word)
            total += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
        return float(total)

    order = sorted(range(len(passages)), key=lambda place: -score(words[place]))
    order.remove(0)
    assert found[:2] == order[:2] == [1, 3]
    assert 0 not in found[: len(passages) - 1]


@pytest.mark.embedded
def test_boolq_is_disjoint_from_its_held_out_parts() -> None:
    rows = boolq.load_training_rows()
    held = boolq.held_out_rows("dev") + boolq.held_out_rows("test")
    passages = {normal(row.passage) for row in held}
    questions = {normal(row.question) for row in held}
    assert len(rows) > 6500
    for each in rows:
        assert normal(each["query"]) not in questions
        assert passages.isdisjoint(map(normal, (each["positive"], *each["negatives"])))
        assert each["positive"] not in each["negatives"]


@pytest.mark.embedded
def test_boolq_gives_a_negative_for_every_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    loaded = load_triples("boolq", num_hard_negatives=7)
    assert len(loaded.held_out) == 100
    assert len(loaded.train) > 6000
    assert {len(triple.negatives) for triple in loaded.train} == {7}
    assert caplog.text == ""
