"""A decoder and its read-out: token ids to embeddings of length 1."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .backbone import Backbone
from .pooling import Pooling
from .tokens import Padded


class Embedder(nn.Module):
    """The model that a trial trains."""

    def __init__(self, backbone: Backbone, pooling: Pooling) -> None:
        """Join a backbone with a read-out of its width and layers."""
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        instruction: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """Return the embeddings in fp32.

        Args:
            ids: Token ids, padded on either side.
            real: True for tokens that are no padding.
            instruction: True for tokens of the instruction; None if no text has one.
        """
        return self.embed([Padded.of(ids, real, instruction)])

    def embed(self, batches: Sequence[Padded]) -> Float[Tensor, "texts width"]:
        """Return the embeddings of the texts of all batches, which are packed if they are several.

        Packed texts are padded on the right; their embeddings are the same but for rounding.
        """
        read = self.backbone(batches, self.pooling.reads)
        return functional.normalize(self.pooling(*read).float(), dim=-1)
