"""The tasks: names checked, halves disjoint, fresh at each load, mirrors of mteb's own tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from trainables import boolq, suites
from trainables.assets import package_folder
from trainables.config import EMBEDDED_TASKS, ConfigError, Split
from trainables.embedded import scored_texts, search
from trainables.embedded.content import json_rows
from trainables.evaluation import evaluate
from trainables.packages import BOOLQ
from trainables.suites import EMBEDDED_CATEGORIES
from trainables.tasks import category, check_tasks, load_task
from trainables.texts import near_duplicates, normal, text_id

SPLITS: tuple[Split, Split] = ("choosing", "confirming")


def named(kind: str) -> list[str]:
    """The embedded tasks of a category."""
    return [name for name, each in EMBEDDED_CATEGORIES.items() if each == kind]


def texts_of(task: Any) -> set[str]:
    """All texts that a loaded task holds, corpus and training texts included."""
    return {normal(text) for text in strings(task.dataset)}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in {
                "id",
                "labels",
                "label",
                "relevant_docs",
                "title",
                "_id",
                "label_text",
            }:
                yield from strings(inner)
    elif hasattr(value, "to_dict"):
        yield from strings(value.to_dict())
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_check_names_the_nearest_task() -> None:
    assert check_tasks(EMBEDDED_TASKS) == []
    expected = "expected a suite, an embedded task or one of mteb's, got"
    assert check_tasks(["Lee50SST", "NFCorpsu", "STSBenchmark"]) == [
        f"evaluation.tasks: {expected} 'Lee50SST', did you mean 'Lee50STS'?",
        f"evaluation.tasks: {expected} 'NFCorpsu', did you mean 'NFCorpus'?",
    ]


def test_check_refuses_types_without_halves() -> None:
    [fault] = check_tasks(["TwitterSemEval2015"])
    assert fault == (
        "evaluation.tasks: expected a task of type STS, Retrieval, Reranking, Classification or "
        "Clustering of text, got 'TwitterSemEval2015' of type PairClassification"
    )
    with pytest.raises(ConfigError, match="of type PairClassification"):
        load_task("TwitterSemEval2015", "choosing")


def test_checking_leaves_the_random_states_alone() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    check_tasks(["STSBenchmark"])
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index] # noqa: NPY002


def test_categories() -> None:
    embedded = ["STS", "Retrieval", "Classification", "Clustering"]
    assert [category(name) for name in EMBEDDED_TASKS[:4]] == embedded
    assert category("AskUbuntuDupQuestions") == "Reranking"


@pytest.mark.embedded
@pytest.mark.parametrize("name", EMBEDDED_TASKS)
class TestEmbedded:
    def test_the_halves_share_no_text(self, name: str) -> None:
        first, second = (texts_of(load_task(name, split)) for split in SPLITS)
        assert len(first) > 20
        assert first.isdisjoint(second)

    def test_no_half_holds_a_training_passage(self, name: str) -> None:
        rows = boolq.load_training_rows()
        trained = {normal(row[column]) for row in rows for column in ("query", "positive")}
        for split in SPLITS:
            assert trained.isdisjoint(texts_of(load_task(name, split)))

    def test_hardly_a_text_of_a_half_is_nearly_in_the_other(self, name: str) -> None:
        """Short questions are alike by nature, and so are words."""
        texts = [scored_texts(name, split) for split in SPLITS]
        first, second = (sorted(t for t in half if len(t.split()) > 15) for half in texts)
        assert len(near_duplicates(first, second)) <= 0.04 * len(first)

    def test_the_revision_names_what_is_held(self, name: str) -> None:
        tasks = [load_task(name, split) for split in (*SPLITS, "choosing")]
        revisions = [task.metadata.dataset["revision"] for task in tasks]
        assert revisions[0] == revisions[2] != revisions[1]
        assert [task.metadata.name for task in tasks] == [name] * 3
        assert list(tasks[1].eval_splits) == ["confirming"]

    def test_each_load_is_fresh(self, name: str) -> None:
        first, second = load_task(name, "choosing"), load_task(name, "choosing")
        assert first is not second
        assert first.dataset is not second.dataset

    def test_the_category_is_mtebs_type(self, name: str) -> None:
        assert load_task(name, "choosing").metadata.type == category(name)


@pytest.mark.embedded
class TestContent:
    @pytest.mark.parametrize("name", named("Retrieval"))
    def test_retrieval_counts_no_revision_of_an_answer_as_wrong(self, name: str) -> None:
        for split in SPLITS:
            part: Any = load_task(name, split).dataset["default"][split]  # type: ignore[index]
            passages, answers = list(part["corpus"]["text"]), len(part["queries"])
            assert near_duplicates(passages[:answers], passages[answers:]) == set()
            assert answers == len(part["relevant_docs"])
            assert answers < len(passages)

    def test_the_halves_of_the_news_pairs_are_alike(self) -> None:
        halves: list[Any] = [load_task("Lee50STS", split).dataset[split] for split in SPLITS]  # type: ignore[index]
        gold = [np.sort(half["score"]) for half in halves]
        assert [len(each) for each in gold] == [300, 300]
        assert np.abs(gold[0] - gold[1]).mean() < 0.01

    @pytest.mark.parametrize("name", named("Clustering"))
    def test_sets_are_disjoint_and_use_all_groups_about_equally(self, name: str) -> None:
        for split in SPLITS:
            rows: Any = load_task(name, split).dataset[split]  # type: ignore[index]
            documents = [text for row in rows["sentences"] for text in row]
            assert len(documents) == len(set(documents))
            groups = [set(row) for row in rows["labels"]]
            assert {len(row) for row in groups} == {6}
            sizes = {row.count(group) for row in rows["labels"] for group in set(row)}
            assert len(sizes) == 1
            counts = np.unique([g for row in rows["labels"] for g in row], return_counts=True)[1]
            assert counts.max() - counts.min() <= sizes.pop()
            assert all(a != b for a, b in pairwise(groups))

    def test_paragraphs_near_the_training_passages_are_named(self) -> None:
        rows = json_rows(package_folder(BOOLQ) / "disflqa.jsonl")
        paragraphs = sorted({row["passage"] for row in rows})
        trained = sorted({row.passage for row in boolq.training_rows()})
        near = {text_id(paragraphs[place]) for place in near_duplicates(paragraphs, trained)}
        assert near == search.TRAINED_ON

    def test_every_kind_of_question_is_fitted_on(self) -> None:
        for split in SPLITS:
            parts: Any = load_task("TRECClassification", split).dataset
            assert set(parts["train"]["label"]) == set(range(6)) == set(parts[split]["label"])


def sts(folder: Path) -> None:
    """A mirror of STSBenchmark in which neighbouring pairs share a text, in chains of three."""
    rows = [
        {"sentence1": f"text {n}", "sentence2": f"text {n + 1}", "score": float(n % 6)}
        for n in range(120)
        if n % 4 != 3
    ]
    mirror(folder / "STSBenchmark", {"default/test": rows})


def retrieval(folder: Path) -> None:
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(60)]
    corpus = [{"_id": f"d{n}", "title": "", "text": f"answer {n}"} for n in range(60)]
    relevant = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(60)]
    parts: dict[str, list[dict[str, Any]]] = {
        "default/test": relevant,
        "corpus/corpus": corpus,
        "queries/queries": queries,
    }
    mirror(folder / "NFCorpus", parts)


def classification(folder: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 3, "label_text": str(n % 3)} for n in range(300)]
    parts = {"default/train": rows[:200], "default/test": rows[150:]}
    mirror(folder / "Banking77Classification", parts)


def clustering(folder: Path) -> None:
    """A mirror of ArXiv's legacy task, in which the same documents are in several sets."""
    names = [f"text {n}" for n in range(60)]
    rows = [
        {"sentences": names[first : first + 40], "labels": [n[-1] for n in names[:40]]}
        for first in (0, 10, 20)
    ]
    mirror(folder / "RedditClustering", {"default/test": rows})


