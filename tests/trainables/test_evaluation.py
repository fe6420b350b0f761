"""The evaluation: mteb's own numbers, items that add up to them, nothing else touched."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from tests.trainables.test_tasks import classification, sts
from trainables import evaluation
from trainables.config import EMBEDDED_TASKS
from trainables.data import Triple
from trainables.encoding import encode_texts, unit
from trainables.evaluation import (
    Evaluation,
    by_lot,
    evaluate,
    joined,
    quick_score,
    task_names,
)
from trainables.suites import EMBEDDED_CATEGORIES

DIM = 256


def encode(texts: list[str], role: str | None) -> NDArray[np.float32]:
    """Hashed bags of words: cheap, sensible, the same everywhere."""
    vectors = np.zeros((len(texts), DIM), np.float32)
    for place, text in enumerate(texts):
        for word in text.lower().split()[:40]:
            vectors[place, column(word)] += 1
    return unit(vectors)


@functools.cache
def column(word: str) -> int:
    return int(hashlib.md5(word.encode()).hexdigest()[:8], 16) % DIM


@pytest.fixture(scope="module")
def scored(usual_cache: Path) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLSEARCH_CACHE", str(usual_cache))
        return evaluate(encode, ["embedded"], split="choosing", batch_size=32)


@pytest.mark.embedded
class TestEmbeddedTasks:
    def test_every_task_has_a_score(self, scored: Evaluation) -> None:
        assert scored.failures == {}
        assert list(scored.scores) == list(EMBEDDED_TASKS)
        assert set(scored.categories.values()) == {
            "STS",
            "Retrieval",
            "Classification",
            "Clustering",
        }
        words = {"SimLex999STS", "WordSim353STS"}  # hardly any has a word in common
        found = {name: score for name, score in scored.scores.items() if name not in words}
        assert all(0.05 < score < 0.9 for score in found.values())

    @pytest.mark.parametrize("name", EMBEDDED_TASKS)
    def test_mteb_gives_the_same_score(self, scored: Evaluation, name: str) -> None:
        """Its own program, with an encoder that neither sorts, batches nor remembers.

        On one thread, as ours: equally many words in common make cosines that differ by rounding.
        """
        import mteb

        from trainables.mteb_adapter import TaskEncoder
        from trainables.mteb_guard import guarded
        from trainables.tasks import load_task

        class Plain(TaskEncoder):
            def encode(self, inputs: Any, **_: Any) -> NDArray[np.float32]:
                return np.concatenate([encode(list(batch["text"]), None) for batch in inputs])

        with guarded(), threadpool_limits(1):
            result = mteb.evaluate(
                Plain(encode, 1),
                [load_task(name, "choosing")],
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": 16, "show_progress_bar": False},
            )
        expected = float(result.task_results[0].get_score())
        assert scored.scores[name] == pytest.approx(expected, abs=1e-6)

    def test_a_second_evaluation_is_equal(self, scored: Evaluation) -> None:
        again = evaluate(encode, EMBEDDED_TASKS, split="choosing", batch_size=32)
        assert again.scores == scored.scores
        assert again.items.equals(scored.items) or again.items.to_pandas().equals(
            scored.items.to_pandas()
        )

    def test_the_items_add_up_to_the_scores(self, scored: Evaluation) -> None:
        items = {task: rows for task, rows in scored.items.to_pandas().groupby("task")}
        assert set(items) == set(EMBEDDED_TASKS)
        for task, kind in EMBEDDED_CATEGORIES.items():
            fits = items[task][items[task]["kind"] == "fit"]["value"]
            if len(fits):  # a second way to add up to the score, for information
                assert fits.mean() == pytest.approx(scored.scores[task], abs=1e-9)
            rows = items[task][items[task]["kind"] != "fit"]
            values, gold = rows["value"], rows["gold"]
            expected = spearmanr(values, gold).statistic if kind == "STS" else values.mean()
            tolerance = 5.1e-6 if kind == "Retrieval" else 1e-9  # mteb rounds to five digits
            assert scored.scores[task] == pytest.approx(expected, abs=tolerance)

    def test_the_items_are_named_and_counted(self, scored: Evaluation) -> None:
        frame = scored.items.to_pandas()
        assert not frame.duplicated(["task", "item"]).any()
        assert frame.groupby("kind").size().to_dict() == {
            "pair": 300 + 270 + 101,
            "query": 200 + 100 + 100,
            "set": 10 + 10 + 10,
            "fit": 10 + 10 + 10,
            "text": 400 + 200 + 200,
        }
        assert (frame["gold"].notna() == (frame["kind"] == "pair")).all()
        documents = {
            end for item in frame["item"][frame["task"] == "Lee50STS"] for end in item.split("|")
        }
        assert len(documents) == 25

    def test_the_items_survive_a_file(self, scored: Evaluation, tmp_path: Path) -> None:
        scored.write_items(tmp_path / "items.parquet")
        read = pq.read_table(tmp_path / "items.parquet").to_pandas()
        pd.testing.assert_frame_equal(read, scored.items.to_pandas())

    def test_mteb_reads_its_results_back(self, scored: Evaluation, tmp_path: Path) -> None:
        import mteb

        scored.write_results(tmp_path, "poolsearch/0123456789ab", "seed-1")
        read = mteb.ResultCache(tmp_path).load_results()
        [model] = read.model_results
        assert (model.model_name, model.model_revision) == ("poolsearch/0123456789ab", "seed-1")
        found = {result.task_name: result for result in model.task_results}
        assert set(found) == set(scored.scores)
        for name, result in found.items():
            assert float(result.get_score()) == pytest.approx(scored.scores[name], abs=1e-6)
            assert result.dataset_revision.startswith("choosing-")
            assert "choosing" in result.scores

    def test_each_text_is_encoded_once_in_batches_of_similar_length(self) -> None:
        seen: list[list[str]] = []

        def counting(texts: list[str], role: str | None) -> NDArray[np.float32]:
            seen.append(texts)
            return encode(texts, role)

        evaluate(counting, ["Lee50STS", "Lee50STS"], split="choosing", batch_size=10)
        # 24 documents are first in some pair; the last document is always second.
        assert [len(batch) for batch in seen] == [10, 10, 4, 1]
        texts = [text for batch in seen for text in batch]
        assert len(set(texts)) == 25
        lengths = [len(text) for text in texts[:24]]
        assert lengths == sorted(lengths, reverse=True)

    def test_the_encoder_keeps_its_threads_and_the_scoring_has_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fits of sixty texts took ten times as long with as many threads as cores."""
        from sklearn.cluster import MiniBatchKMeans

        encoding: list[dict[str, int]] = []
        scoring: set[int] = set()
        fit = MiniBatchKMeans.fit

        def pools() -> dict[str, int]:
            return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

        def counting(texts: list[str], role: str | None) -> NDArray[np.float32]:
            encoding.append(pools())
            return encode(texts, role)

        def counted_fit(self: Any, *args: Any) -> Any:
            scoring.update(pools().values())
            return fit(self, *args)

        monkeypatch.setattr(MiniBatchKMeans, "fit", counted_fit)
        openmp = ThreadpoolController().select(user_api="openmp").lib_controllers
        assert len(openmp) > 1  # torch's and scikit-learn's, under one name
        with threadpool_limits():  # puts back what is changed here
            for number, pool in enumerate(openmp, start=2):
                pool.set_num_threads(number)
            before = pools()
            evaluate(counting, ["NewsgroupSetsClustering"], split="choosing", batch_size=32)
            assert all(seen == before for seen in [*encoding, pools()])
        assert scoring == {1}

    def test_roles_are_passed(self) -> None:
        roles: dict[str | None, int] = {}

        def counting(texts: list[str], role: str | None) -> NDArray[np.float32]:
            roles[role] = roles.get(role, 0) + len(texts)
            return encode(texts, role)

        tasks = ["Lee50STS", "BoolQRetrieval"]
        evaluate(counting, tasks, split="choosing", batch_size=32)
        assert roles == {None: 25, "query": 200, "document": 300}

    def test_the_random_streams_go_on_as_if_nothing_was(self) -> None:
        def states() -> list[Any]:
            numpy_state: Any = np.random.get_state()  # noqa: NPY002
            return [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()]

        before = states()
        evaluate(encode, ["TRECClassification"], split="choosing", batch_size=32)
        assert states() == before

    def test_a_failing_task_fails_alone(self) -> None:
        def failing(texts: list[str], role: str | None) -> NDArray[np.float32]:
            if role == "query":
                raise RuntimeError("out of memory")
            return encode(texts, role)

        tasks = ["BoolQRetrieval", "Lee50STS"]
        result = evaluate(failing, tasks, split="choosing", batch_size=32)
        assert result.failures == {"BoolQRetrieval": "RuntimeError: out of memory"}
        assert list(result.scores) == ["Lee50STS"]
        assert set(result.items.to_pandas()["task"]) == {"Lee50STS"}

    def test_a_score_that_is_no_number_is_a_failure(self) -> None:
        def constant(texts: list[str], role: str | None) -> NDArray[np.float32]:
            return np.ones((len(texts), 4), np.float32)

        result = evaluate(constant, ["Lee50STS"], split="choosing", batch_size=32)
        assert result.failures == {
            "Lee50STS": "ValueError: cosine_spearman: expected a finite number, got nan"
        }
        assert result.scores == {}

    def test_nothing_is_printed_or_left_in_the_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from trainables.assets import cache_folder

        monkeypatch.setenv("POOLSEARCH_CACHE", str(cache_folder()))
        monkeypatch.setenv("HOME", str(tmp_path))
        evaluate(encode, EMBEDDED_TASKS, split="confirming", batch_size=32)
        assert capfd.readouterr() == ("", "")
        assert list(tmp_path.iterdir()) == []
        assert logging.getLogger("mteb").level != logging.CRITICAL


