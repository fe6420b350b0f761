"""Stores of tokens: the same from every source, made once and whole, bad rows named."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables import boolq
from trainables.assets import AssetError
from trainables.config import ConfigError
from trainables.data import making, sources
from trainables.data.making import DataSet, Recipe, held_out, open_store
from trainables.data.rows import Triple, text_hash
from trainables.data.sources import find
from trainables.data.store import FILES, Store
from trainables.tokenizer import Row, Tokenizer

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(
    query_instruction="find: ",
    document_instruction="",
    max_query_tokens=16,
    max_passage_tokens=24,
    num_hard_negatives=1,
)


class Counting(Tokenizer):
    """The tokenizer of a model, which counts the texts that it was given."""

    count = 0
    limit: float = float("inf")

    def rows(self, texts: Sequence[str], max_tokens: int, instruction: str = "") -> list[Row]:
        self.count += len(texts)
        if self.count > self.limit:
            raise MemoryError("no more")
        return super().rows(texts, max_tokens, instruction)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the stores, of which there are none yet."""
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def tokenizer(tiny_model: Path) -> Counting:
    return Counting(str(tiny_model))


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {"query": f"q{number}", "positive": f"p{number}", "negatives": [f"n{number}"]}
    return {**values, **changes}


def write(path: Path, rows: list[Any]) -> str:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def data_set(name: str, **changes: Any) -> DataSet:
    recipe = Recipe(**{field: getattr(RECIPE, field) for field in Recipe.__slots__} | changes)
    label, field = Path(name).name, "training.data.0.name"
    return DataSet(name=name, label=label, field=field, source=find(name, field), recipe=recipe)


