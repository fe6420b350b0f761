"""Reading a finished trial's folder, and saying what is wrong with one that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainables.finished import MAX_TOKENS, design, outcome, trained, write_run
from trainables import runs
from trainables.tokenizer import Tokenizer

TEXTS = ["the heron sleeps", "", "a quiet place of the otter and the badger at dawn, all winter"]
HEAD: dict[str, Any] = {
    "attention.mask": "latent_readout",
    "pooling.token_scope": "all_tokens",
    "pooling.head": "cross_attention",
    "pooling.layers": "1,2",
}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_run(tmp_path / "run", design(tiny_model, HEAD))
    return tmp_path / "run"


def fault(folder: Path) -> str:
    with pytest.raises(runs.RunError) as caught:
        runs.load(folder)
    return str(caught.value)


@pytest.mark.parametrize("values", [{}, HEAD], ids=["plain", "head"])
def test_a_run_is_what_was_trained(
    tmp_path: Path, tiny_model: Path, values: dict[str, Any]
) -> None:
    config = design(tiny_model, values)
    embedder = write_run(tmp_path / "run", config)
    run = runs.load(tmp_path / "run")
    batch = Tokenizer(str(tiny_model))(TEXTS, MAX_TOKENS, "find: ")
    assert torch.equal(run.encode(TEXTS, MAX_TOKENS, "find: "), embedder(*batch).detach())
    assert run.config == config
    assert run.outcome == outcome(config)


def test_reading_draws_nothing(folder: Path) -> None:
    before = torch.get_rng_state()
    runs.load(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_a_trial_of_a_gpu_is_read_in_fp32(tmp_path: Path, tiny_model: Path) -> None:
    gpu = {"engine.precision": "bf16", "engine.attn_implementation": "flash_attention_2"}
    write_run(tmp_path / "run", design(tiny_model, {}))
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    low = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(low, tmp_path / "run" / "weights.safetensors")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["engine"] |= {name.split(".")[1]: value for name, value in gpu.items()}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    run = runs.load(tmp_path / "run")
    assert {p.dtype for p in run.embedder.parameters()} == {torch.float32}
    assert run.config == design(tiny_model, gpu)
    found = dict(run.embedder.named_parameters())
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in low.items())


def test_the_final_norm_is_kept_where_the_design_drops_it(folder: Path) -> None:
    run = runs.load(folder)
    assert isinstance(run.embedder.backbone.decoder.norm, torch.nn.Identity)
    assert run.final_norm.weight.shape == (48,)


def test_there_is_no_folder(tmp_path: Path) -> None:
    assert fault(tmp_path / "none") == (
        f"{tmp_path}/none: expected the folder of a finished trial, got no folder"
    )


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"pooling": {"head": "nine"}, "atention": 1}')
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    lines = fault(tmp_path).splitlines()
    assert lines[0] == f"{tmp_path}: expected the folder of a finished trial"
    assert lines[1].startswith("config.json: atention: not a parameter; did you mean")
    assert lines[2].startswith("config.json: pooling.head: expected one of")
    assert lines[3].startswith("weights.safetensors: ")
    assert lines[4] == (
        "outcome.json: expected a file, got none; it is written last, so the trial has not "
        "finished"
    )


def test_what_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    (folder / "outcome.json").write_text('{"scores": {}}')
    lines = fault(folder).splitlines()
    assert lines[1] == "config.json: expected a JSON object, got list"
    assert lines[2].startswith("outcome.json: expected adaptation, categories, cost, failures")
    assert lines[2].endswith(", got scores")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")


def test_weights_that_do_not_fit(folder: Path) -> None:
    latents = "backbone.latents"
    edit(
        folder, lambda w: w.update({"pooling.other": torch.zeros(2), latents: torch.zeros(1, 48)})
    )
    edit(folder, lambda w: w.pop("pooling.head.latents"))
    assert fault(folder).splitlines() == [
        f"{folder}: weights.safetensors does not fit the design of config.json",
        "pooling.head.latents: expected, got none",
        "backbone.latents: expected [3, 48], got [1, 48]",
        "pooling.other: expected none, got [2]",
    ]


def test_many_weights_that_do_not_fit(folder: Path) -> None:
    edit(folder, lambda w: w.clear())
    assert fault(folder).splitlines()[-1].startswith("and ")


def test_a_backbone_that_is_not_there(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["backbone"]["model"] = "/no/such/model"
    (folder / "config.json").write_text(json.dumps(config))
    first, second, *_ = fault(folder).splitlines()
    assert first == f"{folder}: the model of config.json cannot be built"
    assert second.startswith("backbone.model: expected 'smollm2-135m', a model folder or")


def test_a_trained_embedder_has_moved(tiny_model: Path) -> None:
    moved = trained(design(tiny_model, {}))
    assert all(p.any() for p in moved.parameters() if p.requires_grad)
