"""From hidden states to one vector per text: token scopes, the head and what follows it.

Letters: B texts, T tokens, L layers, D backbone width.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .blocks import masked_mean, orthogonal, unit_rms
from .tokens import Tokens


def pool_tokens(
    states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"], scope: str
) -> Float[Tensor, "batch dim"]:
    """Return one vector per text; what the mask leaves out is never read.

    "weighted_mean" weighs the n-th token that is read with n (Muennighoff, arXiv 2202.08904).

    >>> states = torch.tensor([[[1.0], [4.0], [9.0]]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> [pool_tokens(states, mask, s).item() for s in ("last_token", "mean", "weighted_mean")]
    [4.0, 2.5, 3.0]
    """
    if scope == "mean":
        return masked_mean(states, mask)
    if scope == "weighted_mean":
        ranks = mask.cumsum(1) * mask
        weights = (ranks / ranks.sum(1, keepdim=True)).to(states.dtype)
        return torch.einsum("bt,btd->bd", weights, states)
    return states[torch.arange(len(states), device=states.device), _last(mask)]


def _last(mask: Bool[Tensor, "batch tokens"]) -> Int[Tensor, " batch"]:
    """Return the place of each text's last token that the mask leaves in."""
    return (mask.cumsum(1) * mask).argmax(1)


class Pooling(nn.Module):
    """The whole read-out: hidden states to one vector per text."""

    def __init__(
        self, config: Any, input_size: int, num_layers: int = 1, *, middle: bool = False
    ) -> None:
        """Make the read-out that `config` describes.

        Args:
            config: `trainables.config.PoolingConfig` with whole widths, or one with its fields.
            input_size: Width of the backbone.
            num_layers: Number of layers that are read.
            middle: Whether a layer is read that the decoder's final norm does not scale.
        """
        super().__init__()
        made = importlib.import_module(f".heads.{config.head}", __package__)
        self.scope = config.token_scope
        self.include_instruction = config.include_instruction
        self.normalise = middle or config.head != "none"
        self.truncate_to = config.truncate_to
        self.head = made.Head(config, input_size, num_layers)
        self.layer_embeddings = None
        if getattr(made, "LAYER_EMBEDDINGS", False) and num_layers > 1:
            self.layer_embeddings = nn.Parameter(torch.zeros(num_layers, input_size))
        self.project = None
        self.output_size = self.head.output_size
        if config.output_size is not None:
            self.project = orthogonal(self.output_size, config.output_size)
            self.output_size = config.output_size
        self.output_size = min(self.output_size, config.truncate_to or self.output_size)

    def forward(self, *read: tuple[list[Tensor], Tokens]) -> Float[Tensor, "texts width"]:
        """Return one vector per text of all batches, of each the layers' states and its tokens."""
        return torch.cat([self._vectors(states, tokens) for states, tokens in read])

    def reads(self, tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
        """Return the tokens whose states are read; those of others may be anything."""
        mask = self._scope(tokens)
        if self.scope != "last_token":
            return mask
        return functional.one_hot(_last(mask), mask.shape[1]).bool()

    def _scope(self, tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
        return tokens.real if self.include_instruction else tokens.real & ~tokens.instruction

    def _vectors(
        self, states: list[Float[Tensor, "batch tokens dim"]], tokens: Tokens
    ) -> Float[Tensor, "batch width"]:
        mask = self._scope(tokens)
        if self.normalise:
            states = [unit_rms(layer) for layer in states]
        if self.scope == "all_tokens":
            memory = torch.stack(states, dim=1)
        else:
            pooled = [pool_tokens(layer, mask, self.scope) for layer in states]
            memory, mask = torch.stack(pooled, dim=1).unsqueeze(2), mask.new_ones(len(mask), 1)
        vectors: Tensor = self.head(self._placed(memory), mask)
        if self.project is not None:
            vectors = self.project(vectors.to(self.project.weight.dtype))
        return vectors[:, : self.output_size]

    def _placed(
        self, memory: Float[Tensor, "batch layers tokens dim"]
    ) -> Float[Tensor, "batch layers tokens dim"]:
        """Add the layer embeddings, in the head's own precision."""
        weight = next(self.head.parameters(), None)
        if weight is not None:
            memory = memory.to(weight.dtype)
        if self.layer_embeddings is None:
            return memory
        return memory + self.layer_embeddings[:, None, :]
