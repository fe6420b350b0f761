"""Our scores of a model are those of mteb with the same model through sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainables.finished import MAX_TOKENS, design, write_run
from trainables import runs
from trainables.config import EMBEDDED_TASKS
from trainables.encoding import TOGETHER, encode_packed
from trainables.evaluation import Evaluation, evaluate
from trainables.exported.exporting import export
from trainables.mteb_guard import guarded
from trainables.tasks import load_task

CPU = torch.device("cpu")
SENTENCES = [f"the {'very ' * (n % 13)}old otter of place {n}" for n in range(90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    values = {"attention.mask": "bidirectional", "pooling.token_scope": "mean"}
    write_run(path, design(tiny_model, values | {"evaluation.max_tokens": MAX_TOKENS}))
    return path


def encoder(folder: Path, mini_batch_tokens: int = 512) -> Any:
    run = runs.load(folder)

    @torch.inference_mode()
    def encode(texts: list[str], role: str | None) -> NDArray[np.float32]:
        return encode_packed(
            run.embedder.embed,
            run.tokenizer,
            texts,
            max_tokens=MAX_TOKENS,
            mini_batch_tokens=mini_batch_tokens,
            device=CPU,
        )

    return encode


@pytest.mark.parametrize("mini_batch_tokens", [1, 40, 512, 100_000])
def test_packed_vectors_are_those_of_single_texts(folder: Path, mini_batch_tokens: int) -> None:
    run = runs.load(folder)
    alone = torch.cat([run.encode([text], MAX_TOKENS) for text in SENTENCES]).numpy()
    packed = encoder(folder, mini_batch_tokens)(SENTENCES, None)
    assert packed.dtype == np.float32
    assert np.abs(packed - alone).max() < 2e-6


def test_texts_that_are_tokenised_ahead_keep_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder(folder)(SENTENCES, None)
    monkeypatch.setattr("trainables.encoding.TOGETHER", 8)
    assert TOGETHER > len(SENTENCES)
    assert np.abs(encoder(folder)(SENTENCES, None) - expected).max() < 2e-6


@pytest.fixture(scope="module")
def ours(folder: Path, usual_cache: Path) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLSEARCH_CACHE", str(usual_cache))
        return evaluate(encoder(folder), ["embedded"], split="choosing", batch_size=4096)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from sentence_transformers import SentenceTransformer

    path = tmp_path_factory.mktemp("export") / "model"
    export(folder, path, log=lambda _: None)
    return SentenceTransformer(str(path), device="cpu")


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.parametrize("name", EMBEDDED_TASKS)
def test_mteb_with_sentence_transformers_gives_the_same_score(
    ours: Evaluation, exported: Any, name: str
) -> None:
    import mteb

    with guarded():
        result = mteb.evaluate(
            exported,
            [load_task(name, "choosing")],
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": 32, "show_progress_bar": False},
        )
    expected = float(result.task_results[0].get_score())
    assert ours.scores[name] == pytest.approx(expected, abs=1e-6)
