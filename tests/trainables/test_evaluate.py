"""Models scored as they are: ours in every form score alike, and others stand beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from analysis.baselines import references
from analysis.table import load
from tests.trainables.finished import design, write_run
from tests.trainables.test_tasks import mirror
from trainables import evaluate, hub, runs
from trainables.checkpoint import LATEST, NOTES, TRAINED, _sealed, _sha256
from trainables.exported.exporting import export
from trainables.runs import RunError, load_unfinished
from trainables.subjects import Options, SubjectError, open_subject

TASK = "STSBenchmark"
TEXTS = ["the heron sleeps by the river", "a", "where does the badger of the quarry sleep?"]
ROLES = ("query", "document", None)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mirror of a small STS task."""
    animals = ["heron", "otter", "badger", "hare", "owl", "toad", "newt", "stoat"]
    pairs = [(i, j) for i in range(len(animals)) for j in range(i)]
    rows = [
        {
            "sentence1": f"the {animals[i]} of {n}",
            "sentence2": f"the {animals[j]} by {n}",
            "score": float((i * 7 + j * 3) % 6),
        }
        for n, (i, j) in enumerate(pairs)
    ]
    mirror(tmp_path / "tasks" / TASK, {"default/test": rows})
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POOLSEARCH_TASKS", str(tmp_path / "tasks"))
    return TASK


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A random encoder of sentence-transformers with prompts of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder, whole = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("whole")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=400, num_attention_heads=2, **sizes)).save_pretrained(
            folder
        )
    part = Transformer(str(folder), max_seq_length=40)
    SentenceTransformer(
        modules=[part, Pooling(32, pooling_mode="mean")],
        prompts={"query": "query: ", "document": "passage: "},
        device="cpu",
    ).save_pretrained(str(whole))
    return whole


def vectors(model: Path, options: Options | None = None) -> list[np.ndarray[Any, Any]]:
    encode = open_subject(str(model), options or Options()).encode
    return [encode(list(TEXTS), role) for role in ROLES]


def unfinished(run: Path, folder: Path, step: int) -> None:
    """Make a trial with a checkpoint of a finished one, as the engine would have written it."""
    from safetensors.torch import load_file
    from safetensors.torch import save as to_bytes

    weights = load_file(run / "weights.safetensors")
    masters = {f"embedder.{n}": t.float() for n, t in weights.items()}
    content = to_bytes({**masters, "shift": torch.zeros(1)})
    tag = folder / "checkpoints" / "step-000004"
    tag.mkdir(parents=True)
    (tag / TRAINED).write_bytes(content)
    notes = {"format": 1, "step": step, "sha256": {TRAINED: _sha256(content)}}
    (tag / NOTES).write_bytes(_sealed(notes))
    (folder / "checkpoints" / LATEST).write_text(tag.name)
    (folder / "config.json").write_bytes((run / "config.json").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["causal", "prefix"])