@pytest.mark.embedded
def test_roles_that_are_encoded_alike_share_texts() -> None:
    seen: list[str] = []

    def counting(texts: list[str], role: str | None) -> NDArray[np.float32]:
        seen.extend(texts)
        return encode(texts, role)

    tasks = ["BoolQRetrieval", "BoolQRetrieval", "Lee50STS"]
    evaluate(counting, tasks, split="choosing", batch_size=32, alike=lambda role: "all")
    assert len(seen) == len(set(seen)) == 200 + 300 + 25


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, [None, None, None]),
        ("Find it", ["Instruct: Find it\nQuery: ", None, "Instruct: Find it\nQuery: "]),
        ({"query": "Ask"}, ["Instruct: Ask\nQuery: ", None, "Instruct: Ask\nQuery: "]),
        ({"document": "Tell"}, [None, None, None]),
    ],
)
def test_mtebs_words_for_a_task(prompt: Any, expected: list[str | None]) -> None:
    from types import SimpleNamespace

    from trainables.mteb_adapter import prompt_of

    metadata = SimpleNamespace(prompt=prompt)
    assert [prompt_of(metadata, role) for role in ("query", "document", None)] == expected


def test_an_unknown_task_is_a_failure_with_a_reason() -> None:
    result = evaluate(encode, ["STSBenchmrk"], split="choosing", batch_size=32)
    assert result.failures["STSBenchmrk"].startswith("ConfigError: evaluation.tasks: expected a ")
    assert result.items.num_rows == 0


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.full((3, 2), np.nan), "embeddings: expected finite numbers, got 3 texts with others"),
        (np.ones((2, 2)), "embeddings: expected shape [3, dim], got [2, 2]"),
        (np.ones(3), "embeddings: expected shape [3, dim], got [3]"),
    ],
)
def test_embeddings_that_mean_nothing_are_refused(embeddings: Any, message: str) -> None:
    with pytest.raises(ValueError, match="embeddings") as error:
        encode_texts(lambda *_: embeddings, ["a", "b", "c"], None, 8)
    assert str(error.value) == message