def fault(name: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        held_out(data_set(name, **changes))
    return str(error.value)


def contents(store: Store) -> list[Any]:
    places = np.arange(len(store) * store.width)
    arrays = (store.numbers, store.hashes)
    return [store.width, store.held_out, store.texts(places), *(each.tolist() for each in arrays)]


def json_lines(folder: Path, rows: list[Any]) -> str:
    return write(folder / "rows.jsonl", rows)


def parquet(folder: Path, rows: list[Any]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=7)
    return str(folder / "rows.parquet")


def saved(folder: Path, rows: list[Any]) -> str:
    import datasets

    table = datasets.Dataset.from_list([{**each, "extra": 1} for each in rows])
    table.save_to_disk(str(folder / "rows"))
    return str(folder / "rows")


def saved_parts(folder: Path, rows: list[Any]) -> str:
    import datasets

    parts = {
        "train": datasets.Dataset.from_list(rows),
        "test": datasets.Dataset.from_list(rows[:1]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(folder / "parts"))
    return str(folder / "parts")


KINDS: list[Callable[[Path, list[Any]], str]] = [json_lines, parquet, saved, saved_parts]


class TestSources:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_gives_the_same_store(
        self, tmp_path: Path, tokenizer: Counting, kind: Callable[[Path, list[Any]], str]
    ) -> None:
        rows = [row(number) for number in range(50)]
        store = open_store(data_set(kind(tmp_path, rows)), tokenizer)
        held = {Triple(f"q{n}", f"p{n}", (f"n{n}",)) for n in range(50)} & set(store.held_out)
        assert (len(store), len(store.held_out), len(held)) == (45, 5, 5)
        shown = [rows[number - 1] for number in store.numbers.tolist()]
        asked = tokenizer.rows([each["query"] for each in shown], 16, "find: ")
        assert store.texts(np.arange(45) * 3) == asked
        for place, column in enumerate(("positive", "negatives"), start=1):
            texts = [each[column] if place == 1 else each[column][0] for each in shown]
            assert store.texts(np.arange(45) * 3 + place) == tokenizer.rows(texts, 24)
        hashes = [
            [text_hash(t) for t in (e["query"], e["positive"], *e["negatives"])] for e in shown
        ]
        assert store.hashes.tolist() == hashes
        assert contents(store) == contents(
            open_store(data_set(write(tmp_path / "again.jsonl", rows)), tokenizer)
        )

    def test_negatives_may_be_one_text_or_missing(
        self, tmp_path: Path, tokenizer: Counting
    ) -> None:
        listed = write(tmp_path / "a.jsonl", [row(n) for n in range(20)])
        single = write(tmp_path / "b.jsonl", [row(n, negatives=f"n{n}") for n in range(20)])
        one, other = (open_store(data_set(name), tokenizer) for name in (listed, single))
        assert contents(one) == contents(other)
        bare = [{"query": f"q{n}", "positive": f"p{n}"} for n in range(20)]
        for name in (write(tmp_path / "c.jsonl", bare), parquet(tmp_path, bare)):
            store = open_store(data_set(name, num_hard_negatives=0), tokenizer)
            assert (store.width, len(store)) == (2, 18)

    def test_only_as_many_negatives_as_asked_the_first_ones(
        self, tmp_path: Path, tokenizer: Counting
    ) -> None:
        rows = [row(n, negatives=[f"a{n}", f"p{n}", f"a{n}", f"b{n}", f"c{n}"]) for n in range(20)]
        store = open_store(
            data_set(write(tmp_path / "a.jsonl", rows), num_hard_negatives=2), tokenizer
        )
        for number, hashes in zip(store.numbers.tolist(), store.hashes.tolist(), strict=True):
            texts = [f"{letter}{number - 1}" for letter in "qpab"]
            assert hashes == [text_hash(text) for text in texts]

    def test_columns_that_are_missing_are_named_once(self, tmp_path: Path) -> None:
        rows = [{"question": f"q{n}", "positive": f"p{n}"} for n in range(20)]
        for kind in (parquet, saved_parts):
            name = kind(tmp_path, rows)
            with pytest.raises(ConfigError) as error:
                held_out(data_set(name))
            assert str(error.value) == (
                "training.data.0.name: expected the columns query, positive and negatives, got "
                f"question, positive in {name!r}"
            )

    def test_a_row_group_is_never_whole_in_memory(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        columns = {name: [generator.bytes(500).hex() for _ in range(20_000)] for name in "ab"}
        table = pa.table({"query": columns["a"], "positive": columns["b"]})
        name = str(tmp_path / "rows.parquet")
        pq.write_table(table, name, row_group_size=20_000, use_dictionary=False)
        del table
        before = pa.total_allocated_bytes()
        rows = find(name, "training.data.0.name").rows()
        peak = max(pa.total_allocated_bytes() for number, _ in rows if number % 100 == 0)
        assert peak - before < 10e6 < Path(name).stat().st_size / 2

    def test_missing_and_damaged_data_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as error:
            find("nowhere.jsonl", "training.data.3.name")
        assert str(error.value) == "training.data.3.name: expected a file, got 'nowhere.jsonl'"
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match="a folder saved by `datasets` or a hub id, got"):
            find(str(tmp_path / "folder"), "training.data.0.name")
        (tmp_path / "rows.parquet").write_text("no parquet")
        assert fault(str(tmp_path / "rows.parquet")).startswith(
            "training.data.0.name: expected a file that can be read, got "
        )
        name = write(tmp_path / "empty.jsonl", [])
        assert fault(name) == (
            "training.data.0.name: expected at least 10 rows, so that one can be held out, got "
            f"none in {name!r}"
        )


class TestBadRows:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (row(1, positive=None), "positive: expected a text, got None"),
            (row(1, query=" "), "query: expected a text, got ' '"),
            (row(1, query="\ud800"), "query: expected a text, got '\\ud800'"),
            (row(1, negatives=[1]), "negatives: expected a list of texts, got [1]"),
            (row(1, negatives=3), "negatives: expected a list of texts, got 3"),
            (row(1, negatives={"a": 1}), "negatives: expected a list of texts, got {'a': 1}"),
            (
                row(1, negatives=["p1", "n1", "n1"]),
                "negatives: expected at least 2 that differ from each other and from the "
                "positive, got 1",
            ),
            (
                row(1, query=list(range(40))),
                f"query: expected a text, got {str(list(range(40)))[:60]} …",
            ),
            ({"query": "q"}, "positive: expected a text, got None"),
            ("{broken", "expected a JSON object, got '{broken'"),
            ([1, 2], "expected a JSON object, got '[1, 2]'"),
        ],
    )
    def test_a_bad_row_is_named(self, tmp_path: Path, bad: Any, message: str) -> None:
        good = [row(number, negatives=["m", "n"]) for number in (0, 2)]
        name = write(tmp_path / "rows.jsonl", [good[0], "", bad, good[1]])
        assert fault(name, num_hard_negatives=2) == f"rows.jsonl:3: {message}"

    def test_bytes_that_are_no_text_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{}\n"\xff"\n')
        assert fault(str(tmp_path / "rows.jsonl")).splitlines() == [
            "rows.jsonl:1: query: expected a text, got None",
            "rows.jsonl:2: expected a JSON object, got '\"\ufffd\"'",
        ]

    @pytest.mark.parametrize("kind", [parquet, saved])
    def test_rows_of_tables_are_named_by_number(
        self, tmp_path: Path, kind: Callable[[Path, list[Any]], str]
    ) -> None:
        rows = [row(number) for number in range(20)]
        rows[11]["positive"] = None
        name = kind(tmp_path, rows)
        assert fault(name) == f"{Path(name).name}:12: positive: expected a text, got None"

    def test_ten_bad_rows_are_listed_and_the_others_counted(self, tmp_path: Path) -> None:
        name = write(tmp_path / "rows.jsonl", [row(n, query=None) for n in range(25)])
        lines = fault(name).splitlines()
        assert len(lines) == 11
        assert lines[-1] == "and 15 more rows"

    def test_a_store_is_not_made_of_them(
        self, tmp_path: Path, tokenizer: Counting, cache: Path
    ) -> None:
        name = write(tmp_path / "rows.jsonl", [row(n, query=None) for n in range(25)])
        with pytest.raises(ConfigError, match="query: expected a text, got None"):
            open_store(data_set(name), tokenizer)
        assert [path.suffix for path in cache.iterdir()] == [".lock"]


