"""A decoder's last layer, computed only where its states are read.

Behind it stands nobody but the read-out. So keys and values are needed of all tokens, but queries,
the projection of what attention returns, and the MLP only of those that are read: one of each text
if that is its last token. That is 15 % of the matrix products of a decoder of six layers.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

PER_TOKEN = ("self_attn.q_proj", "self_attn.o_proj", "mlp")  # what computes each token by itself
SAVING = 0.75  # share of the tokens above which leaving the others out does not pay


def compute_where_read(layer: Any) -> None:
    """Make a layer look for `read`, places in a packed row, among what it is called with."""
    call = _Call()
    layer.self_attn.register_forward_pre_hook(call.begin, with_kwargs=True)
    modules = dict(layer.named_modules())
    for name in PER_TOKEN:
        if name in modules:  # some families have one projection for queries, keys and values
            modules[name].register_forward_pre_hook(call.keep_read)
            modules[name].register_forward_hook(call.put_back)


class _Call:
    """The hooks of a layer, and which places the call that is under way has read.

    The places travel with the call, as masks do, so a layer that is computed again in the backward
    pass has them; its attention comes first.
    """

    def __init__(self) -> None:
        self.read: Int[Tensor, " places"] | None = None
        self.num_tokens = 0

    def begin(self, attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.read = kwargs.get("read")

    def keep_read(self, module: nn.Module, args: tuple[Tensor]) -> Any:
        if self.read is None:
            return None
        (states,) = args
        self.num_tokens = states.shape[1]
        return (states.index_select(1, self.read),)

    def put_back(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Return the output among zeros, which nobody reads."""
        if self.read is None:
            return output
        whole = output.new_zeros(1, self.num_tokens, output.shape[-1])
        return whole.index_copy(1, self.read, output)
