"""The contrastive loss, with candidates from all workers.

B texts of the global batch, b of this worker, K hard negatives of each query, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from trainables.config import MAX_SCALE, ObjectiveConfig


def contrastive_loss(
    queries: Float[Tensor, "b W"],
    positives: Float[Tensor, "b W"],
    negatives: Float[Tensor, "bK W"],
    *,
    config: ObjectiveConfig,
    rank: int,
    log_scale: Float[Tensor, " 1"],
) -> Float[Tensor, ""]:
    """Return this worker's part of the loss; the workers' mean is that of the global batch.

    So engines that average gradients over workers optimise exactly the global batch's loss. Each
    worker scores its own queries (and, symmetric, its own positives) against the candidates of
    all workers, of which every one must call this, and the backward pass after it.

    Vectors have length 1; query i's negatives stand at i·K to (i+1)·K. `log_scale` is log(1/τ),
    held under its limit where it is learned. No text stands twice in a global batch: the training
    data sees to that, so a candidate is never a copy of the right one.

    >>> eye, config = torch.eye(3), ObjectiveConfig()
    >>> loss = contrastive_loss(
    ...     eye, eye, eye[:0], config=config, rank=0, log_scale=torch.zeros(1)
    ... )
    >>> round(loss.item(), 4)  # log(e + 2) - 1
    0.5514
    """
    if config.learned_temperature:
        log_scale = limited(log_scale)
    loss = partial(_loss, config=config, rank=rank, scale=log_scale.float().exp())
    own = (queries.float(), positives.float())
    everyone = gather_parts((*own, negatives.float()))
    return matryoshka(loss, config.matryoshka, (*own, *everyone))


def temperature(log_scale: Float[Tensor, " 1"], config: ObjectiveConfig) -> float:
    """Return τ as the loss takes it.

    >>> temperature(torch.tensor([9.0]), ObjectiveConfig(learned_temperature=True))
    0.01
    """
    if not config.learned_temperature:
        return config.temperature
    return max(log_scale.double().neg().exp().item(), 1 / MAX_SCALE)


def limited(log_scale: Float[Tensor, " 1"]) -> Float[Tensor, " 1"]:
    """Return the logarithm held under `MAX_SCALE`'s, its gradient as if it were not.

    A plain clamp has no gradient beyond the limit, so that what once got there would stay there.
    """
    return log_scale + (log_scale.clamp(max=math.log(MAX_SCALE)) - log_scale).detach()


def _loss(
    queries: Float[Tensor, "b W"],
    positives: Float[Tensor, "b W"],
    all_queries: Float[Tensor, "B W"],
    all_positives: Float[Tensor, "B W"],
    all_negatives: Float[Tensor, "BK W"],
    *,
    config: ObjectiveConfig,
    rank: int,
    scale: Float[Tensor, " 1"],
) -> Float[Tensor, ""]:
    """Return the loss of vectors of one size.

    InfoNCE (van den Oord et al., arXiv 1807.03748): a query's candidates are every positive and
    every hard negative of the batch. `same_tower_negatives` adds those of GTE (Li et al., arXiv
    2308.03281, section 3.3): the other queries, and for a document all documents of other queries.
    Where GTE has both directions in one denominator, each has its own here, as in CLIP.
    """
    documents = torch.cat([all_positives, all_negatives])
    place = torch.arange(len(all_queries), device=queries.device)
    of_query = torch.cat([place, place.repeat_interleave(len(all_negatives) // len(place))])
    own = place[rank * len(queries) :][: len(queries)]
    find = partial(_find, own=own, config=config, scale=scale)
    loss = find(queries, documents, all_queries, place)
    if config.directions == "symmetric":
        loss = (loss + find(positives, all_queries, documents, of_query)) / 2
    return loss


def _find(
    anchors: Float[Tensor, "b W"],
    candidates: Float[Tensor, "C W"],
    same_tower: Float[Tensor, "S W"],
    of_query: Int[Tensor, " S"],
    *,
    own: Int[Tensor, " b"],
    config: ObjectiveConfig,
    scale: Float[Tensor, " 1"],
) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding the candidate `own[i]` for the anchor i.

    `of_query` says which query's text each of the `same_tower` is; an anchor's own are left out.
    """
    cosines = anchors @ candidates.T
    refused = torch.zeros_like(cosines, dtype=torch.bool)
    if config.same_tower_negatives:
        cosines = torch.cat([cosines, anchors @ same_tower.T], 1)
        refused = torch.cat([refused, of_query == own[:, None]], 1)
    if config.false_negative_margin is not None:
        refused = refused | false_negatives(cosines.detach(), own, config.false_negative_margin)
    scores = (cosines * scale).masked_fill(refused, float("-inf"))
    return functional.cross_entropy(scores, own)


def false_negatives(
    cosines: Float[Tensor, "b C"], right: Int[Tensor, " b"], margin: float
) -> Bool[Tensor, "b C"]:
    """Return which candidates are closer than the right one less the margin, itself never.

    >>> false_negatives(torch.tensor([[0.7, 0.9, 0.66, 0.6]]), torch.tensor([0]), 0.05)
    tensor([[False,  True,  True, False]])
    """
    right = right[:, None]
    close = cosines > cosines.gather(1, right) - margin
    return close.scatter(1, right, False)


def matryoshka(
    loss: Callable[..., Float[Tensor, ""]],
    sizes: Sequence[int],
    vectors: Sequence[Float[Tensor, "_ W"]],
) -> Float[Tensor, ""]:
    """Return the mean of a loss over whole embeddings and over their first dimensions.

    `sizes` are the leading numbers of dimensions that are to be good embeddings by themselves
    (Kusupati et al., arXiv 2205.13147, equation 1); without any this is the loss as it stands.
    """
    losses = [loss(*vectors)]
    for size in sizes:
        losses.append(loss(*(functional.normalize(part[:, :size], dim=-1) for part in vectors)))
    return torch.stack(losses).mean()


def gather_parts(parts: Sequence[Float[Tensor, "_ W"]]) -> list[Float[Tensor, "_ W"]]:
    """Return each part with those of all workers, in the order of ranks, by one exchange."""
    sizes = [len(part) for part in parts]
    by_worker = gather(torch.cat(list(parts))).unflatten(0, (-1, sum(sizes)))
    return [part.flatten(0, 1) for part in by_worker.split(sizes, 1)]


def gather(vectors: Float[Tensor, "b W"]) -> Float[Tensor, "B W"]:
    """Return all workers' vectors in the order of ranks; gradients flow back to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return vectors
    gathered: Tensor = _Gathered.apply(vectors)  # type: ignore[no-untyped-call]
    return gathered


class _Gathered(torch.autograd.Function):
    """The vectors of all workers, and for each worker the sum of what all find for its own."""

    @staticmethod
    def forward(context: Any, vectors: Float[Tensor, "b W"]) -> Float[Tensor, "B W"]:
        """Exchange the vectors; NCCL takes them only in one piece."""
        everyone = vectors.new_empty(dist.get_world_size() * len(vectors), vectors.shape[1])
        dist.all_gather_single(everyone, vectors.contiguous())
        return everyone

    @staticmethod
    def backward(context: Any, gradient: Float[Tensor, "B W"]) -> Float[Tensor, "b W"]:
        """Exchange the gradients."""
        own = gradient.new_empty(len(gradient) // dist.get_world_size(), gradient.shape[1])
        dist.reduce_scatter_single(own, gradient.contiguous())
        return own
