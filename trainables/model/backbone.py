"""A decoder under an attention design: token ids to the hidden states that are read.

Letters: B texts, T tokens, S tokens and latents, D model width.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

from . import kv_heads
from .decoder import check_decoder, cut, own_windows
from .kv_heads import UnsupportedDecoderError
from .tokens import Layer, Tokens

LATENT_NOISE = 0.1  # of an embedding's own size, so that the latents differ from the first step on
SAMPLE = 1000  # tokens of the vocabulary whose embeddings the latents start among

States = Float[Tensor, "batch states dim"]  # of all tokens, or of the latents


class Backbone(nn.Module):
    """A decoder whose layers see what a mask says.

    Causal and bidirectional attention are transformers' own; every other mask is handed to each
    layer as it is needed. `progress` is the share of the training that is done.
    """

    def __init__(self, decoder: Any, settings: Any, read: Sequence[int]) -> None:
        """Take over `decoder` and cut it behind the last layer that is read.

        Args:
            decoder: Of transformers, without a head on top.
            settings: `trainables.config.AttentionConfig`, or anything with its fields.
            read: Numbers of the hidden states that `forward` returns, from 1.

        Raises:
            UnsupportedDecoderError: If the decoder cannot take the design.
        """
        super().__init__()
        self.mask = importlib.import_module(f".masks.{settings.mask}", __package__)
        self.settings = settings
        self.read = tuple(read)
        self.progress = 1.0
        check_decoder(decoder)
        cut(decoder, self.read[-1])
        kv_heads.convert(decoder, settings.key_value_heads)
        self.decoder = decoder
        self.windows = own_windows(decoder.config)
        self.is_native = _is_native(self.mask, self.windows)
        self.num_latents = settings.num_latents if getattr(self.mask, "LATENTS", False) else 0
        self._check_kernel()
        self._prepare()

    def _check_kernel(self) -> None:
        kernel = self.decoder.config._attn_implementation
        if kernel.startswith("flash") and not self.is_native:
            raise UnsupportedDecoderError(
                f"engine.attn_implementation: expected 'sdpa' or 'eager' for mask "
                f"{self.settings.mask!r} on {type(self.decoder).__name__}, as FlashAttention "
                f"ignores it in silence, got {kernel!r}"
            )

    def _prepare(self) -> None:
        """Make the decoder and its layers take the mask."""
        decoder = self.decoder
        if self.is_native:
            decoder.config.is_causal = self.mask.IS_CAUSAL
            return
        decoder.config.is_causal = True  # what the masks are compared with
        for number, layer in enumerate(decoder.layers, 1):
            layer.register_forward_pre_hook(_take_mask(number), with_kwargs=True)
        if hasattr(self.mask, "first_stream"):
            _read_first_stream(decoder)
        if self.num_latents:
            self.latents = nn.Parameter(_first_latents(decoder, self.num_latents))

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        instruction: Bool[Tensor, "batch tokens"] | None = None,
    ) -> tuple[list[States], Tokens]:
        """Return the states of the layers that are read, first to last, and their tokens.

        Args:
            ids: Token ids, padded on either side.
            real: True for tokens that are no padding.
            instruction: True for tokens of the instruction; None if no text has one.
        """
        tokens = Tokens.of(real, instruction)
        if self.is_native:
            inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": real}
            inputs["position_ids"] = tokens.position
            if real.is_meta:  # operations are counted: transformers would look at the padding
                inputs["attention_mask"] = real[:, None, None, :].repeat(1, 1, ids.shape[1], 1)
        else:
            tokens = tokens.with_latents(self.num_latents)
            inputs = self._inputs(ids, tokens)
        states = self._run(inputs)
        if hasattr(self.mask, "first_stream"):
            states = [state[len(ids) :] for state in states]
        if self.num_latents:
            return [state[:, -self.num_latents :] for state in states], tokens.last(
                self.num_latents
            )
        return states, tokens

    def _run(self, inputs: dict[str, Any]) -> list[States]:
        depth = self.decoder.config.num_hidden_layers
        only_last = self.read == (depth,)
        wanted: Any = False if only_last else list(self.read)
        output = self.decoder(**inputs, use_cache=False, output_hidden_states=wanted)
        if only_last:
            return [output.last_hidden_state]
        return [output.hidden_states[number] for number in self.read]

    def _inputs(self, ids: Tensor, tokens: Tokens) -> dict[str, Any]:
        embed = self.decoder.get_input_embeddings()
        masks, positions = self._layer_masks(tokens, embed.weight.dtype), tokens.position
        inputs: dict[str, Any] = {"input_ids": ids}
        if self.num_latents:
            latents = self.latents.to(embed.weight.dtype).expand(len(ids), -1, -1)
            inputs = {"inputs_embeds": torch.cat([embed(ids), latents], dim=1)}
        elif hasattr(self.mask, "first_stream"):
            inputs, positions = {"input_ids": ids.repeat(2, 1)}, positions.repeat(2, 1)
        return inputs | {
            "attention_mask": masks[0],
            "layer_masks": masks,
            "position_ids": positions,
        }

    def _layer_masks(
        self, tokens: Tokens, dtype: torch.dtype
    ) -> list[Bool[Tensor, "batch 1 queries keys"] | Float[Tensor, "batch 1 queries keys"]]:
        """Return each layer's mask as its attention function takes it; like layers share one."""
        variant: Callable[[Layer], Any] = getattr(self.mask, "variant", lambda layer: None)
        made: dict[Any, Tensor] = {}
        masks = []
        for layer, window in zip(self.layers(), self.windows, strict=True):
            kind = (variant(layer), window)
            if kind not in made:
                made[kind] = self._layer_mask(tokens, layer, window, dtype)
            masks.append(made[kind])
        return masks

    def _layer_mask(
        self, tokens: Tokens, layer: Layer, window: int | None, dtype: torch.dtype
    ) -> Tensor:
        streams = [getattr(self.mask, "first_stream", None), self.mask.attends]
        allowed = torch.cat(
            [allowed_pairs(attends, tokens, layer, window) for attends in streams if attends]
        ).unsqueeze(1)
        log_weight = getattr(self.mask, "log_weight", lambda *_: None)
        bias = log_weight(tokens.queries(), tokens.keys(), layer)
        if bias is None and not self.decoder.config._attn_implementation.endswith("eager"):
            return allowed
        least = torch.finfo(dtype).min  # eager attention adds its mask; a boolean one would leak
        logits = torch.zeros_like(allowed, dtype=dtype) if bias is None else bias.unsqueeze(1)
        return torch.where(allowed, logits.to(dtype), least)

    def layers(self) -> list[Layer]:
        """Return where each layer's mask is asked for."""
        depth = self.decoder.config.num_hidden_layers
        return [Layer(n, depth, self.settings, self.progress) for n in range(1, depth + 1)]


