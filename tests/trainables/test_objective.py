"""The contrastive loss against slow loops and a peer; two workers against one with all texts."""

from __future__ import annotations

import itertools
import math
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from trainables.config import Directions, ObjectiveConfig
from trainables.objective import (
    contrastive_loss,
    false_negatives,
    gather,
    gather_parts,
    limited,
    matryoshka,
    temperature,
)

B, W = 4, 6  # texts of the global batch, width
PLAIN = ObjectiveConfig()
OPTIONS = [
    ObjectiveConfig(
        directions=directions,
        same_tower_negatives=same_tower,
        false_negative_margin=margin,
        temperature=tau,
    )
    for directions, same_tower, margin, tau in itertools.product(
        get_args(Directions), (False, True), (None, 0.1, -0.1), (0.05, 1.0)
    )
]
ROUNDING: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape), dim=-1)


def texts(num_negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, positives near them, and negatives some of which are as near."""
    queries = unit(B, W)
    near = queries.repeat_interleave(num_negatives, 0)
    positives = functional.normalize(queries + unit(B, W), dim=-1)
    negatives = functional.normalize(near + 0.7 * unit(B * num_negatives, W), dim=-1)
    return queries, positives, negatives


def log_scale_of(config: ObjectiveConfig) -> Tensor:
    return torch.tensor([math.log(1 / config.temperature)])


def loss_of(vectors: tuple[Tensor, Tensor, Tensor], config: ObjectiveConfig = PLAIN) -> Tensor:
    return contrastive_loss(*vectors, config=config, rank=0, log_scale=log_scale_of(config))


def leaves(vectors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    queries, positives, negatives = (vector.clone().requires_grad_() for vector in vectors)
    return queries, positives, negatives


def candidates_of_query(
    place: int, vectors: tuple[Tensor, Tensor, Tensor], same_tower: bool
) -> Iterator[Tensor]:
    queries, positives, negatives = vectors
    yield from (positives[other] for other in range(B) if other != place)
    yield from negatives
    if same_tower:
        yield from (queries[other] for other in range(B) if other != place)


def candidates_of_document(
    place: int, vectors: tuple[Tensor, Tensor, Tensor], same_tower: bool
) -> Iterator[Tensor]:
    queries, positives, negatives = vectors
    yield from (queries[other] for other in range(B) if other != place)
    if same_tower:
        each = len(negatives) // B
        yield from (positives[other] for other in range(B) if other != place)
        yield from (text for n, text in enumerate(negatives) if n // each != place)


def slow_loss(
    vectors: tuple[Tensor, Tensor, Tensor], config: ObjectiveConfig, log_scale: Tensor
) -> Tensor:
    """Return the loss from its definition: one anchor, one candidate at a time."""
    scale = torch.exp(log_scale)[0]
    sides = [(vectors[0], vectors[1], candidates_of_query)]
    if config.directions == "symmetric":
        sides.append((vectors[1], vectors[0], candidates_of_document))
    losses = []
    for anchors, rights, others in sides:
        for place in range(B):
            right = anchors[place] @ rights[place]
            total = torch.exp(right * scale)
            for other in others(place, vectors, config.same_tower_negatives):
                cosine = anchors[place] @ other
                margin = config.false_negative_margin
                if margin is None or cosine.item() <= right.item() - margin:
                    total = total + torch.exp(cosine * scale)
            losses.append(torch.log(total) - right * scale)
    return torch.stack(losses).mean()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("num_negatives", [0, 1, 3])
@pytest.mark.parametrize("config", OPTIONS, ids=str)
def test_it_equals_a_slow_loop(config: ObjectiveConfig, num_negatives: int) -> None:
    vectors, log_scale = leaves(texts(num_negatives)), log_scale_of(config).requires_grad_()
    read = [leaf for leaf in (*vectors, log_scale) if len(leaf)]
    found = contrastive_loss(*vectors, config=config, rank=0, log_scale=log_scale)
    expected = slow_loss(vectors, config, log_scale)
    torch.testing.assert_close(found, expected, **ROUNDING)
    for mine, other in zip(
        torch.autograd.grad(found, read), torch.autograd.grad(expected, read), strict=True
    ):
        torch.testing.assert_close(mine, other, **ROUNDING)


def test_the_options_differ() -> None:
    vectors = texts(2)
    found = [round(loss_of(vectors, config).item(), 6) for config in OPTIONS]
    assert len(set(found)) == len(OPTIONS)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"same_tower_negatives": True}, {"directions": ("query_to_doc", "query_to_query")}),
        (
            {"directions": "symmetric"},
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
        ),
    ],
)
def test_it_equals_sentence_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, positives, negatives = texts(2)
    made: Any = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20, **theirs)  # type: ignore[arg-type]
    columns = [queries, positives, negatives[::2], negatives[1::2]]
    expected = made.compute_loss_from_embeddings(columns, None)
    found = loss_of((queries, positives, negatives), ObjectiveConfig(**ours))
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_without_options_it_is_plain_cross_entropy_to_the_bit() -> None:
    queries, positives, negatives = texts(2)
    scores = queries @ torch.cat([positives, negatives]).T * log_scale_of(PLAIN).exp()
    expected = functional.cross_entropy(scores, torch.arange(B))
    assert torch.equal(loss_of((queries, positives, negatives)), expected)


def test_equal_vectors_lose_the_logarithm_of_the_candidates() -> None:
    same = unit(1, W).expand(B, W)
    assert loss_of((same, same, same)).item() == pytest.approx(math.log(2 * B), rel=1e-6)


def test_the_order_of_queries_does_not_matter() -> None:
    vectors, order = texts(1), torch.tensor([2, 0, 3, 1])
    queries, positives, negatives = (vector[order] for vector in vectors)
    for config in OPTIONS:
        mixed = loss_of((queries, positives, negatives), config)
        torch.testing.assert_close(mixed, loss_of(vectors, config))


def test_symmetric_is_plain_where_both_sides_are_the_same() -> None:
    queries = unit(B, W)
    vectors = (queries, queries, queries[:0])
    for changes in ({}, {"same_tower_negatives": True}):
        both = ObjectiveConfig(directions="symmetric", **changes)  # type: ignore[arg-type]
        plain = ObjectiveConfig(**changes)  # type: ignore[arg-type]
        torch.testing.assert_close(loss_of(vectors, both), loss_of(vectors, plain))


def test_low_precision_is_scored_in_fp32() -> None:
    queries, positives, negatives = (vector.bfloat16() for vector in texts(1))
    high = (queries.float(), positives.float(), negatives.float())
    assert torch.equal(loss_of((queries, positives, negatives)), loss_of(high))


@pytest.mark.parametrize("directions", ["query_to_document", "symmetric"])
def test_a_margin_that_masks_nothing_changes_no_bit(directions: Any) -> None:
    vectors = texts(2)
    none, loose = (
        ObjectiveConfig(directions=directions, false_negative_margin=m) for m in (None, -1.0)
    )
    far = (vectors[0], vectors[0], vectors[2])  # nothing is closer than a cosine of 1 + 1
    assert torch.equal(loss_of(far, none), loss_of(far, loose))


def test_the_right_one_is_never_masked() -> None:
    cosines = 2 * torch.rand(B, 9) - 1
    right = torch.tensor([3, 0, 8, 5])
    for margin in (-1.0, 0.0, 0.05, 1.0):
        masked = false_negatives(cosines, right, margin)
        assert not masked[torch.arange(B), right].any()
        rows = cosines - cosines[torch.arange(B), right][:, None] + margin > 0
        rows[torch.arange(B), right] = False
        assert torch.equal(masked, rows)


def test_where_all_negatives_are_false_nothing_is_lost() -> None:
    same = unit(1, W).expand(B, W).clone().requires_grad_()
    config = ObjectiveConfig(
        directions="symmetric", same_tower_negatives=True, false_negative_margin=0.05
    )
    loss = loss_of((same, same, same), config)
    loss.backward()
    assert loss.item() == 0.0
    assert same.grad is not None
    assert torch.equal(same.grad, torch.zeros_like(same))


def test_the_temperature_can_be_learned() -> None:
    vectors = texts(1)
    learned, eps = ObjectiveConfig(learned_temperature=True), 1e-2
    start = log_scale_of(learned).requires_grad_()
    loss = contrastive_loss(*vectors, config=learned, rank=0, log_scale=start)
    assert torch.equal(loss, loss_of(vectors))
    loss.backward()
    sides = [
        contrastive_loss(*vectors, config=learned, rank=0, log_scale=start.detach() + step)
        for step in (eps, -eps)
    ]
    assert start.grad is not None
    assert start.grad.item() == pytest.approx((sides[0] - sides[1]).item() / (2 * eps), rel=1e-2)


def test_a_learned_scale_stays_under_100_and_can_come_back() -> None:
    beyond = torch.tensor([5.0], requires_grad=True)
    held = limited(beyond)
    assert held.exp().item() == pytest.approx(100, rel=1e-5)
    held.backward()
    assert beyond.grad is not None
    assert beyond.grad.item() == 1.0
    assert temperature(beyond, ObjectiveConfig(learned_temperature=True)) == 0.01
    within = torch.tensor([3.0])
    assert torch.equal(limited(within), within)
    steep = ObjectiveConfig(temperature=math.exp(-5.0))  # a fixed one is as it was asked for
    assert loss_of(texts(1), steep) != contrastive_loss(
        *texts(1),
        config=ObjectiveConfig(learned_temperature=True),
        rank=0,
        log_scale=beyond.detach(),
    )


def test_the_temperature_told_is_the_one_of_the_loss() -> None:
    log_scale = torch.tensor([math.log(1 / 0.03)])
    learned = ObjectiveConfig(learned_temperature=True)
    assert temperature(log_scale, learned) == pytest.approx(0.03, rel=1e-6)
    assert temperature(log_scale, PLAIN) == 0.05


def test_matryoshka_is_the_mean_over_the_leading_parts() -> None:
    vectors = texts(2)
    for config in OPTIONS:
        losses = [loss_of(vectors, config)]
        for size in (2, 5):
            queries, positives, negatives = (
                vector[:, :size] / vector[:, :size].norm(dim=1)[:, None] for vector in vectors
            )
            losses.append(loss_of((queries, positives, negatives), config))
        nested = ObjectiveConfig(
            directions=config.directions,
            same_tower_negatives=config.same_tower_negatives,
            false_negative_margin=config.false_negative_margin,
            temperature=config.temperature,
            matryoshka=(2, 5),
        )
        expected = sum(loss.item() for loss in losses) / 3
        assert loss_of(vectors, nested).item() == pytest.approx(expected, rel=1e-5)


def test_matryoshka_without_sizes_is_the_loss_as_it_stands() -> None:
    vectors = texts(1)
    assert torch.equal(matryoshka(lambda *parts: loss_of(parts), (), vectors), loss_of(vectors))


def test_matryoshka_of_what_has_only_leading_parts_is_the_loss_itself() -> None:
    queries, positives, negatives = (functional.pad(unit(B, 2), (0, W - 2)) for _ in range(3))
    vectors = (queries, positives, negatives)
    nested = ObjectiveConfig(matryoshka=(2, 4))
    torch.testing.assert_close(loss_of(vectors, nested), loss_of(vectors))


def test_alone_nothing_is_gathered() -> None:
    vectors = texts(2)
    assert gather(vectors[0]) is vectors[0]
    for found, expected in zip(gather_parts(vectors), vectors, strict=True):
        assert torch.equal(found, expected)


CASES = [(config, num_negatives) for config in OPTIONS for num_negatives in (0, 1, 2)] + [
    (ObjectiveConfig(learned_temperature=True, matryoshka=(2, 5)), 1),
    (ObjectiveConfig(directions="symmetric", same_tower_negatives=True, matryoshka=(3,)), 2),
]


def loss_and_gradients(
    case: tuple[ObjectiveConfig, int], rank: int, num_workers: int
) -> tuple[float, list[Tensor]]:
    """Return a worker's loss and the gradients of what all workers share.

    That is two projections and the temperature.
    """
    config, num_negatives = case
    torch.manual_seed(0)
    shared = [torch.randn(W, W), torch.randn(W, W), log_scale_of(config)]
    for tensor in shared:
        tensor.requires_grad_()
    words = torch.randn(2 + num_negatives, B, W)
    share = B // num_workers
    mine = words[:, rank * share : (rank + 1) * share]
    queries = functional.normalize(mine[0] @ shared[0], dim=-1)
    passages = functional.normalize(mine[1:] @ shared[1], dim=-1)
    negatives = passages[1:].transpose(0, 1).flatten(0, 1)
    loss = contrastive_loss(
        queries, passages[0], negatives, config=config, rank=rank, log_scale=shared[2]
    )
    loss.backward()
    gradients = [tensor.grad for tensor in shared if tensor.grad is not None]
    assert len(gradients) == len(shared)
    return loss.item(), gradients


@pytest.fixture(scope="module")
def workers() -> Iterator[list[ProcessPoolExecutor]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    group = [
        ProcessPoolExecutor(1, get_context("spawn"), initializer=join, initargs=(rank, address))
        for rank in range(2)
    ]
    yield group
    for worker in group:
        worker.shutdown(cancel_futures=True)


def join(rank: int, address: str) -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=2)


def on_both(workers: list[ProcessPoolExecutor], function: Callable[[int], Any]) -> list[Any]:
    tasks = [worker.submit(function, rank) for rank, worker in enumerate(workers)]
    return [task.result(60) for task in tasks]


def all_cases(rank: int) -> list[tuple[float, list[NDArray[np.float32]]]]:
    found = []
    for case in CASES:
        loss, gradients = loss_and_gradients(case, rank, 2)
        for gradient in gradients:
            dist.all_reduce(gradient)
        found.append((loss, [(gradient / 2).numpy() for gradient in gradients]))
    return found


def test_the_mean_over_two_workers_is_the_loss_of_the_whole_batch(
    workers: list[ProcessPoolExecutor],
) -> None:
    for case, mine, other in zip(CASES, *on_both(workers, all_cases), strict=True):
        loss, gradients = loss_and_gradients(case, 0, 1)
        assert (mine[0] + other[0]) / 2 == pytest.approx(loss, abs=1e-6)
        assert mine[0] != other[0]
        for found, expected in zip(mine[1], gradients, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-6, rtol=1e-6)


def weighted(rank: int) -> tuple[list[Any], list[Any]]:
    """Return what is gathered, and the gradient of its sum with this worker's weights."""
    vectors = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T + 10 * rank  # not contiguous
    vectors.requires_grad_()
    weights = (rank + 1) * torch.arange(12.0).reshape(6, 2)
    gathered = gather(vectors)
    (gradient,) = torch.autograd.grad((gathered * weights).sum(), vectors)
    return gathered.tolist(), gradient.tolist()


def test_gradients_of_all_workers_flow_back_to_whose_vectors_they_are(
    workers: list[ProcessPoolExecutor],
) -> None:
    """Worker 0 weighs the numbers 0 to 11, worker 1 twice that: together three times."""
    gathered = [[1, 4], [2, 5], [3, 6], [11, 14], [12, 15], [13, 16]]
    first, second = on_both(workers, weighted)
    assert first == (gathered, [[0, 3], [6, 9], [12, 15]])
    assert second == (gathered, [[18, 21], [24, 27], [30, 33]])
