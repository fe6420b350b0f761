"""Checkpoints go on under another stage or number of workers, and refuse what is not theirs."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaModel

from tests.trainables.workers import TIMEOUT_S, Group, numbers, reports
from trainables import checkpoint, engine
from trainables.build import build, trainable_parameters
from trainables.checkpoint import CheckpointError
from trainables.config import (
    BackboneConfig,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.contrastive import Trainee
from trainables.fingerprint import fingerprint
from trainables.overlay import overlay

pytestmark = pytest.mark.slow

STEPS, SAVED = 6, 4
STAGES = (0, 1, 2, 3)
MOVES = [  # stage and workers that write, and those that continue
    ((0, 1), (1, 2)),
    ((0, 2), (3, 1)),
    ((1, 1), (3, 2)),
    ((1, 2), (2, 1)),
    ((2, 1), (0, 2)),
    ((2, 2), (3, 2)),
    ((3, 1), (0, 1)),
    ((3, 2), (2, 1)),
    ((3, 2), (3, 1)),
    ((3, 1), (3, 2)),
]


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial whose trained tensors are large, small, and of odd sizes."""
    monkeypatch.chdir(root)
    return TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=2),
        pooling=PoolingConfig(
            token_scope="mean",
            head="cross_attention",
            layers="last_2",
            hidden_size=32,
            num_latents=4,
            ffn_size=1601,  # stage 3 leaves tensors of less than 100,000 numbers whole
            output_size=21,
        ),
        lora=LoraConfig(rank=3),
        training=TrainingConfig(
            data=(DataConfig(name="pairs.jsonl"),),
            steps=STEPS,
            batch_size=8,
            learning_rate=1e-2,
            head_learning_rate=3e-3,
            weight_decay=0.1,
            schedule="cosine",
            report_every=2,
        ),
        engine=EngineConfig(precision="fp32"),
        evaluation=EvaluationConfig(tasks=("NoSuchTask",)),
    )


@pytest.fixture(scope="module")
def groups(one: Group, two: Group) -> dict[int, Group]:
    """Return groups of one and of two workers."""
    return {1: one, 2: two}


def trainee(config: TrialConfig) -> Trainee:
    """Return what a trial trains."""
    return Trainee(build(config), config.objective.temperature, learned=False)


def on(config: TrialConfig, stage: int, workers: int) -> TrialConfig:
    return overlay(config, {"engine.zero_stage": stage, "engine.num_workers": workers})


def losses(group: Group, config: TrialConfig, folder: Path, num: int) -> list[float]:
    return [ranks[0].loss for ranks in reports(group, config, folder, num)]


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / (folder / "checkpoints/latest").read_text()


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "trained.safetensors") | load_file(
        checkpoint / "optimizer.safetensors"
    )


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - tensor).norm() <= share * tensor.norm(), name


class TestAnotherStageOrNumberOfWorkers:
    @pytest.mark.parametrize(("before", "after"), MOVES, ids=[f"{a}-{b}" for a, b in MOVES])
    def test_the_losses_are_those_of_the_uninterrupted_run(
        self,
        groups: dict[int, Group],
        config: TrialConfig,
        tmp_path: Path,
        before: tuple[int, int],
        after: tuple[int, int],
    ) -> None:
        whole = losses(groups[before[1]], on(config, *before), tmp_path / "whole", 3)
        begun = losses(groups[before[1]], on(config, *before), tmp_path / "parts", 2)
        saved = newest(tmp_path / "parts")
        assert saved.name == f"step-{SAVED:06d}"
        resumed = losses(groups[after[1]], on(config, *after), tmp_path / "parts", 3)
        assert resumed[:2] == begun
        assert resumed == pytest.approx(whole, abs=1e-5)
        assert_close(
            tensors(newest(tmp_path / "parts")), tensors(newest(tmp_path / "whole")), 2e-3
        )


