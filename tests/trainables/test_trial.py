"""One trial against a plain torch loop, over ZeRO stages and workers, and through kills.

The trials run in processes of their own, which a fork server makes after one import for all.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import sys
import warnings
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from trainables import data, engine, trial
from trainables.backbone import Embedder, Tokenizer, build
from trainables.config import (
    BackboneConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
    overlay,
)

pytestmark = pytest.mark.slow

STEPS = 6
STAGES = (0, 1, 2, 3)
RARE = {"training.report_every": 2}
TIMEOUT_S = 120.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch from spinning on the cores that the workers are using."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_pairs: Path) -> Path:
    """Return where all processes stand: relative names give every run the same digests."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "model").symlink_to(tiny_model)
    (folder / "pairs.jsonl").symlink_to(tiny_pairs)
    return folder


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial in which everything that is trained moves, reporting at every step."""
    monkeypatch.chdir(root)
    return TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=2),
        pooling=PoolingConfig(
            token_scope="mean",
            head="cross_attention",
            num_layers=2,
            hidden_size=32,
            num_latents=4,
            ffn_size=1600,  # stage 3 leaves tensors of less than 100,000 numbers whole
        ),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(
            data="pairs.jsonl",
            steps=STEPS,
            batch_size=8,
            learning_rate=1e-2,
            head_learning_rate=3e-3,
            weight_decay=0.1,
            warmup_steps=2,
            max_grad_norm=0.5,
            report_every=1,
        ),
        engine=EngineConfig(precision="fp32"),
        evaluation=EvaluationConfig(tasks=("NoSuchTask",), batch_size=4),
    )


def enter(root: Path, rank: int, world_size: int, address: str) -> None:
    """Make this process a worker."""
    os.chdir(root)
    torch.set_num_threads(1)
    engine.join_process_group(rank, world_size, address)


Group = list[ProcessPoolExecutor]


def open_group(num_workers: int, root: Path) -> Group:
    context = get_context("forkserver")
    context.set_forkserver_preload(["trainables.trial", "deepspeed"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    group = [
        ProcessPoolExecutor(
            1, context, initializer=enter, initargs=(root, rank, num_workers, address)
        )
        for rank in range(num_workers)
    ]
    for task in [worker.submit(os.getpid) for worker in group]:  # they join each other
        task.result(TIMEOUT_S)
    return group


def close_group(group: Group) -> None:
    for worker in group:
        worker.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def one(root: Path) -> Iterator[Group]:
    group = open_group(1, root)
    yield group
    close_group(group)


@pytest.fixture(scope="module")
def two(root: Path) -> Iterator[Group]:
    group = open_group(2, root)
    yield group
    close_group(group)


def drive(config: TrialConfig, rank: int, folder: Path, num_events: int) -> list[Any]:
    """Run a trial up to a number of reports (one more is the outcome) and close it."""
    events = trial.run(config, trial.Session(rank=rank, folder=folder))
    with contextlib.closing(cast("Generator[Any]", events)):
        return list(itertools.islice(events, num_events))


def reports(
    group: Group, config: TrialConfig, folder: Path, num: int = STEPS
) -> list[tuple[trial.Report, ...]]:
    """Train on the group's workers up to a number of reports; return each with all ranks'."""
    tasks = [w.submit(drive, config, rank, folder, num) for rank, w in enumerate(group)]
    return list(zip(*(task.result(TIMEOUT_S) for task in tasks), strict=True))


def losses(reported: list[tuple[trial.Report, ...]]) -> list[float]:
    return [sum(report.loss for report in ranks) / len(ranks) for ranks in reported]


def numbers(reported: list[tuple[trial.Report, ...]]) -> list[tuple[int, float, float]]:
    """Return what a resumed trial must repeat to the bit."""
    return [(r.step, r.loss, r.quick_score) for ranks in reported for r in ranks]


def plain_loop(config: TrialConfig) -> list[float]:
    """Return the losses of the same training without DeepSpeed and without our loss."""
    training = config.training
    torch.manual_seed(trial._seed(config))
    model = build(config)
    torch.manual_seed(trial._seed(config) + 1)
    model.train()
    lora = [p for p in model.backbone.parameters() if p.requires_grad]
    rates = (training.learning_rate, training.head_learning_rate)
    optimizer = torch.optim.AdamW(
        [{"params": lora}, {"params": list(model.pooling.parameters())}],
        weight_decay=training.weight_decay,
    )
    tokenizer = Tokenizer(config.backbone.model)
    triples = data.load_triples(training.data, num_hard_negatives=1)
    found = []
    for step in range(training.steps):
        share = min(
            step / training.warmup_steps if training.warmup_steps else 1.0,
            (training.steps - step) / (training.steps - training.warmup_steps),
        )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        batch = data.batch_at(triples, step, batch_size=training.batch_size, seed=config.seed)
        queries = model(*tokenizer([t.query for t in batch], training.max_query_tokens))
        texts = [t.positive for t in batch] + [t.negatives[0] for t in batch]
        passages = model(*tokenizer(texts, training.max_passage_tokens))
        scores = queries @ passages.T / training.temperature
        loss = (scores.logsumexp(1) - scores.diagonal()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        found.append(loss.item())
    return found


def drive_and_die(config: TrialConfig, folder: Path, event: str, path: str) -> None:
    """Run a trial; after its first report, kill this process as it is about to do `event`."""

    def kill(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and str(arguments[0]).endswith(path):
            os.kill(os.getpid(), signal.SIGKILL)

    events = trial.run(config, trial.Session(rank=0, folder=folder))
    next(events)
    sys.addaudithook(kill)
    next(events)


@pytest.mark.parametrize(
    ("event", "path", "last"),
    [("os.mkdir", "step-000004", 2), ("shutil.rmtree", "step-000002", 4)],
    ids=["before a checkpoint", "before the old one goes"],
)
def test_a_killed_trial_continues_to_the_same_bits(
    one: Group,
    root: Path,
    config: TrialConfig,
    tmp_path: Path,
    event: str,
    path: str,
    last: int,
) -> None:
    config = overlay(config, {**RARE, "lora.dropout": 0.1})
    (doomed,) = group = open_group(1, root)
    with pytest.raises(BrokenProcessPool):
        doomed.submit(drive_and_die, config, tmp_path / "parts", event, path).result(TIMEOUT_S)
    close_group(group)
    assert (tmp_path / "parts/checkpoints/latest").read_text() == f"step-{last:06d}"
    resumed = reports(one, config, tmp_path / "parts", 3)
    assert numbers(resumed) == numbers(reports(one, config, tmp_path / "whole", 3))
    left = [path.name for path in (tmp_path / "parts/checkpoints").glob("step-*")]
    assert left == ["step-000006"]


def drive_and_die_saving(config: TrialConfig, rank: int, folder: Path, tag: str) -> None:
    """Run a trial; rank 1 dies instead of writing its part of the checkpoint `tag`."""
    save = torch.save

    def save_or_die(value: Any, file: Any, **options: Any) -> None:
        if rank == 1 and tag in str(file) and "rng-" not in str(file):
            os.kill(os.getpid(), signal.SIGKILL)
        save(value, file, **options)

    torch.save = save_or_die  # type: ignore[assignment]  # with fewer named parameters
    drive(config, rank, folder, 3)


def test_the_pointer_moves_after_every_worker_has_saved(
    two: Group, root: Path, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, "engine.num_workers": 2})
    folder, tag = tmp_path / "parts", "step-000004"
    group = open_group(2, root)
    tasks = [
        w.submit(drive_and_die_saving, config, rank, folder, tag) for rank, w in enumerate(group)
    ]
    assert isinstance(tasks[1].exception(TIMEOUT_S), BrokenProcessPool)
    assert tasks[0].exception(TIMEOUT_S) is not None  # its neighbour is gone
    close_group(group)
    assert (folder / "checkpoints/latest").read_text() == "step-000002"
    resumed = reports(two, config, folder, 3)
    assert losses(resumed)[1:] == losses(reports(two, config, tmp_path / "whole", 3))[1:]


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_step(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    rates = {"training.learning_rate": 1e30, "training.warmup_steps": 0}
    with pytest.raises(
        trial.TrainingError, match=r"^loss: expected a finite number, got nan at step 2$"
    ):
        reports(one, overlay(config, {**RARE, **rates}), tmp_path)


def test_without_steps_the_untrained_weights_are_written(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {"training.steps": 0})
    (outcome,) = one[0].submit(drive, config, 0, tmp_path, 2).result(TIMEOUT_S)
    expected = untrained(config)
    assert outcome.trainable_parameters == sum(w.numel() for w in expected.values())
    assert (outcome.scores, outcome.seconds) == ({}, 0)
    assert outcome.failures.keys() == {"NoSuchTask"}
    assert outcome.versions.keys() == set(trial.PACKAGES)
    assert_same(load_file(tmp_path / "weights.safetensors"), expected)


def save_untrained(config: TrialConfig, file: Path) -> None:
    torch.manual_seed(trial._seed(config))
    wrapped = engine.initialize(build(config), config)
    engine.save_weights(wrapped.module, file)
    wrapped.destroy()


def test_weights_are_gathered_from_all_workers(
    two: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {"engine.zero_stage": 3, "engine.num_workers": 2})
    file = tmp_path / "new" / "weights.safetensors"
    for task in [worker.submit(save_untrained, config, file) for worker in two]:
        task.result(TIMEOUT_S)
    assert_same(load_file(file), untrained(config))


def untrained(config: TrialConfig) -> dict[str, Tensor]:
    """Return the weights that training would change, as they start."""
    torch.manual_seed(trial._seed(config))
    return {n: p.detach() for n, p in build(config).named_parameters() if p.requires_grad}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("stage", STAGES)
class TestEveryStage:
    def test_one_worker_trains_as_the_plain_loop(
        self, one: Group, config: TrialConfig, tmp_path: Path, stage: int
    ) -> None:
        config = overlay(config, {"engine.zero_stage": stage, "lora.dropout": 0.1})
        found = losses(reports(one, config, tmp_path))
        assert found == pytest.approx(plain_loop(config), abs=1e-4)

    def test_a_closed_trial_continues_to_the_same_bits(
        self, one: Group, config: TrialConfig, tmp_path: Path, stage: int
    ) -> None:
        config = overlay(config, {**RARE, "engine.zero_stage": stage, "lora.dropout": 0.1})
        whole = reports(one, config, tmp_path / "whole", 3)
        begun = reports(one, config, tmp_path / "parts", 1)
        resumed = reports(one, config, tmp_path / "parts", 3)
        assert resumed[0] == begun[0]  # replayed, with the seconds that it took
        assert numbers(resumed) == numbers(whole)

    def test_a_closed_trial_leaves_nothing_behind(
        self, one: Group, config: TrialConfig, tmp_path: Path, stage: int
    ) -> None:
        before = one[0].submit(leftovers).result(TIMEOUT_S)
        config = overlay(config, {"engine.zero_stage": stage, "training.steps": 1})
        reports(one, config, tmp_path, 1)
        assert one[0].submit(leftovers).result(TIMEOUT_S) == before == (0, "linear")


def leftovers() -> tuple[int, str]:
    """Return the models in memory, and the name of what torch calls for a linear layer."""
    gc.collect()
    with warnings.catch_warnings(action="ignore"):  # looking at old names warns
        num = sum(type(thing) is Embedder for thing in gc.get_objects())
    return num, functional.linear.__name__


@pytest.mark.parametrize("stage", [2, 3])
def test_two_workers_train_as_the_plain_loop(
    two: Group, config: TrialConfig, tmp_path: Path, stage: int
) -> None:
    config = overlay(config, {"engine.zero_stage": stage, "engine.num_workers": 2})
    found = reports(two, config, tmp_path)
    assert losses(found) == pytest.approx(plain_loop(config), abs=1e-4)
    assert all(first.quick_score == second.quick_score for first, second in found)


def test_two_workers_continue_to_the_same_bits(
    two: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, "engine.num_workers": 2})
    whole = reports(two, config, tmp_path / "whole", 3)
    begun = reports(two, config, tmp_path / "parts", 1)
    resumed = reports(two, config, tmp_path / "parts", 3)
    assert resumed[0] == begun[0]  # replayed, each rank's own loss
    assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_learns(one: Group, config: TrialConfig, tmp_path: Path, stage: int) -> None:
    config = overlay(config, {"engine.zero_stage": stage, "engine.precision": "bf16"})
    found = losses(reports(one, config, tmp_path))
    assert found[0] == pytest.approx(plain_loop(config)[0], rel=0.1)
    assert found[-1] < found[0] / 2
