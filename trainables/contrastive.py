"""One optimiser step on a batch of any size: GradCache (Gao et al., arXiv 2101.06983).

The loss of all texts of all workers needs only their embeddings. So these come first, one
mini-batch after the other, without a graph; the loss is differentiated with respect to them; and
each mini-batch is embedded again, with a graph, to take its share of that gradient to the weights.
The last one keeps its graph from the first pass, since one fits in memory. Random states are
repeated, so both passes drop the same activations: the gradient is that of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.engine import finite_mean
from trainables.model.embedder import Embedder
from trainables.model.tokens import Padded

MiniBatch = Sequence[Padded]
Loss = Callable[[Float[Tensor, "texts width"], Float[Tensor, " 1"]], Float[Tensor, ""]]
"""From the embeddings of this worker's texts and log(1/temperature) to its part of the loss."""


class Trainee(nn.Module):
    """What the engine trains: an embedder, and the temperature of its loss where that is learned.

    Learned is the difference to the first log(1/temperature), which is precise in bf16 too.
    """

    def __init__(self, embedder: Embedder, temperature: float, *, learned: bool) -> None:
        """Start from `temperature`."""
        super().__init__()
        self.embedder = embedder
        self.start = math.log(1 / temperature)
        self.shift = nn.Parameter(torch.zeros(1)) if learned else None

    def forward(
        self, batches: MiniBatch
    ) -> tuple[Float[Tensor, "texts width"], Float[Tensor, " 1"]]:
        """Return the embeddings of all texts and log(1/temperature), both in fp32."""
        embeddings = self.embedder.embed(batches)
        shift = embeddings.new_zeros(1) if self.shift is None else self.shift.float()
        return embeddings, shift + self.start


def train_step(engine: Any, mini_batches: Sequence[MiniBatch], loss: Loss, name: str) -> float:
    """Take the optimiser step `name` on the gradient of the loss of all texts; return that loss.

    All workers give equally many mini-batches, which `loss` sees one after the other; its values
    are averaged over the workers.

    Raises:
        TrainingError: If the loss is not finite; every worker raises it.
    """
    *cached, last = mini_batches
    states, embedded = [], []
    with torch.no_grad():
        for batches in cached:
            states.append(_random_state())
            embedded.append(engine(batches)[0])
    kept, log_scale = engine(last)
    leaves = [torch.cat([*embedded, kept.detach()]), log_scale.detach()]
    value = loss(*(leaf.requires_grad_() for leaf in leaves))
    mean = finite_mean(value, name)
    gradient, *others = torch.autograd.grad(value, leaves, allow_unused=True)
    *shares, share = gradient.split([len(part) for part in (*embedded, kept)])
    engine.set_gradient_accumulation_boundary(not cached)
    engine.backward(_chained([kept, log_scale], [share, *others]))
    after = _random_state()
    for number, (batches, state) in enumerate(zip(cached, states, strict=True)):
        _repeat(state)
        vectors, _ = engine(batches)
        engine.set_gradient_accumulation_boundary(number == len(cached) - 1)
        engine.backward(_chained([vectors], [shares[number]]))
    _repeat(after)
    engine.step()
    return mean


def _chained(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Float[Tensor, ""]:
    """Return a number whose gradient is that of the loss which has `gradients` at `outputs`."""
    pairs = zip(outputs, gradients, strict=True)
    return torch.stack([(o * g).sum() for o, g in pairs if g is not None]).sum()


def _random_state() -> tuple[Tensor, Tensor | None]:
    """Return the states that dropout draws from."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _repeat(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