def test_a_run_its_export_and_its_checkpoint_are_one_model(
    mask: str, tiny_model: Path, tmp_path: Path
) -> None:
    prompts = {"instructions.query": "find it: ", "instructions.document": "passage: "}
    limits = {"training.max_query_tokens": 20, "evaluation.max_tokens": 20}
    run = tmp_path / "run"
    write_run(run, design(tiny_model, {"attention.mask": mask, **prompts, **limits}))
    export(run, tmp_path / "exported", log=lambda line: None)
    unfinished(run, tmp_path / "half", step=4)
    ours = vectors(run)
    assert not np.allclose(ours[0], ours[1])
    exported = vectors(tmp_path / "exported", Options(trust_remote_code=mask == "prefix"))
    for one, other, kept in zip(ours, exported, vectors(tmp_path / "half"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(one, kept, atol=1e-6)
    assert open_subject(str(tmp_path / "half"), Options()).steps == 4
    if mask == "prefix":
        with pytest.raises(SubjectError, match="you trust them, add --trust-remote-code"):
            open_subject(str(tmp_path / "exported"), Options())


def test_a_bare_decoder_is_read_as_the_untrained_control(tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = design(tiny_model, {"evaluation.max_tokens": 16})
    embedder = write_run(run, trained)
    for name, tensor in embedder.named_parameters():
        if "lora_B" in name:  # an adapter of zeros is none
            torch.nn.init.zeros_(tensor)
    from safetensors.torch import save_file

    weights = {
        n: p.detach().contiguous() for n, p in embedder.named_parameters() if p.requires_grad
    }
    save_file(weights, run / "weights.safetensors")
    bare = vectors(tiny_model, Options(pooling="last_token", max_tokens=16))
    for one, other in zip(bare, vectors(run), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    means = vectors(tiny_model, Options(pooling="mean"))
    assert not np.allclose(means[0], bare[0], atol=0.01)
    asked = vectors(tiny_model, Options(pooling="mean", prompts={"query": "find: "}))
    assert not np.allclose(asked[0], means[0], atol=1e-4)
    np.testing.assert_array_equal(asked[1], means[1])


def test_a_model_of_others_keeps_its_pooling_and_prompts(bert: Path) -> None:
    from sentence_transformers import SentenceTransformer

    own = SentenceTransformer(str(bert), device="cpu")
    expected = (own.encode_query(TEXTS), own.encode_document(TEXTS), own.encode(TEXTS))
    for one, other in zip(vectors(bert), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    given = vectors(bert, Options(prompts={"query": "ask: ", "other": "text: "}))
    np.testing.assert_allclose(given[0], own.encode(TEXTS, prompt="ask: "), atol=1e-6)
    np.testing.assert_allclose(given[2], own.encode(TEXTS, prompt="text: "), atol=1e-6)
    subject = open_subject(str(bert), Options(max_tokens=8))
    assert subject.cost["embedding_size"] == 32
    assert subject.params["max_tokens"] == 8
    assert subject.label == f"{bert}, 8 tokens"
    assert subject.digest != open_subject(str(bert), Options()).digest


@pytest.mark.parametrize("split", ["choosing", "confirming"])
def test_a_baseline_stands_in_a_study_s_table(
    split: str, bert: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "outputs" / "mine"
    arguments = [str(bert), "--suite", task, "--split", split, "--output", str(study)]
    assert evaluate.main(arguments) == 0
    assert evaluate.main(arguments) == 0
    results = load(study)
    assert (results.study, len(results.trials)) == ("mine", 0)
    assert len(results.baselines) == 1
    row = results.baselines.iloc[0]
    assert (row["task"], row["category"], row["role"]) == (task, "STS", "baseline")
    assert f"{task} {100 * row['score']:.1f}" in capsys.readouterr().out
    found = references(results)[-1]
    assert (found.split, found.lacking) == (split, ())
    assert found.means["STS"] == pytest.approx(row["score"])
    items = pq.read_table(study / "results" / f"{row['name']}.items.parquet").to_pandas()
    assert set(items["kind"]) == {"pair"}


def test_a_row_has_the_study_s_name_and_its_failures(
    tiny_model: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "search-0000.json").write_text(json.dumps({"study": "another"}))
    (tmp_path / "tasks" / task / "default" / "test.parquet").unlink()
    arguments = [str(tiny_model), "--pooling", "mean", "--suite", task, "--output", str(tmp_path)]
    assert evaluate.main(arguments) == 1
    assert f"{task}: no score: " in capsys.readouterr().out
    assert [file.name for file in results.iterdir()] == ["search-0000.json"]
    assert evaluate._study(results) == "another"


def main(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert evaluate.main(arguments) == 2
    return capsys.readouterr().err


def test_what_cannot_be_scored_is_said_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["nothing", "--suite", "STSBenchmarc", "--prompts", "ask=x", "--max-tokens", "1"]
    *options, suite = main([*arguments, "--batch-size", "0"], capsys).splitlines()
    assert options == [
        "--prompts: expected query=, document= or other=TEXT, got 'ask=x'",
        "--max-tokens: expected at least 2, got 1",
        "--batch-size: expected at least 1, got 0",
    ]
    assert suite.startswith("--suite: expected ")
    assert "got 'STSBenchmarc', did you mean 'STSBenchmark" in suite


def test_scores_go_into_a_study_or_a_new_folder_alone(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    for name, what in {"file": "a file", "other": "one without results/"}.items():
        said = main(["x", "--suite", task, "--output", str(tmp_path / name)], capsys)
        expected = "--output: expected a study's folder or a new one, got"
        assert said == f"{expected} {what}: {tmp_path / name}\n"
    assert evaluate._output_faults(tmp_path / "new") == []
    (tmp_path / "empty").mkdir()
    assert evaluate._output_faults(tmp_path / "empty") == []


def test_a_task_by_name_and_in_a_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = main(["nothing", "--suite", "paper", "STSBenchmark"], capsys)
    assert said == (
        "--suite: expected each task once, got STSBenchmark by name and in a suite; "
        "leave the name out\n"
    )


def test_a_folder_without_a_model_is_told_from_a_bare_decoder(
    tiny_model: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = main([str(tmp_path), "--suite", task], capsys)
    assert said == (
        f"{tmp_path}: expected a folder with the config.json of a trial or a decoder, or with "
        "modules.json, got neither\n"
    )
    trial = tmp_path / "confirm" / "0003"
    trial.parent.mkdir()
    write_run(trial, design(tiny_model, {}))
    said = main([str(tmp_path), "--suite", task], capsys)
    assert said.endswith(f"the study's trials are in folders such as {trial}\n")
    (trial / "config.json").write_text("{")
    said = main([str(trial), "--suite", task], capsys)
    assert said.startswith(
        f"{trial / 'config.json'}: expected a JSON object, got a damaged file ("
    )


def test_a_trial_packs_its_texts_to_the_vectors_of_padded_ones(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    prompts = {"instructions.query": "find it: ", "training.max_query_tokens": 12}
    write_run(run, design(tiny_model, {**prompts, "evaluation.mini_batch_tokens": 24}))
    loaded = runs.load(run)
    encode = open_subject(str(run), Options()).encode
    for role in ROLES:
        cut = 12 if role == "query" else loaded.config.evaluation.max_tokens
        written = getattr(loaded.config.instructions, role or "other")
        with torch.inference_mode():
            padded = loaded.embedder.eval()(*loaded.tokenizer(TEXTS, cut, written))
        np.testing.assert_allclose(encode(list(TEXTS), role), padded.numpy(), atol=1e-6)


def test_a_hub_that_does_not_answer_is_no_riddle(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(model: str, revision: str | None) -> tuple[list[str], None, str]:
        return [], None, "ConnectError: no route to it"

    monkeypatch.setattr(hub, "ask", no_answer)
    said = main(["someone/some-model", "--suite", task], capsys)
    assert said == (
        "someone/some-model: expected a folder, the embedded 'smollm2-135m', or a model of a hub "
        "that answers, got ConnectError: no route to it; fetch it on a machine that reaches the "
        "hub (hf download NAME --local-dir FOLDER) and give the folder, or run once where the "
        "hub answers, which fills its cache\n"
    )


def test_a_read_out_is_for_a_bare_decoder_alone(
    bert: Path, tiny_model: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = main([str(tiny_model), "--suite", task], capsys)
    assert "expected a model with a pooling of its own (modules.json), got a bare one" in said
    said = main([str(bert), "--suite", task, "--pooling", "mean"], capsys)
    assert said.startswith("--pooling: expected none, as")
    run = tmp_path / "run"
    write_run(run, design(tiny_model, {}))
    said = main([str(run), "--suite", task, "--pooling", "mean", "--max-tokens", "9"], capsys)
    assert (
        said == "--pooling, --max-tokens: expected none for a trial, which has its own, got some\n"
    )
    inner = next(
        each for each in (bert, bert / "0_Transformer") if (each / "config.json").is_file()
    )
    (tmp_path / "encoder").mkdir()
    for file in inner.iterdir():
        if file.is_file() and file.name != "modules.json":
            (tmp_path / "encoder" / file.name).write_bytes(file.read_bytes())
    said = main([str(tmp_path / "encoder"), "--suite", task, "--pooling", "mean"], capsys)
    assert "expected a decoder LLM or a sentence-transformers model, got BertModel" in said


def test_a_trial_that_has_nothing_yet_is_named(tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, design(tiny_model, {}))
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    (tmp_path / "new" / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"has a checkpoint \(checkpoints/latest\), got neither"):
        load_unfinished(tmp_path / "new")
    unfinished(run, tmp_path / "half", step=4)
    (tmp_path / "half" / "checkpoints" / "step-000004" / TRAINED).write_bytes(b"")
    with pytest.raises(RunError, match="got a damaged file"):
        load_unfinished(tmp_path / "half")


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_decoder_is_scored_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["smollm2-135m", "--pooling", "mean", "--max-tokens", "32", "--suite", "Lee50STS"]
    assert evaluate.main(arguments) == 0
    assert "smollm2-135m, causal, mean" in capsys.readouterr().out
