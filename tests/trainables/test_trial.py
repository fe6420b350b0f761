"""One trial against a plain torch loop, over designs, stages and workers, and through kills."""

from __future__ import annotations

import gc
import json
import os
import signal
import warnings
from collections.abc import Generator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.trainables.test_tasks import classification, sts
from tests.trainables.workers import (
    TIMEOUT_S,
    Group,
    Reports,
    drive,
    drive_and_die,
    drive_with,
    numbers,
    opened,
    outcomes,
    reports,
)
from trainables import data, engine, evaluation, trial
from trainables.build import build
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
from trainables.identity import training_seed
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.overlay import from_dict, overlay
from trainables.tokenizer import Tokenizer
from trainables.trainer import PACKAGES

pytestmark = pytest.mark.slow

STEPS = 6
STAGES = (0, 1, 2, 3)
RARE = {"training.report_every": 2}
GRADUAL = {"attention.mask": "gradual", "attention.transition": 0.8}
DESIGNS: dict[str, dict[str, Any]] = {
    "gradual": {**GRADUAL, "engine.zero_stage": 1},
    "latent_readout": {
        "attention.mask": "latent_readout",
        "attention.num_latents": 3,
        "pooling.head": "none",
        "pooling.layers": "last",
        "engine.num_workers": 2,
    },
    "all_tokens": {
        "pooling.token_scope": "all_tokens",
        "pooling.include_instruction": False,
        "instructions.query": "find the animal: ",
        "instructions.document": "an animal: ",
        "engine.num_workers": 2,
        "engine.zero_stage": 3,
    },
    # Its workers' texts are of other lengths, and so in other numbers of blocks, at every step.
    "latents in stage 3": {
        "attention.mask": "latent_readout",
        "attention.num_latents": 3,
        "pooling.token_scope": "all_tokens",
        "pooling.layers": "last",
        "engine.num_workers": 2,
        "engine.zero_stage": 3,
        "engine.deepspeed": '{"zero_optimization": {"stage3_param_persistence_threshold": 0}}',
    },
    "matryoshka": {"objective.matryoshka": (4, 12), "pooling.output_size": 20},
    "symmetric": {
        "objective.directions": "symmetric",
        "objective.learned_temperature": True,
        "engine.num_workers": 2,
    },
    "a mix": {
        "training.data": [
            {"name": "pairs.jsonl", "weight": 2},
            {"name": "more.jsonl", "query_instruction": "find the dog: "},
        ],
        "instructions.query": "find the animal: ",
        "engine.num_workers": 2,
    },
}
CHECKPOINTED = {"attention.mask": "two_stream", "training.gradient_checkpointing": True}


@pytest.fixture(scope="module")
def root(root: Path, tiny_pairs: Path) -> Path:
    """Return where all processes stand, with other pairs too."""
    (root / "more.jsonl").write_text(tiny_pairs.read_text().replace("the ", "every "))
    return root


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial in which everything that is trained moves, reporting at every step."""
    monkeypatch.chdir(root)
    return TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=2),
        pooling=PoolingConfig(
            token_scope="mean",
            head="cross_attention",
            layers="last_2",
            hidden_size=32,
            num_latents=4,
            ffn_size=1600,  # stage 3 leaves tensors of less than 100,000 numbers whole
        ),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(
            data=(DataConfig(name="pairs.jsonl"),),
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
        evaluation=EvaluationConfig(tasks=("NoSuchTask",)),
    )


def losses(reported: Reports) -> list[float]:
    """Return each report's loss, which all ranks agree on, as on the temperature."""
    for ranks in reported:
        assert len({(report.loss, report.temperature) for report in ranks}) == 1
    return [ranks[0].loss for ranks in reported]


def rates(model: Embedder, training: TrainingConfig) -> list[dict[str, Any]]:
    """Return the trained parameters with their highest rates: LoRA, and all that is new."""
    new = list(model.pooling.parameters())
    if model.backbone.num_latents:
        new.append(model.backbone.latents)
    lora = [p for p in model.parameters() if p.requires_grad and all(p is not n for n in new)]
    groups = [(lora, training.learning_rate), (new, training.head_learning_rate)]
    return [{"params": params, "highest": rate} for params, rate in groups if params]