def test_encoding_keeps_the_order_whatever_the_batch_size() -> None:
    texts = ["a", "bbb b", "cc", "dddd d d", "e"]
    expected = encode(texts, None)
    for batch_size in (1, 2, 5, 100):
        assert np.array_equal(encode_texts(encode, texts, None, batch_size), expected)


def vectors(table: dict[str, list[float]]) -> Any:
    return lambda texts, role: np.array([table[text] for text in texts], np.float32)


def test_quick_score_is_ndcg_at_ten() -> None:
    """Two queries, of which one finds its passage first and one third."""
    table = {
        "q1": [1, 0],
        "q2": [0, 1],
        "p1": [1, 0.1],
        "p2": [1, 1],
        "n1": [0, 1],
        "n2": [0.1, 1],
    }
    held_out = [Triple("q1", "p1", ("n1",)), Triple("q2", "p2", ("n2",))]
    expected = (1 + 1 / math.log2(4)) / 2
    assert quick_score(vectors(table), held_out) == pytest.approx(expected)  # type: ignore[arg-type]


def test_quick_score_agrees_with_pytrec_eval() -> None:
    import pytrec_eval

    generator = np.random.default_rng(0)
    held_out = [Triple(f"q{n}", f"p{n}", (f"n{n}",)) for n in range(40)]
    texts = [text for triple in held_out for text in triple.texts]
    table = {text: generator.normal(size=4).tolist() for text in texts}
    run = {}
    for triple in held_out:
        query = unit([table[triple.query]])
        passages = [text for each in held_out for text in each.texts[1:]]
        scores = (unit([table[text] for text in passages]) @ query.T).ravel()
        run[triple.query] = dict(zip(passages, map(float, scores), strict=True))
    relevant = {triple.query: {triple.positive: 1} for triple in held_out}
    found = pytrec_eval.RelevanceEvaluator(relevant, {"ndcg_cut.10"}).evaluate(run)
    expected = np.mean([values["ndcg_cut_10"] for values in found.values()])
    assert quick_score(vectors(table), held_out) == pytest.approx(expected, abs=1e-6)