def allowed_pairs(
    attends: Callable[[Tokens, Tokens, Layer], Tensor],
    tokens: Tokens,
    layer: Layer,
    window: int | None,
) -> Bool[Tensor, "batch queries keys"]:
    """Return which key each query sees: what the mask says, within the decoder's own window.

    Padding is never seen, but by itself: a row without a key would be no number.
    """
    query, key = tokens.queries(), tokens.keys()
    allowed = attends(query, key, layer) & key.real & query.real
    if window is not None:
        allowed = allowed & ((query.position - key.position).abs() < window)
    itself = torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    return allowed | (itself & ~query.real)


def _is_native(mask: Any, windows: Sequence[int | None]) -> bool:
    """Return whether transformers has the mask; its windows differ by one when bidirectional."""
    is_causal = getattr(mask, "IS_CAUSAL", None)
    return is_causal is True or (is_causal is False and not any(windows))


def _take_mask(number: int) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a hook that gives layer `number` its own mask.

    The masks travel with the call and not on the module, so a layer that is computed again in the
    backward pass sees what it saw before.
    """

    def hook(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        masks = kwargs.pop("layer_masks")
        return args, kwargs | {"attention_mask": masks[number - 1]}

    return hook


@torch.no_grad()
def _first_latents(decoder: Any, count: int) -> Float[Tensor, "latents dim"]:
    """Return latents near the mean of the tokens' embeddings, each a little different."""
    embed = decoder.get_input_embeddings()
    sample = torch.linspace(0, decoder.config.vocab_size - 1, SAMPLE, device=embed.weight.device)
    embeddings = embed(sample.long()).float()
    noise = torch.randn(count, embeddings.shape[1], device=embeddings.device)
    latents: Tensor = embeddings.mean(0, keepdim=True) + LATENT_NOISE * embeddings.std() * noise
    return latents


def _read_first_stream(decoder: Any) -> None:
    """Make attention read the keys and values of the batch's first half, for both halves."""
    base = decoder.config._attn_implementation
    name = f"two_stream_{base}"
    AttentionInterface.register(name, _two_streams(base))
    decoder.config._attn_implementation = name


def _two_streams(base: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
    ) -> Any:
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = AttentionInterface().get_interface(base, eager)
        first = len(query) // 2
        keys, values = (x[:first].repeat(2, 1, 1, 1) for x in (key, value))
        return function(module, query, keys, values, mask, **kwargs)

    return attention
