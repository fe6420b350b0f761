"""What a mask may ask about tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional


class Padded(NamedTuple):
    """Texts as a decoder reads them, padded to one length."""

    ids: Int[Tensor, "batch tokens"]
    real: Bool[Tensor, "batch tokens"]  # no padding
    instruction: Bool[Tensor, "batch tokens"]  # of the instruction before the text

    @classmethod
    def of(cls, ids: Tensor, real: Tensor, instruction: Tensor | None) -> Padded:
        """Return a batch; None means that no text has an instruction."""
        return cls(ids, real, torch.zeros_like(real) if instruction is None else instruction)

    def to(self, device: torch.device) -> Padded:
        """Return the batch on another device."""
        return Padded(*(field.to(device) for field in self))


class Tokens(NamedTuple):
    """The tokens of a batch; all fields have one shape, [batch, tokens]."""

    real: Bool[Tensor, ...]  # no padding
    position: Int[Tensor, ...]  # within the text, from 0; padding on either side adds nothing
    instruction: Bool[Tensor, ...]  # belongs to the instruction before the text
    latent: Bool[Tensor, ...]  # a learned vector behind the text

    @classmethod
    def of(
        cls, real: Bool[Tensor, "batch tokens"], instruction: Bool[Tensor, "batch tokens"] | None
    ) -> Tokens:
        """Return the tokens of padded texts; None means that no text has an instruction."""
        nothing = torch.zeros_like(real)
        position = (real.cumsum(1) - 1).clamp(min=0)
        return cls(real, position, nothing if instruction is None else instruction, nothing)

    def with_latents(self, count: int) -> Tokens:
        """Return these tokens with `count` latents behind each text."""
        if not count:
            return self
        lengths = self.real.sum(1, keepdim=True)
        places = torch.arange(count, device=lengths.device)
        return Tokens(
            functional.pad(self.real, (0, count), value=True),
            torch.cat([self.position, lengths + places], dim=1),
            functional.pad(self.instruction, (0, count), value=False),
            functional.pad(self.latent, (0, count), value=True),
        )

    def last(self, count: int) -> Tokens:
        """Return the last `count` columns."""
        return Tokens(*(field[:, -count:] for field in self))

    def queries(self) -> Tokens:
        """Return the tokens as rows of an attention matrix: [batch, tokens, 1]."""
        return Tokens(*(field.unsqueeze(-1) for field in self))

    def keys(self) -> Tokens:
        """Return the tokens as columns of an attention matrix: [batch, 1, tokens]."""
        return Tokens(*(field.unsqueeze(-2) for field in self))


class Layer(NamedTuple):
    """Where a mask is asked for."""

    number: int  # from 1
    depth: int  # number of layers
    settings: Any  # the sizes of `trainables.config.AttentionConfig`
    progress: float  # share of the training that is done, in [0, 1]; 1 for a finished model
