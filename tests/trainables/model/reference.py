"""A Llama under any design, one text, one token and one head at a time, in double precision.

Written from the definitions, sharing no line with the model: weights come from the decoder's own
file and from the state of a built embedder, masks from the predicates of the list of designs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.trainables.model.designs import DEPTH, HEADS, MASKS, Pair, Weight
from trainables import layers
from trainables.config import TrialConfig

Vectors = list[Tensor]  # one of each token


@dataclass(frozen=True, kw_only=True)
class Text:
    """Token ids, the first of which are the instruction's."""

    ids: list[int]
    num_instruction: int


@dataclass
class Reference:
    """The slow model."""

    config: TrialConfig
    settings: Any  # the decoder's own
    original: Mapping[str, Tensor]  # the decoder's file
    trained: Mapping[str, Tensor]  # the state of the embedder
    progress: float = 1.0
    _cache: dict[str, Tensor] = field(default_factory=dict)

    def embed(self, text: Text) -> Tensor:
        """Return the embedding of one text."""
        vector = self._pool(self._read(text), text)
        matrix = self.trained.get("pooling.project.weight")
        vector = vector if matrix is None else matrix.double() @ vector
        vector = vector[: self.config.pooling.truncate_to]
        return vector / vector.pow(2).sum().sqrt()

    @property
    def _numbers(self) -> tuple[int, ...]:
        return layers.numbers(self.config.pooling.layers, DEPTH)

    def _read(self, text: Text) -> list[Vectors]:
        """Return the states that the design reads, of each layer."""
        mask = MASKS[self.config.attention.mask]
        embeddings = self.original["embed_tokens.weight"].double()
        states = [embeddings[number] for number in text.ids]
        if mask.has_latents:
            states += list(self.trained["backbone.latents"].double())
        first, after = states, []
        for number in range(1, self._numbers[-1] + 1):  # what is deeper cannot matter
            keys = first if mask.first else states
            states = self._layer(number, states, keys, mask.weight, text)
            if mask.first:
                first = self._layer(number, first, first, mask.first, text)
            after.append(states)
        if len(after) == DEPTH:
            after[-1] = [self._rms(state, "norm") for state in after[-1]]
        read = [after[number - 1] for number in self._numbers]
        return [states[len(text.ids) :] for states in read] if mask.has_latents else read

    def _layer(
        self, number: int, states: Vectors, keys: Vectors, weight: Weight, text: Text
    ) -> Vectors:
        """Return the states behind a layer whose attention reads `keys`."""
        place = f"layers.{number - 1}"
        normed = [self._rms(key, f"{place}.input_layernorm") for key in keys]
        attention = f"{place}.self_attn"
        memory = [
            (self._heads(f"{attention}.k_proj", key), self._heads(f"{attention}.v_proj", key))
            for key in normed
        ]
        after = []
        for query, state in enumerate(states):
            weights = [
                float(weight(self._pair(query, key, number, text))) for key in range(len(keys))
            ]
            read = self._attend(place, query, state, memory, weights)
            after.append(self._feed_forward(place, state + read))
        return after

    def _pair(self, query: int, key: int, layer: int, text: Text) -> Pair:
        sizes, length = self.config.attention, len(text.ids)
        deepest = self._numbers[-1]
        return Pair(query, key, text.num_instruction, length, layer, deepest, self.progress, sizes)

    def _attend(
        self,
        place: str,
        query: int,
        state: Tensor,
        memory: list[tuple[Vectors, Vectors]],
        weights: list[float],
    ) -> Tensor:
        """Return what one token reads, by all heads."""
        heads = self._heads(
            f"{place}.self_attn.q_proj", self._rms(state, f"{place}.input_layernorm")
        )
        read = []
        for number, head in enumerate(heads):
            turned, shared = self._turn(head, query), self._shared(number)
            scores = {
                place: turned @ self._turn(keys[shared], place) / math.sqrt(len(head))
                for place, (keys, _) in enumerate(memory)
                if weights[place] > 0
            }
            largest = max(score.item() for score in scores.values())
            shares = {p: weights[p] * math.exp(s.item() - largest) for p, s in scores.items()}
            total = torch.zeros_like(head)
            for key, share in shares.items():
                total = total + share / sum(shares.values()) * memory[key][1][shared]
            read.append(total)
        return self._linear(f"{place}.self_attn.o_proj", torch.cat(read))

    def _shared(self, head: int) -> int:
        """Return the key/value head that a query head reads."""
        group = self.settings.num_attention_heads // self.settings.num_key_value_heads
        kind = self.config.attention.key_value_heads
        shared: int = {"native": head // group, "multi_head": head, "multi_query": 0}[kind]
        return shared

    def _turn(self, head: Tensor, position: int) -> Tensor:
        """Return a query or key turned by its position (Su et al., arXiv 2104.09864)."""
        half, turned = len(head) // 2, head.clone()
        base = self.settings.rope_parameters["rope_theta"]
        for place in range(half):
            angle = position * base ** (-2 * place / len(head))
            x, y = head[place], head[place + half]
            turned[place] = x * math.cos(angle) - y * math.sin(angle)
            turned[place + half] = y * math.cos(angle) + x * math.sin(angle)
        return turned

    def _feed_forward(self, place: str, state: Tensor) -> Tensor:
        normed = self._rms(state, f"{place}.post_attention_layernorm")
        gate = self._linear(f"{place}.mlp.gate_proj", normed)
        inner = gate / (1 + torch.exp(-gate)) * self._linear(f"{place}.mlp.up_proj", normed)
        return state + self._linear(f"{place}.mlp.down_proj", inner)

    def _rms(self, state: Tensor, name: str) -> Tensor:
        size = math.sqrt(state.pow(2).mean().item() + self.settings.rms_norm_eps)
        return state / size * self.original[f"{name}.weight"].double()

    def _heads(self, name: str, state: Tensor) -> Vectors:
        return list(self._linear(name, state).split(self.settings.head_dim))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Return a projection with its bias and its low-rank adapter."""
        if name not in self._cache:
            lora = self.config.lora
            into, out = (
                self.trained[f"backbone.decoder.{name}.lora_{letter}.default.weight"].double()
                for letter in "AB"
            )
            weight = self._converted(name, self.original[f"{name}.weight"].double())
            self._cache[name] = weight + lora.alpha / lora.rank * out @ into
        bias = self._converted(name, self.original[f"{name}.bias"].double())
        return self._cache[name] @ x + bias

    def _converted(self, name: str, tensor: Tensor) -> Tensor:
        """Return weights or bias of key/value heads as the design has these."""
        kind = self.config.attention.key_value_heads
        if kind == "native" or not name.endswith(("k_proj", "v_proj")):
            return tensor
        heads = tensor.split(self.settings.head_dim)
        if kind == "multi_query":
            return torch.stack(heads).mean(0)
        group = self.settings.num_attention_heads // len(heads)
        return torch.cat([heads[n // group] for n in range(self.settings.num_attention_heads)])

    def _pool(self, read: Sequence[Vectors], text: Text) -> Tensor:
        """Return the vector that the head makes of the states."""
        pooling = self.config.pooling
        start = 0 if pooling.include_instruction else text.num_instruction
        extra = self.trained.get("pooling.layer_embeddings")
        memory = []
        for place, states in enumerate(read):
            kept = states[start:]
            if pooling.head != "none" or self._numbers != (DEPTH,):
                kept = [x / math.sqrt(x.pow(2).mean().item() + 1e-6) for x in kept]
            joined = kept if pooling.token_scope == "all_tokens" else [self._join(kept)]
            memory.append([x if extra is None else x + extra[place].double() for x in joined])
        weights = {
            name.removeprefix("pooling.head."): tensor.double()
            for name, tensor in self.trained.items()
            if name.startswith("pooling.head.")
        }
        slow = HEADS[pooling.head].slow
        assert slow is not None
        return slow(weights, memory, pooling.num_heads)

    def _join(self, states: Vectors) -> Tensor:
        """Return one vector of a layer's states."""
        scope = self.config.pooling.token_scope
        if scope == "last_token":
            return states[-1]
        shares = [1.0 if scope == "mean" else n for n in range(1, len(states) + 1)]
        total = torch.zeros_like(states[0])
        for share, state in zip(shares, states, strict=True):
            total = total + share / sum(shares) * state
        return total