def plain_loss(config: TrialConfig, queries: Tensor, passages: Tensor, shift: Tensor) -> Tensor:
    found, scale = [], shift.exp() / config.objective.temperature
    for size in (queries.shape[1], *config.objective.matryoshka):
        short = [functional.normalize(vectors[:, :size]) for vectors in (queries, passages)]
        scores = short[0] @ short[1].T * scale
        found.append((scores.logsumexp(1) - scores.diagonal()).mean())
        if config.objective.directions == "symmetric":
            scores = scores[:, : len(scores)]
            found.append((scores.logsumexp(0) - scores.diagonal()).mean())
    return torch.stack(found).mean()


def plain_loop(config: TrialConfig) -> list[float]:
    """Return the losses of the same training without DeepSpeed and without our loss."""
    training, texts = config.training, config.instructions
    torch.manual_seed(training_seed(config))
    model = build(overlay(config, {"training.gradient_checkpointing": False}))
    torch.manual_seed(training_seed(config) + 1)
    model.train()
    groups, shift = rates(model, training), nn.Parameter(torch.zeros(1))
    if config.objective.learned_temperature:
        groups[-1]["params"].append(shift)
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    tokenizer = Tokenizer(config.backbone.model)
    given = {each.name: each for each in training.data}
    lines = {name: Path(name).read_text().splitlines() for name in given}
    order = data.open_data(config, tokenizer)
    found = []
    for step in range(training.steps):
        share = min(
            step / training.warmup_steps if training.warmup_steps else 1.0,
            (training.steps - step) / (training.steps - training.warmup_steps),
        )
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * share
        model.backbone.progress = step / training.steps
        drawn = order.batch_at(step)
        batch = [json.loads(lines[drawn.source][number - 1]) for number in drawn.rows]
        asking = given[drawn.source].query_instruction or texts.query
        asked = [row["query"] for row in batch]
        answers = [row["positive"] for row in batch] + [row["negatives"][0] for row in batch]
        queries = model(*tokenizer(asked, training.max_query_tokens, asking))
        passages = model(*tokenizer(answers, training.max_passage_tokens, texts.document))
        loss = plain_loss(config, queries, passages, shift)
        optimizer.zero_grad()
        loss.backward()
        trained = [parameter for group in groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("event", "path", "last"),
    [
        ("os.mkdir", "step-000004.partial", 2),
        ("open", "step-000004.partial/optimizer.safetensors", 2),
        ("os.rename", "step-000004.partial", 2),
        ("open", "latest.partial", 2),
        ("os.rename", "latest.partial", 2),
        ("shutil.rmtree", "step-000002", 4),
    ],
    ids=[
        "before a checkpoint",
        "in the middle of one",
        "before it has its name",
        "before the pointer",
        "before the pointer moves",
        "before the old one goes",
    ],
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
    with opened(1, root) as (doomed,), pytest.raises(BrokenProcessPool):
        doomed.submit(drive_and_die, config, tmp_path / "parts", event, path, num_events=1).result(
            TIMEOUT_S
        )
    assert (tmp_path / "parts/checkpoints/latest").read_text() == f"step-{last:06d}"
    resumed = reports(one, config, tmp_path / "parts", 3)
    assert numbers(resumed) == numbers(reports(one, config, tmp_path / "whole", 3))
    left = [path.name for path in (tmp_path / "parts/checkpoints").glob("step-*")]
    assert left == ["step-000006"]


def drive_and_die_saving(config: TrialConfig, rank: int, folder: Path, step: int) -> None:
    """Run a trial; rank 1 dies instead of handing over its part of the checkpoint of a step."""
    events = cast("Generator[Any]", trial.run(config, trial.Session(rank=rank, folder=folder)))
    for report in events:
        assert report.step < step
        if rank == 1 and report.step == step - config.training.report_every:
            dying = partial(os.kill, os.getpid(), signal.SIGKILL)
            torch.get_rng_state = dying  # type: ignore[assignment]


def test_the_pointer_moves_after_every_worker_has_saved(
    two: Group, root: Path, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, "engine.num_workers": 2})
    folder = tmp_path / "parts"
    with opened(2, root) as group:
        tasks = [
            worker.submit(drive_and_die_saving, config, rank, folder, 4)
            for rank, worker in enumerate(group)
        ]
        assert isinstance(tasks[1].exception(TIMEOUT_S), BrokenProcessPool)
        assert tasks[0].exception(TIMEOUT_S) is not None  # its neighbour is gone
    assert (folder / "checkpoints/latest").read_text() == "step-000002"
    resumed = reports(two, config, folder, 3)
    assert losses(resumed)[1:] == losses(reports(two, config, tmp_path / "whole", 3))[1:]


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_batch(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    rates = {"training.learning_rate": 1e30, "training.warmup_steps": 0}
    batch = data.open_data(config, Tokenizer("model")).batch_at(1)
    with pytest.raises(trial.TrainingError) as error:
        reports(one, overlay(config, {**RARE, **rates}), tmp_path, 1)
    rows = ", ".join(map(str, batch.rows))
    expected = f"loss: expected a finite number, got nan at step 2 (pairs.jsonl rows {rows})"
    assert str(error.value) == expected


def drive_in_little_memory(
    config: TrialConfig, rank: int, folder: Path, most: int, poor: int = 0
) -> list[trial.Report]:
    """Run a trial; worker `poor` has no memory for training on more than `most` tokens at once."""

    def take(module: nn.Module, args: Any) -> None:
        if type(module) is Trainee and module.training and rank == poor:
            num_tokens = sum(batch.ids.numel() for batch in args[0])
            if num_tokens > most:
                raise torch.OutOfMemoryError(f"{num_tokens} tokens")

    with register_module_forward_pre_hook(take):
        return drive(config, rank, folder, 3)


def test_out_of_memory_halves_the_mini_batch_and_goes_on(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, RARE)
    expected = reports(one, config, tmp_path / "rich", 3)
    task = one[0].submit(drive_in_little_memory, config, 0, tmp_path / "poor", 200)
    found = task.result(TIMEOUT_S)
    assert [r.step for r in found] == [2, 4, 6]
    assert [r.loss for r in found] == pytest.approx(losses(expected), abs=1e-4)
    kept = json.loads((tmp_path / "poor/memory.json").read_text())
    assert 50 < kept["mini_batch_tokens"] <= 200


def test_too_little_memory_for_one_text_ends_the_trial(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    message = (
        r"^memory: expected enough for one text at a time at step 1, got too little; set "
        r"training.gradient_checkpointing=true or cut the texts shorter$"
    )
    with pytest.raises(trial.TrainingError, match=message):
        one[0].submit(drive_in_little_memory, config, 0, tmp_path, 5).result(TIMEOUT_S)


def test_workers_that_ran_out_of_memory_go_on_with_less(
    two: Group, root: Path, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, "engine.num_workers": 2})
    with opened(2, root) as group:
        tasks = [
            worker.submit(drive_in_little_memory, config, rank, tmp_path / "poor", 120, 1)
            for rank, worker in enumerate(group)
        ]
        assert isinstance(tasks[1].exception(TIMEOUT_S), engine.MiniBatchHalvedError)
        for process in list(group[0]._processes.values()):  # it waits for the other, as Ray finds
            process.kill()
        assert isinstance(tasks[0].exception(TIMEOUT_S), BrokenProcessPool)
    tasks = [
        worker.submit(drive_in_little_memory, config, rank, tmp_path / "poor", 120, 1)
        for rank, worker in enumerate(two)
    ]
    found = [report.loss for report in tasks[0].result(TIMEOUT_S)]
    expected = losses(reports(two, config, tmp_path / "rich", 3))
    assert found == pytest.approx(expected, abs=1e-4)


def test_without_steps_the_untrained_weights_are_written(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {"training.steps": 0})
    (outcome,) = outcomes(one, config, tmp_path)
    expected = untrained(config)
    assert outcome.cost["trainable_parameters"] == sum(w.numel() for w in expected.values())
    assert (outcome.scores, outcome.seconds, outcome.adaptation) == ({}, 0, {})
    assert outcome.failures.keys() == {"NoSuchTask"}
    assert outcome.versions.keys() == set(PACKAGES)
    assert_same(load_file(tmp_path / "weights.safetensors"), expected)
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == config
    assert json.loads((tmp_path / "outcome.json").read_text()) == asdict(outcome)
    assert not list(tmp_path.glob("*.partial"))


def save_untrained(config: TrialConfig, file: Path) -> None:
    torch.manual_seed(training_seed(config))
    wrapped = engine.initialize(build(config), config.engine, config.training)
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
    torch.manual_seed(training_seed(config))
    return {n: p.detach() for n, p in build(config).named_parameters() if p.requires_grad}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("stage", STAGES)
class TestEveryStage:
    @pytest.mark.parametrize("mini_batch_tokens", [10_000, 150], ids=["at once", "cached"])
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_it_trains_as_the_plain_loop(
        self,
        one: Group,
        two: Group,
        config: TrialConfig,
        tmp_path: Path,
        stage: int,
        num_workers: int,
        mini_batch_tokens: int,
    ) -> None:
        changes = {
            "engine.zero_stage": stage,
            "engine.num_workers": num_workers,
            "training.mini_batch_tokens": mini_batch_tokens,
            "training.steps": 20,
            "training.learning_rate": 2e-3,  # at higher ones rounding grows from step to step
            "training.head_learning_rate": 1e-3,
        }
        config = overlay(config, changes)
        found = reports(two if num_workers == 2 else one, config, tmp_path, 20)
        assert losses(found) == pytest.approx(plain_loop(config), abs=1e-4)
        assert all(len({report.quick_score for report in ranks}) == 1 for ranks in found)

    def test_recomputed_activations_change_nothing(
        self, one: Group, config: TrialConfig, tmp_path: Path, stage: int
    ) -> None:
        changes = {**CHECKPOINTED, "engine.zero_stage": stage, "training.steps": 4}
        config = overlay(config, changes)
        found = losses(reports(one, config, tmp_path, 4))
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


@pytest.mark.parametrize("changes", DESIGNS.values(), ids=DESIGNS)
def test_designs_train_as_the_plain_loop(
    one: Group, two: Group, config: TrialConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = overlay(config, {"training.steps": 4, **changes})
    group = two if config.engine.num_workers == 2 else one
    found = losses(reports(group, config, tmp_path, 4))
    assert found == pytest.approx(plain_loop(config), abs=1e-4)


def progress_seen(config: TrialConfig, folder: Path, num: int) -> tuple[list[float], list[float]]:
    """Run a trial; return the progress of the backbone's passes, in training and for scores."""
    trained, scored = [], []

    def look(module: nn.Module, args: Any) -> None:
        if not isinstance(module, Backbone) or module.decoder.device.type == "meta":
            return  # operations are counted on "meta"
        if not torch.is_grad_enabled():
            scored.append(module.progress)
        elif module.training:
            trained.append(module.progress)

    with register_module_forward_pre_hook(look):
        drive(config, 0, folder, num)
    return trained, scored


def test_a_resumed_gradual_mask_goes_on_where_it_was(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, **GRADUAL})
    for num, done in ((1, 0), (2, 2)):
        trained, scored = one[0].submit(progress_seen, config, tmp_path, num).result(TIMEOUT_S)
        steps = [done / STEPS, (done + 1) / STEPS]
        assert trained[-2:] == steps
        assert scored[-2:] == [(done + 2) / STEPS] * 2  # probes came before


def score_bags_of_words(cache: Path) -> dict[str, float]:
    """Evaluate in this process."""

    def encode(texts: list[str], role: str | None) -> np.ndarray:
        return np.array([[text.count(c) for c in "aeinorst"] for text in texts], np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLSEARCH_CACHE", str(cache))
        tasks = ["Lee50STS", "TRECClassification", "NewsgroupSetsClustering"]
        return evaluation.evaluate(encode, tasks, split="choosing", batch_size=64).scores


@pytest.mark.embedded
def test_training_after_an_evaluation_gives_the_same_bits(
    one: Group, config: TrialConfig, tmp_path: Path, usual_cache: Path
) -> None:
    before = numbers(reports(one, config, tmp_path / "before", STEPS))
    assert len(one[0].submit(score_bags_of_words, usual_cache).result(TIMEOUT_S)) == 3
    assert numbers(reports(one, config, tmp_path / "after", STEPS)) == before


def test_a_learned_temperature_moves_and_continues_to_the_same_bits(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    config = overlay(config, {**RARE, "objective.learned_temperature": True})
    whole = reports(one, config, tmp_path / "whole", 3)
    told = [report.temperature for (report,) in whole]
    assert told[0] == pytest.approx(0.05)  # the first step of a warm-up has the rate 0
    assert len(set(told)) == 3
    reports(one, config, tmp_path / "parts", 1)
    assert numbers(reports(one, config, tmp_path / "parts", 3)) == numbers(whole)


def test_two_workers_continue_to_rounding(two: Group, config: TrialConfig, tmp_path: Path) -> None:
    config = overlay(config, {**RARE, "engine.num_workers": 2})
    whole = reports(two, config, tmp_path / "whole", 3)
    begun = reports(two, config, tmp_path / "parts", 1)
    resumed = reports(two, config, tmp_path / "parts", 3)
    assert resumed[0] == (begun[0][0],) * 2  # replayed; the seconds are rank 0's
    for found, expected in zip(numbers(resumed), numbers(whole), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_learns(one: Group, config: TrialConfig, tmp_path: Path, stage: int) -> None:
    changes = {"engine.precision": "bf16", "training.learning_rate": 3e-3, "training.steps": 12}
    config = overlay(config, {"engine.zero_stage": stage, **changes})
    found = losses(reports(one, config, tmp_path, 12))
    plain = plain_loop(config)
    assert found[0] == pytest.approx(plain[0], rel=0.1)
    assert sum(found[-4:]) == pytest.approx(sum(plain[-4:]), rel=0.5)
    assert sum(found[-4:]) < sum(found[:4]) / 1.5


def test_scores_are_told_task_by_task_and_reports_by_tasks(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    for make in (sts, classification):
        make(tmp_path / "tasks")
    tasks = ("STSBenchmark", "Banking77Classification")
    settings = {"evaluation.tasks": tasks, "evaluation.report_tasks": ("STSBenchmark",)}
    config = overlay(config, {**settings, "training.steps": 1})
    told = overlay(config, {"evaluation.task_by_task": True})
    here = {"POOLSEARCH_TASKS": str(tmp_path / "tasks")}
    (report, outcome), (first, scored, last) = (
        one[0].submit(drive_with, here, each, tmp_path / name).result(TIMEOUT_S)
        for each, name in ((config, "whole"), (told, "told"))
    )
    assert isinstance(scored, trial.Scored)
    assert (scored.step, scored.num_tasks, len(scored.scores)) == (1, 2, 1)
    assert scored.scores.items() <= outcome.scores.items()
    assert (last.scores, last.categories) == (outcome.scores, outcome.categories)
    assert first.quick_score == pytest.approx(outcome.scores["STSBenchmark"])
    assert report.quick_score == first.quick_score


def test_a_report_without_its_scores_ends_the_trial(
    one: Group, config: TrialConfig, tmp_path: Path
) -> None:
    wanted = overlay(config, {"evaluation.report_tasks": ("NoSuchTask",)})
    with pytest.raises(engine.TrainingError, match=r"report_tasks: NoSuchTask: Config"):
        reports(one, wanted, tmp_path, 1)