def restored(config: TrialConfig, rank: int, folder: Path, into: Path) -> dict[str, Any] | None:
    """Load a checkpoint into a new engine and save it elsewhere; return the state."""
    engine.quiet_deepspeed()
    torch.manual_seed(100 + rank)
    wrapped = engine.initialize(trainee(config), config.engine, config.training)
    state = checkpoint.load(wrapped, folder)
    checkpoint.save(wrapped, into, SAVED, state or {})
    engine.release(wrapped)
    return state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("before", "after"), MOVES, ids=[f"{a}-{b}" for a, b in MOVES])
def test_a_round_trip_changes_no_bit(
    groups: dict[int, Group],
    config: TrialConfig,
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
    precision: str,
) -> None:
    config = overlay(config, {"engine.precision": precision, "training.report_every": SAVED})
    reports(groups[before[1]], on(config, *before), tmp_path / "parts", 1)
    first = newest(tmp_path / "parts")
    other = on(config, *after)
    into = tmp_path / "again/checkpoints"
    tasks = [
        worker.submit(restored, other, rank, tmp_path / "parts/checkpoints", into)
        for rank, worker in enumerate(groups[after[1]])
    ]
    states = [task.result(TIMEOUT_S) for task in tasks]
    again = newest(tmp_path / "again")
    found, expected = tensors(again), tensors(first)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    notes, noted = (json.loads((f / "checkpoint.json").read_text()) for f in (again, first))
    assert all(state == noted["state"] for state in states)
    assert noted["optimizer_step"] == SAVED
    same = ("format", "step", "optimizer_step", "schedule", "state", "base_model")
    assert {name: notes[name] for name in same} == {name: noted[name] for name in same}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_one_worker_continues_to_the_same_bits(
    groups: dict[int, Group], config: TrialConfig, tmp_path: Path, stage: int, precision: str
) -> None:
    changes = {"engine.precision": precision, "lora.dropout": 0.1}
    config = on(overlay(config, changes), stage, 1)
    whole = reports(groups[1], config, tmp_path / "whole", 3)
    reports(groups[1], config, tmp_path / "parts", 1)
    assert numbers(reports(groups[1], config, tmp_path / "parts", 3)) == numbers(whole)
    found, expected = (tensors(newest(tmp_path / name)) for name in ("parts", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def begun(groups: dict[int, Group], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a checkpoint will be, once `saved` has made it."""
    return tmp_path_factory.mktemp("begun")


@pytest.fixture
def saved(groups: dict[int, Group], config: TrialConfig, begun: Path, tmp_path: Path) -> Path:
    """Return the folder of a copy of one worker's checkpoint of step 2."""
    if not (begun / "checkpoints").exists():
        reports(groups[1], config, begun, 1)
    shutil.copytree(begun / "checkpoints", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def refusal(group: Group, config: TrialConfig, folder: Path) -> str:
    """Return why a checkpoint is not loaded."""
    with pytest.raises(CheckpointError) as caught:
        group[0].submit(restored, config, 0, folder, folder.parent / "again").result(TIMEOUT_S)
    return str(caught.value)


def test_it_holds_what_is_trained_and_no_more(
    config: TrialConfig, saved: Path, groups: dict[int, Group]
) -> None:
    folder = saved / "step-000002"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        *("trained.safetensors", "optimizer.safetensors", "random.safetensors"),
        "checkpoint.json",
    }
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 3 * 4 * trainable_parameters(build(config)) + 60_000
    assert {file.name for file in saved.iterdir()} == {"latest", folder.name}


@pytest.mark.parametrize(
    "name", ["trained.safetensors", "optimizer.safetensors", "random.safetensors"]
)
def test_a_damaged_or_missing_file_is_named(
    groups: dict[int, Group], config: TrialConfig, saved: Path, name: str
) -> None:
    file = saved / "step-000002" / name
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    remedy = f"remove {saved} to train from the start"
    damaged = f"checkpoint: expected {file} as it was written, got a damaged file; {remedy}"
    assert refusal(groups[1], config, saved) == damaged
    file.write_bytes(content[:-9])
    assert refusal(groups[1], config, saved) == damaged
    file.unlink()
    missing = f"checkpoint: expected {file}, got no such file; {remedy}"
    assert refusal(groups[1], config, saved) == missing


@pytest.mark.parametrize(
    ("old", "new"),
    [('"step": 2', '"step": 3'), ("{", ""), ('"seal"', '"seel"')],
    ids=["changed", "no JSON", "without a seal"],
)
def test_damaged_notes_are_named(
    groups: dict[int, Group], config: TrialConfig, saved: Path, old: str, new: str
) -> None:
    file = saved / "step-000002/checkpoint.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert refusal(groups[1], config, saved) == (
        f"checkpoint: expected {file} as it was written, got a damaged file; "
        f"remove {saved} to train from the start"
    )


def test_a_pointer_to_nothing_is_no_fresh_start(
    groups: dict[int, Group], config: TrialConfig, saved: Path
) -> None:
    shutil.rmtree(saved / "step-000002")
    assert refusal(groups[1], config, saved) == (
        f"checkpoint: expected {saved}/step-000002/checkpoint.json, got no such file; "
        f"remove {saved} to train from the start"
    )


def test_another_format_is_refused(
    groups: dict[int, Group], config: TrialConfig, saved: Path
) -> None:
    file = saved / "step-000002/checkpoint.json"
    notes = json.loads(file.read_text())
    notes.pop("seal")
    file.write_bytes(checkpoint._sealed(notes | {"format": 2}))
    assert refusal(groups[1], config, saved) == (
        f"checkpoint: expected {file.parent} in format 1, got 2; "
        f"remove {saved} to train from the start"
    )


def test_another_base_model_is_refused(
    groups: dict[int, Group], config: TrialConfig, saved: Path, root: Path
) -> None:
    model: Any = LlamaModel.from_pretrained("model")
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[17, 5] += 0.01
    model.save_pretrained("other")
    for file in Path("model").glob("tokenizer*"):
        shutil.copy(file, "other")
    other = overlay(config, {"backbone.model": "other"})
    one, two = fingerprint(trainee(config)), fingerprint(trainee(other))
    assert one != two
    assert refusal(groups[1], other, saved) == (
        f"checkpoint: expected the base model that {saved}/step-000002 was trained on, in its "
        f"precision (fingerprint {one}), got another one (fingerprint {two}); use that model, or "
        f"remove {saved} to train from the start"
    )


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        (
            {"pooling.output_size": 20},
            "embedder.pooling.project.weight of shape (20, 32) instead of (21, 32)",
        ),
        ({"pooling.output_size": None}, "embedder.pooling.project.weight is gone"),
        (
            {"attention.mask": "latent_readout"},
            "embedder.backbone.latents is new",
        ),
    ],
    ids=["another size", "less", "more"],
)
def test_another_design_is_refused_by_name(
    groups: dict[int, Group],
    config: TrialConfig,
    saved: Path,
    changes: dict[str, Any],
    faults: str,
) -> None:
    assert refusal(groups[1], overlay(config, changes), saved) == (
        f"checkpoint: expected the trained parameters of {saved}/step-000002, got {faults}; "
        f"use the design that it was trained with, or remove {saved} to train from the start"
    )


def drawn(config: TrialConfig, rank: int, folder: Path) -> tuple[float, list[str]]:
    """Load a checkpoint; return the next random number and what was warned of."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trainables.checkpoint").addHandler(handler)
    torch.manual_seed(rank)
    restored(config, rank, folder, folder.parent / f"again-{len(list(folder.parent.iterdir()))}")
    return float(torch.rand(())), told


def test_new_workers_draw_numbers_of_their_own(
    groups: dict[int, Group], config: TrialConfig, saved: Path
) -> None:
    config = on(config, 2, 2)
    runs = []
    for _ in range(2):
        tasks = [w.submit(drawn, config, r, saved) for r, w in enumerate(groups[2])]
        runs.append([task.result(TIMEOUT_S) for task in tasks])
    (first, told), (second, silent) = runs[0]
    assert [number for number, _ in runs[1]] == [first, second]
    assert first != second
    torch.set_rng_state(load_file(saved / "step-000002/random.safetensors")["0.cpu"])
    assert first == float(torch.rand(()))
    assert silent == []
    assert told == [
        f"{saved}/step-000002 continues with num_workers 1 → 2: its losses are equal to rounding "
        "only, and workers that are new draw fresh random numbers"
    ]
