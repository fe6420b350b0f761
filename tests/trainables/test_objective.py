"""InfoNCE against a slow loop, and two workers against one with the whole batch."""

from __future__ import annotations

import itertools
import math
import socket
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from trainables.objective import gather, info_nce, matryoshka

B, W = 4, 6  # texts of the global batch, width


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("num_negatives", [0, 1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_it_equals_a_slow_loop(num_negatives: int, temperature: float) -> None:
    queries, positives = unit(B, W), unit(B, W)
    negatives = unit(B * num_negatives, W)
    total = 0.0
    for place, query in enumerate(queries):
        right = math.exp(float(query @ positives[place]) / temperature)
        every = [
            math.exp(float(query @ passage) / temperature)
            for passage in itertools.chain(positives, negatives)
        ]
        total -= math.log(right / sum(every))
    found = info_nce(queries, positives, negatives, temperature=temperature)
    assert found.item() == pytest.approx(total / B, rel=1e-5)


def test_equal_vectors_lose_the_logarithm_of_the_candidates() -> None:
    same = unit(1, W).expand(B, W)
    loss = info_nce(same, same, same, temperature=0.05)
    assert loss.item() == pytest.approx(math.log(2 * B), rel=1e-6)


def test_the_order_of_queries_does_not_matter() -> None:
    queries, positives, negatives = unit(B, W), unit(B, W), unit(B, W)
    order = torch.tensor([2, 0, 3, 1])
    loss = info_nce(queries, positives, negatives, temperature=0.05)
    mixed = info_nce(queries[order], positives[order], negatives, temperature=0.05)
    torch.testing.assert_close(mixed, loss)


def test_low_precision_is_scored_in_fp32() -> None:
    low = [unit(B, W).bfloat16() for _ in range(3)]
    queries, positives, negatives = (vectors.float() for vectors in low)
    expected = info_nce(queries, positives, negatives, temperature=0.05)
    assert torch.equal(info_nce(low[0], low[1], low[2], temperature=0.05), expected)


def test_matryoshka_is_the_mean_over_the_leading_parts() -> None:
    vectors = [unit(B, W) for _ in range(3)]

    def loss(*parts: Tensor) -> Tensor:
        return info_nce(*parts, temperature=0.05)

    expected = [loss(*vectors)]
    for size in (2, 5):
        parts = [vector[:, :size] / vector[:, :size].norm(dim=1)[:, None] for vector in vectors]
        expected.append(loss(*parts))
    found = matryoshka(loss, (2, 5), vectors)
    assert found.item() == pytest.approx(sum(x.item() for x in expected) / 3, rel=1e-6)
    assert torch.equal(matryoshka(loss, (), vectors), expected[0])


def test_matryoshka_of_what_has_only_leading_parts_is_the_loss_itself() -> None:
    vectors = [functional.pad(unit(B, 2), (0, W - 2)) for _ in range(3)]
    loss = partial(info_nce, temperature=0.05)
    torch.testing.assert_close(matryoshka(loss, (2, 4), vectors), loss(*vectors))


def test_alone_nothing_is_gathered() -> None:
    vectors = unit(B, W)
    assert gather(vectors) is vectors


def loss_and_gradients(
    num_negatives: int, rank: int, num_workers: int
) -> tuple[float, list[Tensor]]:
    """Return a worker's loss and the gradients of two projections that all workers share."""
    torch.manual_seed(0)
    query_weight = torch.randn(W, W, requires_grad=True)
    passage_weight = torch.randn(W, W, requires_grad=True)
    texts = torch.randn(2 + num_negatives, B, W)
    share = B // num_workers
    mine = texts[:, rank * share : (rank + 1) * share]
    queries = functional.normalize(mine[0] @ query_weight, dim=-1)
    passages = functional.normalize(mine[1:] @ passage_weight, dim=-1)
    loss = info_nce(queries, passages[0], passages[1:].flatten(0, 1), temperature=0.05, rank=rank)
    loss.backward()
    assert query_weight.grad is not None
    assert passage_weight.grad is not None
    return loss.item(), [query_weight.grad, passage_weight.grad]


def as_worker(rank: int, address: str) -> list[tuple[float, list[NDArray[np.float32]]]]:
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=2)
    found = []
    for num_negatives in (0, 1, 2):
        loss, gradients = loss_and_gradients(num_negatives, rank, 2)
        for gradient in gradients:
            dist.all_reduce(gradient)
        found.append((loss, [(gradient / 2).numpy() for gradient in gradients]))
    dist.destroy_process_group()
    return found


def test_the_mean_over_two_workers_is_the_loss_of_the_whole_batch() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        tasks = [workers.submit(as_worker, rank, address) for rank in range(2)]
        first, second = (task.result(60) for task in tasks)
    for num_negatives in (0, 1, 2):
        loss, gradients = loss_and_gradients(num_negatives, 0, 1)
        mine, other = first[num_negatives], second[num_negatives]
        assert (mine[0] + other[0]) / 2 == pytest.approx(loss, abs=1e-6)
        assert mine[0] != other[0]
        for found, expected in zip(mine[1], gradients, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-6, rtol=1e-6)