def test_quick_score_gives_nothing_for_equal_embeddings() -> None:
    held_out = [Triple(f"q{n}", f"p{n}") for n in range(40)]
    assert quick_score(lambda texts, _: np.ones((len(texts), 3), np.float32), held_out) == 0


def test_quick_score_needs_something_held_out() -> None:
    with pytest.raises(ValueError, match="held_out: expected at least one triple, got none"):
        quick_score(encode, [])


def test_the_kinds_are_documented() -> None:
    assert evaluation.Evaluation.__doc__ is not None
    for kind in ("query", "text", "set", "pair", "fit"):
        assert f'"{kind}"' in evaluation.Evaluation.__doc__


def test_tasks_one_by_one_come_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSEARCH_TASKS", str(tmp_path))
    for make in (sts, classification):
        make(tmp_path)
    tasks = ["STSBenchmark", "Banking77Classification", "NoSuchTask"]
    whole = evaluate(encode, tasks, split="choosing", batch_size=32)
    order = by_lot(task_names(tasks, "choosing"))
    assert sorted(order) == sorted(tasks)
    parts = [evaluate(encode, tasks, split="choosing", batch_size=32, only=t) for t in order]
    assert [len(part.scores) + len(part.failures) for part in parts] == [1, 1, 1]
    both = joined(parts)
    assert (both.scores, both.categories, both.failures) == (
        whole.scores,
        whole.categories,
        whole.failures,
    )
    keys = [("task", "ascending"), ("item", "ascending")]
    found, expected = (each.items.sort_by(keys).to_pandas() for each in (both, whole))
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="NoSuchTask: ConfigError"):
        _ = both.mean
    scores = list(whole.scores.values())
    assert joined([p for p in parts if p.scores]).mean == pytest.approx(np.mean(scores))