class TestHeldOut:
    def test_a_tenth_or_a_hundred_by_a_seed_that_is_fixed(self, tmp_path: Path) -> None:
        for number, expected in ((10, 1), (55, 5), (999, 99), (1500, 100)):
            name = write(tmp_path / "rows.jsonl", [row(n) for n in range(number)])
            held = held_out(data_set(name))
            assert len(held) == expected
            assert list(held) == sorted(held)
            assert all(triple.query == f"q{place - 1}" for place, triple in held.items())
            assert held == held_out(data_set(name))

    def test_any_row_may_be_one(self, tmp_path: Path) -> None:
        """The mean of a hundred places of 0 .. 1999 that are drawn has a deviation of 57."""
        name = write(tmp_path / "rows.jsonl", [row(n) for n in range(2000)])
        assert abs(np.mean(list(held_out(data_set(name)))) - 1000) < 230

    def test_nothing_held_out_is_trained_on(
        self, tmp_path: Path, tokenizer: Counting, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rows share passages and use each other's as negatives, as mined data do."""
        generator = np.random.default_rng(1)
        rows = [
            {
                "query": f"q{n}",
                "positive": f"p{n // 2}",
                "negatives": [
                    f"p{generator.integers(1000, 1200)}",
                    f"p{generator.integers(0, 200)}",
                ],
            }
            for n in range(400)
        ]
        store = open_store(data_set(write(tmp_path / "rows.jsonl", rows)), tokenizer)
        shown = set(store.hashes.ravel().tolist())
        assert len(store.held_out) == 40
        for triple in store.held_out:
            assert shown.isdisjoint(map(text_hash, triple.texts))
        assert any(triple.negatives for triple in store.held_out)
        left_out = 400 - 40 - len(store)
        assert left_out > 0
        assert f"{left_out} rows share a text with held-out rows: left out" in caplog.text

    def test_rows_that_all_share_their_texts_are_refused(
        self, tmp_path: Path, tokenizer: Counting
    ) -> None:
        name = write(tmp_path / "rows.jsonl", [row(n, positive="p") for n in range(20)])
        with pytest.raises(ConfigError) as error:
            open_store(data_set(name), tokenizer)
        assert str(error.value) == (
            f"training.data.0.name: expected rows that do not all share their texts, got {name!r}"
        )


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Return a file of so many rows that they are tokenised in two chunks."""
    return write(tmp_path / "rows.jsonl", [row(number) for number in range(2000)])


PROGRAM = """
import sys
from pathlib import Path
from tests.trainables.test_data_store import Counting, contents, data_set, open_store
name, model = sys.argv[1:]
tokenizer, data = Counting(model), data_set(name)
print("ready", flush=True)
sys.stdin.readline()
print(tokenizer.count, len(open_store(data, tokenizer)), tokenizer.count)
"""


class TestMaking:
    def test_a_second_trial_tokenises_nothing(
        self, name: str, tokenizer: Counting, tiny_model: Path
    ) -> None:
        first, again = open_store(data_set(name), tokenizer), Counting(str(tiny_model))
        assert tokenizer.count == 3 * 1900
        second = open_store(data_set(name), again)
        assert again.count == 0
        assert contents(first) == contents(second)

    def test_a_store_is_read_only(self, name: str, tokenizer: Counting) -> None:
        store = open_store(data_set(name), tokenizer)
        with pytest.raises(ValueError, match="read-only"):
            store.hashes[0, 0] = 1

    @pytest.mark.slow
    def test_two_processes_make_one(self, name: str, tiny_model: Path, cache: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, name, str(tiny_model)]
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        both = [subprocess.Popen(command, cwd=ROOT, text=True, **streams) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found = sorted(process.communicate(timeout=60)[0].split() for process in both)
        assert found == [["0", "1900", "0"], ["0", "1900", str(3 * 1900)]]
        assert len([path for path in cache.iterdir() if path.is_dir()]) == 1

    def test_what_stops_in_the_middle_leaves_nothing(
        self, name: str, tokenizer: Counting, tiny_model: Path, cache: Path
    ) -> None:
        tokenizer.limit = 5000  # in the second chunk
        with pytest.raises(MemoryError, match="no more"):
            open_store(data_set(name), tokenizer)
        assert [path.suffix for path in cache.iterdir()] == [".lock"]
        assert len(open_store(data_set(name), Counting(str(tiny_model)))) == 1900

    @pytest.mark.parametrize("damage", [*FILES, "store.json", "begun"])
    def test_a_damaged_store_is_made_again(
        self, name: str, tokenizer: Counting, cache: Path, damage: str
    ) -> None:
        expected = contents(open_store(data_set(name), tokenizer))
        (folder,) = (path for path in cache.iterdir() if path.is_dir())
        if damage == "begun":  # by a process that was killed
            shutil.move(folder, folder.with_suffix(".begun"))
        else:
            os.truncate(folder / damage, (folder / damage).stat().st_size // 2)
        tokenizer.count = 0
        assert contents(open_store(data_set(name), tokenizer)) == expected
        assert tokenizer.count == 3 * 1900
        assert [path for path in cache.iterdir() if path.is_dir()] == [folder]

    def test_a_cache_that_cannot_be_written_is_named(
        self, name: str, tokenizer: Counting, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        message = "free some space or set POOLSEARCH_CACHE to a folder to write to$"
        with pytest.raises(AssetError, match=message):
            open_store(data_set(name), tokenizer)

    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path, tokenizer: Counting) -> None:
        peaks = []
        for number in (4000, 16_000):
            name = write(tmp_path / f"{number}.jsonl", [row(n) for n in range(number)])
            tracemalloc.start()
            store = open_store(data_set(name, num_hard_negatives=0), tokenizer)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert len(store) == number - 100
        assert peaks[1] < 1.25 * peaks[0]


class TestKey:
    def key(self, data: DataSet, tokenizer: Tokenizer) -> str:
        return making._key(data, tokenizer)

    @pytest.mark.parametrize(
        "changes",
        [
            {"query_instruction": "", "document_instruction": "find: "},
            {"document_instruction": "a"},
            {"max_query_tokens": 15},
            {"max_passage_tokens": 15},
            {"num_hard_negatives": 0},
        ],
    )
    def test_it_changes_with_the_recipe(
        self, name: str, tokenizer: Counting, changes: dict[str, Any]
    ) -> None:
        assert self.key(data_set(name), tokenizer) != self.key(
            data_set(name, **changes), tokenizer
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_that_of_the_content(
        self, tmp_path: Path, tokenizer: Counting, kind: Callable[[Path, list[Any]], str]
    ) -> None:
        rows = [row(number) for number in range(20)]
        name = kind(tmp_path, rows)
        before = self.key(data_set(name), tokenizer)
        assert self.key(data_set(name), tokenizer) == before
        moved = str(tmp_path / f"moved{Path(name).suffix}")
        shutil.move(name, moved)
        assert self.key(data_set(moved), tokenizer) == before
        rows[3]["query"] = "other"
        assert self.key(data_set(kind(tmp_path, rows)), tokenizer) != before

    def test_it_changes_with_the_tokenizer(
        self, name: str, tokenizer: Counting, tiny_model: Path, tmp_path: Path
    ) -> None:
        before = self.key(data_set(name), tokenizer)
        tokenizer.rows(["a"], 5, "b")
        assert self.key(data_set(name), tokenizer) == before
        shutil.copytree(tiny_model, tmp_path / "copy")
        assert self.key(data_set(name), Tokenizer(str(tmp_path / "copy"))) == before
        file = tmp_path / "copy" / "tokenizer.json"
        content = json.loads(file.read_text())
        content["model"]["merges"].pop()
        file.write_text(json.dumps(content))
        assert self.key(data_set(name), Tokenizer(str(tmp_path / "copy"))) != before

    def test_a_large_file_is_hashed_once_while_its_time_stays(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> None:
        monkeypatch.setattr(sources, "LARGE_BYTES", 1000)
        before = data_set(name).source.content()
        (note,) = cache.iterdir()
        assert note.read_text() == before
        note.write_text("from the note")
        assert data_set(name).source.content() == "from the note"
        state = Path(name).stat()
        os.utime(name, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert data_set(name).source.content() == before


@pytest.mark.embedded
def test_boolq_gives_negatives_for_every_query(
    tokenizer: Counting,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    usual_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as usual:
        usual.setenv("POOLSEARCH_CACHE", str(usual_cache))
        boolq.load_training_rows()
    (tmp_path / "cache").mkdir()
    for prepared in usual_cache.iterdir():
        if prepared.name != "data":
            (tmp_path / "cache" / prepared.name).symlink_to(prepared)
    caplog.set_level(logging.WARNING)
    store = open_store(data_set("boolq", num_hard_negatives=7), tokenizer)
    assert (len(store.held_out), store.width) == (100, 9)
    assert len(store) > 6000
    assert caplog.text == ""
