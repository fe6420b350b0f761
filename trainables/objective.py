"""The contrastive loss, with candidates from all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn import functional as collective
from torch.nn import functional


def gather(vectors: Float[Tensor, "batch width"]) -> Float[Tensor, "all width"]:
    """Return all workers' vectors in the order of ranks; gradients flow back to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return vectors
    return torch.cat(collective.all_gather(vectors))


def info_nce(
    queries: Float[Tensor, "batch width"],
    positives: Float[Tensor, "batch width"],
    negatives: Float[Tensor, "more width"],
    *,
    temperature: float,
    rank: int = 0,
) -> Float[Tensor, ""]:
    """Return the InfoNCE loss of this worker's queries against the documents of all workers.

    Query i's candidates are every positive and every hard negative of the global batch; its own
    positive is the right one (van den Oord et al., arXiv 1807.03748, with in-batch negatives).
    Vectors have length 1. The mean over workers of the returned value is the loss of the global
    batch, so engines that average gradients over workers optimise exactly that.

    >>> eye = torch.eye(3)
    >>> round(info_nce(eye, eye, eye[:0], temperature=1.0).item(), 4)  # log(e + 2) - 1
    0.5514
    """
    candidates = torch.cat([gather(positives), gather(negatives)]).float()
    scores = queries.float() @ candidates.T / temperature
    labels = rank * len(queries) + torch.arange(len(queries), device=queries.device)
    return functional.cross_entropy(scores, labels)


def matryoshka(
    loss: Callable[..., Float[Tensor, ""]],
    sizes: Sequence[int],
    vectors: Sequence[Float[Tensor, "_ width"]],
) -> Float[Tensor, ""]:
    """Return the mean of a loss over whole embeddings and over their first dimensions.

    `sizes` are the leading numbers of dimensions that are to be good embeddings by themselves
    (Kusupati et al., arXiv 2205.13147, equation 1); without any this is the loss as it stands.
    """
    losses = [loss(*vectors)]
    for size in sizes:
        losses.append(loss(*(functional.normalize(part[:, :size], dim=-1) for part in vectors)))
    return torch.stack(losses).mean()
