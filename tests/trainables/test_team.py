"""Workers that share an evaluation's texts out: one worker's numbers, and faults told to all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.test_tasks import sts
from tests.trainables.workers import TIMEOUT_S, Group
from trainables import encoding, trial
from trainables.config import (
    BackboneConfig,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.overlay import overlay
from trainables.team import ALONE, Floats, Team, WorkerError
from trainables.trainer import Trainer

pytestmark = pytest.mark.slow

TASK = "STSBenchmark"
TEXTS = [f"the {'very ' * (n % 13)}old otter of place {n}" for n in range(41)]
STAGE_3 = {
    "engine.zero_stage": 3,
    "engine.deepspeed": '{"zero_optimization": {"stage3_param_persistence_threshold": 0}}',
}


def both(group: Group, function: Any, *arguments: Any) -> list[Any]:
    """Return what a function gives on each worker, which it is told the rank of."""
    tasks = [w.submit(function, rank, *arguments) for rank, w in enumerate(group)]
    return [task.result(TIMEOUT_S) for task in tasks]


def together_and_alone(rank: int, config: TrialConfig, folder: Path, tasks: Path) -> Any:
    """Encode and score with the other worker and, at the same time as it, without."""
    found: dict[bool, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLSEARCH_TASKS", str(tasks))
        patch.setattr(encoding, "TOGETHER", 16)  # several rounds, the last one uneven
        trainer = Trainer(config, trial.Session(rank=rank, folder=folder))
        try:
            for team in (trainer.team, ALONE):
                trainer.team, num_texts = team, 0

                def count(blocks: Any, embed: Any = trainer.__class__._embed) -> torch.Tensor:
                    nonlocal num_texts
                    num_texts += sum(len(block.ids) for block in blocks)
                    vectors: torch.Tensor = embed(trainer, blocks)
                    return vectors

                patch.setattr(trainer, "_embed", count)
                vectors, num_encoded = trainer.encode(TEXTS, None), num_texts
                result = trainer._evaluate([TASK, "NoSuchTask"], "choosing")
                found[team is ALONE] = (vectors, num_encoded, result)
        finally:
            trainer.close()
    return found[False], found[True]


@pytest.mark.parametrize("changes", [{}, STAGE_3], ids=["stage 2", "stage 3"])
def test_two_workers_give_one_workers_numbers(
    two: Group, tmp_path: Path, changes: dict[str, Any]
) -> None:
    sts(tmp_path / "tasks")
    config = TrialConfig(
        backbone=BackboneConfig(model="model", num_layers=3),
        training=TrainingConfig(
            data=(DataConfig(name="pairs.jsonl"),), max_query_tokens=16, max_passage_tokens=24
        ),
        engine=EngineConfig(precision="fp32", num_workers=2),
        evaluation=EvaluationConfig(max_tokens=20, mini_batch_tokens=120),
    )
    found = both(
        two, together_and_alone, overlay(config, changes), tmp_path / "run", tmp_path / "tasks"
    )
    for rank, (shared, alone) in enumerate(found):
        assert np.abs(shared[0] - alone[0]).max() < 2e-6
        assert (shared[1], alone[1]) == (8 + 8 + 5, len(TEXTS))
        assert shared[2].scores == pytest.approx(alone[2].scores, abs=1e-6)
        assert set(shared[2].scores) == {TASK}
        assert shared[2].failures == alone[2].failures
        assert shared[2].items.num_rows == (0 if rank else alone[2].items.num_rows)
    np.testing.assert_array_equal(found[0][0][0], found[1][0][0])


def with_a_fault(rank: int) -> tuple[list[float], str]:
    """Add up three lists of numbers, of which the second worker cannot take the second."""
    team = Team(rank, 2)

    def encode(numbers: list[float]) -> Floats:
        def compute() -> torch.Tensor:
            if rank == 1 and -1 in numbers:
                raise ValueError("below zero")
            filled = [*numbers, *numbers[-1:] * (len(numbers) % 2)]
            return torch.tensor(filled[rank::2]).unsqueeze(1)

        vectors: Floats = team.gather(compute, len(numbers)).numpy()
        return vectors

    def score(encode: Any) -> tuple[list[float], str]:
        first = encode([1.0, 2.0, 3.0])
        with pytest.raises(WorkerError) as caught:
            encode([-1.0])
        return [*first[:, 0].tolist(), *encode([4.0])[:, 0].tolist()], str(caught.value)

    return team.work(encode, score, lambda result: result)


def test_a_fault_of_one_worker_is_everybodys_and_the_next_texts_go_on(two: Group) -> None:
    expected = ([1.0, 2.0, 3.0, 4.0], "worker 1: ValueError: below zero")
    assert both(two, with_a_fault) == [expected, expected]


def first_gives_up(rank: int) -> str:
    def score(encode: Any) -> str:
        raise KeyError("lost")

    with pytest.raises((KeyError, WorkerError)) as caught:
        Team(rank, 2).work(lambda: np.zeros(0, np.float32), score, str)
    return str(caught.value)


def test_the_others_do_not_wait_for_a_first_worker_that_gave_up(two: Group) -> None:
    assert both(two, first_gives_up) == ["'lost'", "worker 0: KeyError: 'lost'"]
