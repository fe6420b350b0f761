"""The heads once more, one vector at a time, for one text.

Letters: L layers, T states of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Slow = Callable[[Weights, Sequence[Sequence[Tensor]], int], Tensor]
"""From weights, [L][T] states of one text and the number of heads to its vector."""


def mean(vectors: Sequence[Tensor]) -> Tensor:
    return torch.stack([vector / len(vectors) for vector in vectors]).sum(0)


def none(weights: Weights, states: Sequence[Sequence[Tensor]], num_heads: int) -> Tensor:
    ((state,),) = states
    return state


def scalar_mix(weights: Weights, states: Sequence[Sequence[Tensor]], num_heads: int) -> Tensor:
    scores = [math.exp(weight) for weight in weights["weights"].tolist()]
    mixed = torch.zeros_like(states[0][0])
    for score, (state,) in zip(scores, states, strict=True):
        mixed = mixed + score / sum(scores) * state
    return mixed


def self_attention(weights: Weights, states: Sequence[Sequence[Tensor]], num_heads: int) -> Tensor:
    sequence = [project(weights, state) for layer in states for state in layer]
    normed = [norm(weights, "norm", state) for state in sequence]
    attended = [
        state + attend(weights, query, normed, num_heads)
        for state, query in zip(sequence, normed, strict=True)
    ]
    return mean([feed_forward(weights, state) for state in attended])


def cross_attention(
    weights: Weights, states: Sequence[Sequence[Tensor]], num_heads: int
) -> Tensor:
    memory = [state for layer in states for state in layer]
    attended = [
        latent + attend(weights, latent, memory, num_heads) for latent in weights["latents"]
    ]
    return mean([feed_forward(weights, latent) for latent in attended])


def latent_attention(
    weights: Weights, states: Sequence[Sequence[Tensor]], num_heads: int
) -> Tensor:
    dictionary = [norm(weights, "latents_norm", latent) for latent in weights["latents"]]
    vectors = []
    for layer in states:
        for state in layer:
            projected = project(weights, state)
            query = norm(weights, "norm", projected)
            attended = projected + attend(weights, query, dictionary, num_heads)
            vectors.append(feed_forward(weights, attended))
    return mean(vectors)


def project(weights: Weights, state: Tensor) -> Tensor:
    matrix = weights.get("project.weight")
    return state if matrix is None else matrix @ state


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / math.sqrt(centred.pow(2).mean().item() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(weights: Weights, state: Tensor, memory: Sequence[Tensor], num_heads: int) -> Tensor:
    query = weights["attention.query.weight"] @ state
    keys = [weights["attention.key.weight"] @ key for key in memory]
    values = [weights["attention.value.weight"] @ value for value in memory]
    size = len(query) // num_heads
    read = []
    for start in range(0, len(query), size):
        part = slice(start, start + size)
        shares = [math.exp(query[part] @ key[part] / math.sqrt(size)) for key in keys]
        total = torch.zeros_like(query[part])
        for share, value in zip(shares, values, strict=True):
            total = total + share / sum(shares) * value[part]
        read.append(total)
    return weights["attention.out.weight"] @ torch.cat(read)


def feed_forward(weights: Weights, x: Tensor) -> Tensor:
    w = {name.removeprefix("feed_forward."): tensor for name, tensor in weights.items()}
    inner = w["into.weight"] @ norm(weights, "feed_forward.norm", x) + w["into.bias"]
    value, gate = inner[: len(inner) // 2], inner[len(inner) // 2 :]
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return x + w["out.weight"] @ (value * gelu) + w["out.bias"]
