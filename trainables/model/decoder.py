"""What is asked of a decoder, and how it is cut."""

from __future__ import annotations

from typing import Any

from torch import nn

from .kv_heads import UnsupportedDecoderError

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
PLAIN_LAYERS = ("full_attention", "sliding_attention")


def check_decoder(decoder: Any) -> None:
    """Refuse a decoder that is not a stack of layers with attention only.

    Raises:
        UnsupportedDecoderError: With the model's class and what it lacks.
    """
    name = type(decoder).__name__
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(x, "self_attn") for x in layers):
        raise UnsupportedDecoderError(
            f"backbone.model: expected a decoder whose `layers` have `self_attn`, got {name}"
        )
    if not isinstance(getattr(decoder, "norm", None), nn.Module):
        raise UnsupportedDecoderError(
            f"backbone.model: expected a decoder with a final `norm`, got {name}"
        )
    experts = [getattr(decoder.config, name, None) for name in EXPERTS]
    if any(experts):
        raise UnsupportedDecoderError(
            f"backbone.model: expected a dense decoder, got {name} with experts, whose operations "
            "cannot be counted"
        )
    other = set(getattr(decoder.config, "layer_types", None) or ()) - set(PLAIN_LAYERS)
    if other:
        raise UnsupportedDecoderError(
            f"backbone.model: expected layers of {', '.join(PLAIN_LAYERS)}, got {name} with "
            f"{', '.join(sorted(other))}"
        )


def cut(decoder: Any, depth: int) -> None:
    """Drop the layers behind `depth`, which nobody reads.

    The state of a middle layer is read as it stands, so the final norm goes with the layers.
    """
    if depth < decoder.config.num_hidden_layers:
        keep_layers(decoder, depth)
        decoder.norm = nn.Identity()


def keep_layers(decoder: Any, depth: int) -> None:
    """Keep the first `depth` layers and the final norm."""
    decoder.layers = decoder.layers[:depth]
    types = getattr(decoder.config, "layer_types", None)
    if types:
        decoder.config.layer_types = types[:depth]
    decoder.config.num_hidden_layers = depth


def checkpoint_activations(decoder: Any, enabled: bool) -> None:
    """Recompute activations in the backward pass, or keep them."""
    name = "activation" if hasattr(decoder, "activation_checkpointing_enable") else "gradient"
    if enabled:
        getattr(decoder, f"{name}_checkpointing_enable")({"use_reentrant": False})
        decoder.disable_input_require_grads()  # only reentrant checkpoints need those hooks
    else:
        getattr(decoder, f"{name}_checkpointing_disable")()


def own_windows(config: Any) -> list[int | None]:
    """Return the sliding window of each layer that the decoder was trained with."""
    window = getattr(config, "sliding_window", None)
    types = (
        getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    )
    return [window if kind == "sliding_attention" else None for kind in types]
