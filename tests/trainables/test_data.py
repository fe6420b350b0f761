"""The mix of a trial: shares, epochs, batches without a text twice, instructions, faults."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import BackboneConfig, ConfigError, DataConfig, TrialConfig
from trainables.data import Batch, TrainingData, check_data, open_data, permuted
from trainables.data.order import Schedule
from trainables.overlay import overlay
from trainables.tokenizer import Row, Tokenizer

Rows = list[dict[str, Any]]


def row(number: int, mark: str = "") -> dict[str, Any]:
    texts = {"query": "q", "positive": "p", "negatives": "n"}
    return {column: f"{letter} {mark}{number}" for column, letter in texts.items()}


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer(str(tiny_model))


Mix = Callable[..., TrialConfig]


@pytest.fixture
def mix(tiny_model: Path, tmp_path: Path) -> Mix:
    """Return a function from data sets, as rows or with settings of their own, to a trial."""

    def made(*sets: Rows | tuple[Rows, dict[str, Any]], **training: Any) -> TrialConfig:
        given = []
        for place, each in enumerate(sets):
            rows, settings = each if isinstance(each, tuple) else (each, {})
            name = write(tmp_path / f"{'abc'[place]}.jsonl", rows)
            given.append(DataConfig(name=name, **settings))
        config = TrialConfig(backbone=BackboneConfig(model=str(tiny_model), num_layers=2))
        values = {"data": tuple(given), "batch_size": 4} | training
        return overlay(config, {f"training.{name}": value for name, value in values.items()})

    return made


def batches(data: TrainingData, steps: Sequence[int]) -> list[Batch]:
    return [data.batch_at(step) for step in steps]


def decoded(tokenizer: Tokenizer, texts: Sequence[Row]) -> list[str]:
    made = tokenizer._tokenizer
    tokens = (made.convert_ids_to_tokens(ids[:-1]) for ids, _ in texts)  # all but the end
    return ["".join(each).replace("Ġ", " ") for each in tokens]


class TestOrder:
    @pytest.mark.parametrize("number", [1, 2, 3, 7, 60, 1000, 4097])
    def test_an_order_is_a_permutation(self, number: int) -> None:
        places = np.arange(number)
        assert sorted(permuted(places, number, (0, 0)).tolist()) == places.tolist()

    def test_orders_are_as_good_as_drawn(self) -> None:
        """Each place gets each row equally often: chi-square of a 12 x 12 table, 121 degrees."""
        counts = np.zeros((12, 12))
        for seed in range(2400):
            counts[np.arange(12), permuted(np.arange(12), 12, (seed, 0))] += 1
        chi_square = ((counts - 200) ** 2 / 200).sum()
        assert 70 < chi_square < 190  # 121 degrees of freedom: beyond 4 standard deviations

    def test_neighbours_part(self) -> None:
        order = permuted(np.arange(10_000), 10_000, (5, 1))
        correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
        assert abs(correlation) < 0.04
        assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04

    def test_a_part_is_what_the_whole_has_there(self) -> None:
        whole = permuted(np.arange(500), 500, (3, 2))
        assert permuted(np.array([7, 499, 0]), 500, (3, 2)).tolist() == whole[[7, 499, 0]].tolist()
        assert not np.array_equal(whole, permuted(np.arange(500), 500, (3, 3)))
        assert not np.array_equal(whole, permuted(np.arange(500), 500, (4, 2)))

    @pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.2, 0.7, 0.1], [0.01, 0.99]])
    def test_shares_are_kept_from_the_first_step_on(self, shares: list[float]) -> None:
        schedule = Schedule(shares)
        counts = [0] * len(shares)
        for step in range(1000):
            chosen, turn = schedule(step)
            assert turn == counts[chosen]
            counts[chosen] += 1
            for count, share in zip(counts, shares, strict=True):
                assert abs(count - share * (step + 1)) <= 1

    def test_a_schedule_can_be_entered_anywhere(self) -> None:
        steps = [90, 3, 50]
        whole = Schedule([0.3, 0.7])
        turns = [whole(step) for step in range(100)]
        entered = Schedule([0.3, 0.7])
        assert [entered(step) for step in steps] == [turns[step] for step in steps]


class TestBatches:
    def test_weights_are_shares_of_the_steps(self, mix: Mix, tokenizer: Tokenizer) -> None:
        one, other = ([row(n, mark) for n in range(40)] for mark in "ab")
        config = mix((one, {"weight": 3}), other)
        counts = Counter(b.source for b in batches(open_data(config, tokenizer), range(80)))
        assert counts == {"a.jsonl": 60, "b.jsonl": 20}

    def test_a_batch_is_of_one_data_set(self, mix: Mix, tokenizer: Tokenizer) -> None:
        data = open_data(mix(*([row(n, m) for n in range(40)] for m in "ab")), tokenizer)
        for batch in batches(data, range(20)):
            texts = decoded(tokenizer, batch.texts)
            assert {text.split()[1][0] for text in texts} == {batch.source[0]}

    def test_its_texts_are_those_of_its_rows(self, mix: Mix, tokenizer: Tokenizer) -> None:
        batch = open_data(mix([row(n) for n in range(40)]), tokenizer).batch_at(3)
        rows = [row(number - 1) for number in batch.rows]
        expected = [r[column] for column in ("query", "positive", "negatives") for r in rows]
        assert decoded(tokenizer, batch.texts) == expected

    def test_texts_are_cut_and_tokenised_as_ever(self, mix: Mix, tokenizer: Tokenizer) -> None:
        rows = [row(n, "a long river of " * 4) for n in range(40)]
        data = open_data(mix(rows, max_query_tokens=5, max_passage_tokens=9), tokenizer)
        for batch in batches(data, range(5)):
            texts = [rows[number - 1] for number in batch.rows]
            assert list(batch.queries) == tokenizer.rows([t["query"] for t in texts], 5)
            assert list(batch.positives) == tokenizer.rows([t["positive"] for t in texts], 9)

    def test_a_batch_depends_on_seed_and_step_alone(self, mix: Mix, tokenizer: Tokenizer) -> None:
        config = mix(*([row(n, m) for n in range(40)] for m in "ab"))
        first = batches(open_data(config, tokenizer), range(30))
        again = batches(open_data(config, tokenizer), range(29, -1, -1))
        longer = batches(open_data(overlay(config, {"training.steps": 99}), tokenizer), range(30))
        assert first == again[::-1] == longer
        assert first != batches(open_data(overlay(config, {"seed": 1}), tokenizer), range(30))

    def test_a_mix_is_the_same_in_any_order(self, mix: Mix, tokenizer: Tokenizer) -> None:
        config = mix(
            ([row(n, "a") for n in range(40)], {"weight": 2}), [row(n) for n in range(40)]
        )
        turned = overlay(config, {"training.data": config.training.data[::-1]})
        data = [open_data(each, tokenizer) for each in (config, turned)]
        assert batches(data[0], range(9)) == batches(data[1], range(9))

    def test_an_epoch_shows_each_row_once_and_epochs_differ(
        self, mix: Mix, tokenizer: Tokenizer
    ) -> None:
        data = open_data(mix([row(n) for n in range(40)]), tokenizer)  # of which 36 are trained on
        epochs = [
            [n for b in batches(data, range(9 * e, 9 * e + 9)) for n in b.rows] for e in (0, 1)
        ]
        assert len(set(epochs[0])) == 36
        assert set(epochs[0]) == set(epochs[1])
        assert epochs[0] != epochs[1]

    def test_no_text_is_twice_in_a_batch(self, mix: Mix, tokenizer: Tokenizer) -> None:
        rows = [
            {"query": f"q {n}", "positive": f"p {n % 60}", "negatives": [f"p {(n + 1) % 60}"]}
            for n in range(400)
        ]
        data = open_data(mix(rows, batch_size=8), tokenizer)
        for batch in batches(data, range(60)):
            assert len(batch.rows) == 8
            assert max(Counter(map(str, batch.texts)).values()) == 1

    def test_too_few_different_texts_for_a_batch_are_named(
        self, mix: Mix, tokenizer: Tokenizer
    ) -> None:
        few = [{"query": f"q {n}", "positive": f"p {n % 60}"} for n in range(600)]
        config = mix(few, [row(n, "b") for n in range(20)], num_hard_negatives=0, batch_size=64)
        with pytest.raises(ConfigError) as error:
            open_data(config, tokenizer)
        shown, *rest = str(error.value).splitlines()
        assert shown.startswith("training.batch_size: expected at most ")
        assert shown.endswith(", the rows of a.jsonl found whose texts all differ, got 64")
        assert rest == [
            "training.batch_size: expected at most 18, the rows of b.jsonl found whose texts all "
            "differ, got 64"
        ]


class TestABatch:
    def made(self, num: int) -> Batch:
        texts: list[Row] = [([number], 0) for number in range(4 * num)]
        queries, positives = texts[:num], texts[num : 2 * num]
        numbers = tuple(range(1, num + 1))
        return Batch("b.jsonl", numbers, tuple(queries), tuple(positives), tuple(texts[2 * num :]))

    def test_its_shares_make_it_up(self) -> None:
        batch = self.made(6)
        shares = [batch.share(rank, 3) for rank in range(3)]
        for name in ("rows", "queries", "positives", "negatives"):
            parts = [getattr(share, name) for share in shares]
            assert tuple(itertools.chain(*parts)) == getattr(batch, name)
        assert [len(share.negatives) for share in shares] == [4, 4, 4]
        assert batch.share(0, 1) == batch

    def test_it_names_its_first_rows(self) -> None:
        first = ", ".join(map(str, range(1, 17)))
        assert str(self.made(16)) == f"b.jsonl rows {first}"
        assert str(self.made(20)) == f"b.jsonl rows {first} and 4 more"


class TestInstructions:
    def test_each_data_set_has_its_own(self, mix: Mix, tokenizer: Tokenizer) -> None:
        own = {"query_instruction": "find a cat: ", "document_instruction": ""}
        config = mix(([row(n, "a") for n in range(40)], own), [row(n, "b") for n in range(40)])
        values = {"instructions.query": "the usual: ", "instructions.document": "passage: "}
        data = open_data(overlay(config, values), tokenizer)
        expected = {"a": ("find a cat: ", ""), "b": ("the usual: ", "passage: ")}
        for batch in batches(data, range(4)):
            mark = batch.source[0]
            query, document = expected[mark]
            texts = [row(number - 1, mark) for number in batch.rows]
            assert list(batch.queries) == tokenizer.rows([t["query"] for t in texts], 32, query)
            for column, found in (("positive", batch.positives), ("negatives", batch.negatives)):
                assert list(found) == tokenizer.rows([t[column] for t in texts], 48, document)

    def test_held_out_texts_know_theirs(self, mix: Mix, tokenizer: Tokenizer) -> None:
        own = {"query_instruction": "find: "}
        config = mix(([row(n, "a") for n in range(40)], own), [row(n, "b") for n in range(20)])
        config = overlay(config, {"instructions.query": "usual: ", "instructions.other": "o: "})
        one, other = open_data(config, tokenizer).held_out
        assert (one.source, one.instructions.query, len(one.triples)) == ("a.jsonl", "find: ", 4)
        assert (other.source, other.instructions.query) == ("b.jsonl", "usual: ")
        assert other.instructions == config.instructions


def test_what_one_data_set_holds_out_no_other_shows(mix: Mix, tokenizer: Tokenizer) -> None:
    rows = [row(n) for n in range(60)]
    data = open_data(mix(rows, rows[::-1]), tokenizer)
    held = {text for each in data.held_out for t in each.triples for text in (t.query, t.positive)}
    assert len(held) > 12  # each holds six rows out, and not the same ones
    shown = {t for batch in batches(data, range(200)) for t in decoded(tokenizer, batch.texts)}
    assert len(shown) == 180 - len(held) * 3 // 2
    assert shown.isdisjoint(held)
    passages = data.passages()
    assert held.isdisjoint(decoded(tokenizer, passages.rows(np.arange(len(passages)))))


class TestPassages:
    def test_they_come_once_and_without_queries(self, mix: Mix, tokenizer: Tokenizer) -> None:
        one = [{**row(n, "a"), "positive": f"p a{n // 2}"} for n in range(40)]
        other = [{**row(n, "b"), "negatives": [f"n a{n}", f"n b{n}"]} for n in range(40)]
        data = open_data(mix(one, other), tokenizer)
        passages = data.passages()
        found = decoded(tokenizer, passages.rows(np.arange(len(passages))))
        shown = {
            t
            for batch in batches(data, range(200))
            for t in decoded(tokenizer, (*batch.positives, *batch.negatives))
        }
        assert len(set(found)) == len(found)
        assert set(found) == shown


class TestFaults:
    def test_those_of_all_data_sets_come_together(self, mix: Mix, tokenizer: Tokenizer) -> None:
        bad = [row(n) for n in range(20)]
        bad[4]["query"] = ""
        config = mix([row(n) for n in range(5)], bad)
        sets = (*config.training.data, DataConfig(name="nowhere.jsonl"))
        config = overlay(config, {"training.data": sets})
        expected = [
            "training.data.0.name: expected at least 10 rows, so that one can be held out, got 5 "
            f"in {sets[0].name!r}",
            "b.jsonl:5: query: expected a text, got ''",
            "training.data.2.name: expected a file, got 'nowhere.jsonl'",
        ]
        for find in (lambda: open_data(config, tokenizer), lambda: check_data(config)):
            with pytest.raises(ConfigError) as error:
                find()
            assert str(error.value).splitlines() == expected

    def test_files_of_one_name_are_told_apart(
        self, mix: Mix, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        name = write(tmp_path / "other" / "a.jsonl", [row(n, "b") for n in range(40)])
        config = mix([row(n) for n in range(40)])
        sets = (*config.training.data, DataConfig(name=name))
        data = open_data(overlay(config, {"training.data": sets}), tokenizer)
        assert {batch.source for batch in batches(data, range(2))} == {s.name for s in sets}