def pairs(folder: Path) -> None:
    rows = [
        {"sent1": f"one text {n}", "sent2": f"another one {n}", "labels": n % 3 % 2}
        for n in range(30)
    ]
    mirror(folder / "SprintDuplicateQuestions", {"default/test": rows})


def mirror(folder: Path, parts: Mapping[str, list[dict[str, Any]]]) -> None:
    lines = ["---", "configs:"]
    for part, rows in parts.items():
        config, split = part.split("/")
        (folder / config).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / config / f"{split}.parquet")
        if f"- config_name: {config}" not in lines:
            lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of mirrors, and a cache of its own for what is made of them."""
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POOLSEARCH_TASKS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (sts, "STSBenchmark"),
        (retrieval, "NFCorpus"),
        (classification, "Banking77Classification"),
        (clustering, "RedditClustering"),
    ],
)
def test_the_halves_of_a_mirrored_task_share_no_item(make: Any, name: str, mirrors: Path) -> None:
    make(mirrors)
    halves = []
    for split in SPLITS:
        task: Any = load_task(name, split)
        task.load_data()
        assert task.metadata.dataset["revision"].startswith("mirror-")
        part = task.dataset["default"]["test"]["queries"] if make is retrieval else task.dataset
        halves.append(texts_of_items(part))
    assert min(map(len, halves)) > 5
    assert halves[0].isdisjoint(halves[1])


@pytest.mark.parametrize(
    ("make", "name", "split"),
    [
        (sts, "STSBenchmark", "confirming"),
        (retrieval, "NFCorpus", "choosing"),
        (classification, "Banking77Classification", "choosing"),
        (pairs, "SprintDuplicateQuestions", "choosing"),
    ],
)
def test_a_suite_of_many_tasks_scores_all_of_its_own(
    make: Any, name: str, split: Split, mirrors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(mirrors)
    monkeypatch.setitem(suites.SUITES, "mine", suites.Suite("", (name,), "tasks"))
    other = SPLITS[split == SPLITS[0]]
    assert evaluate(letters, ["mine"], split=other, batch_size=8).scores == {}
    whole = evaluate(letters, ["mine"], split=split, batch_size=8)
    assert whole.failures == {}
    assert list(whole.scores) == [name]
    if make is pairs:
        return
    halves = [evaluate(letters, [name], split=each, batch_size=8) for each in SPLITS]
    kept = [set(each.items.to_pandas()["item"]) for each in (whole, *halves)]
    assert kept[0] == kept[1] | kept[2]


def texts_of_items(part: Any) -> set[str]:
    parts = part if isinstance(part, dict) else {"": part}
    return {text for rows in parts.values() for text in strings(rows.to_dict())}


def test_a_changed_mirror_is_read_anew(mirrors: Path) -> None:
    """By itself `datasets` takes a folder of the same name from its cache, stale."""
    counts = []
    for num in (40, 80):
        rows = [{"sentence1": f"a{n}", "sentence2": f"b{n}", "score": 1.0} for n in range(num)]
        mirror(mirrors / "STSBenchmark", {"default/test": rows})
        tasks: list[Any] = [load_task("STSBenchmark", split) for split in SPLITS]
        for task in tasks:
            task.load_data()
        counts.append(sum(len(task.dataset["test"]) for task in tasks))
    assert counts == [40, 80]


def test_entangled_pairs_are_refused(mirrors: Path) -> None:
    rows = [{"sentence1": "one", "sentence2": f"text {n}", "score": 1.0} for n in range(9)]
    mirror(mirrors / "STSBenchmark", {"default/test": rows})

    def load_both() -> None:
        for split in SPLITS:
            load_task("STSBenchmark", split).load_data()

    with pytest.raises(ValueError, match="halves: expected rows in each, got none of 9 in one"):
        load_both()


def letters(texts: list[str], role: str | None) -> NDArray[np.float32]:
    """Counts of characters: cheap, and different for different texts."""
    counts = [[text.count(each) + 0.01 for each in "abcdetx0123456789"] for text in texts]
    return np.array(counts, np.float32)


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (sts, "STSBenchmark", "pair"),
        (retrieval, "NFCorpus", "query"),
        (classification, "Banking77Classification", "text"),
        (clustering, "RedditClustering", "set"),
    ],
)
def test_a_mirrored_task_is_scored_with_its_items(
    make: Any, name: str, kind: str, mirrors: Path
) -> None:
    make(mirrors)
    result = evaluate(letters, [name], split="choosing", batch_size=8)
    assert result.failures == {}
    items = result.items.to_pandas()
    items = items[items["kind"] != "fit"]
    assert set(items["kind"]) == {kind}
    assert len(items) >= 3
    if kind != "pair":
        assert items["value"].mean() == pytest.approx(result.scores[name], abs=5.1e-6)
