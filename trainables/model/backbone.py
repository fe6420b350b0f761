"""A decoder under an attention design: token ids to the hidden states that are read.

Letters: B texts, T tokens, S tokens and latents, D model width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from . import attention, kv_heads, last_layer
from .attention import Block
from .decoder import check_decoder, cut, own_windows
from .kv_heads import UnsupportedDecoderError
from .layer_masks import Mask, layer_masks
from .tokens import Layer, Padded, Tokens

LATENT_NOISE = 0.1  # of an embedding's own size, so that the latents differ from the first step on
SHORT = 256  # tokens up to which matrix products beat sdpa's fused kernel on a CPU, 3x in bf16
SAMPLE = 1000  # tokens of the vocabulary whose embeddings the latents start among

Reads = Callable[[Tokens], Bool[Tensor, "batch states"]]
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
        self.varlen = False  # whether packed rows take torch's varlen kernel; on GPUs alone
        check_decoder(decoder)
        cut(decoder, self.read[-1])
        kv_heads.convert(decoder, settings.key_value_heads)
        self.decoder = decoder
        self.windows = own_windows(decoder.config)
        self.is_native = _is_native(self.mask, self.windows)
        self.num_latents = settings.num_latents if getattr(self.mask, "LATENTS", False) else 0
        self._check_kernel()
        self._prepare()
        self._kernel: str = decoder.config._attn_implementation
        self._has_eager = attention.eager(decoder.layers[0].self_attn) is not None

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
            attention.read_first_stream(decoder)
        if self.num_latents:
            self.latents = nn.Parameter(_first_latents(decoder, self.num_latents))

    def forward(
        self, batches: Sequence[Padded], reads: Reads | None = None
    ) -> list[tuple[list[States], Tokens]]:
        """Return, for each batch, the states of the layers that are read and their tokens.

        Several batches are packed: they stand one behind the other in one row, so that all but
        the attention runs over their tokens at once, and none sees another. One batch is run as
        transformers has it. `reads` says which states of the last layer will be read; packed, the
        others are not computed, and are no states then.
        """
        if len(batches) == 1:
            return [self._alone(batches[0])]
        return self._packed(batches, reads)

    def states(
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
        read: list[tuple[list[States], Tokens]] = self([Padded.of(ids, real, instruction)])
        return read[0]

    def _alone(self, batch: Padded) -> tuple[list[States], Tokens]:
        ids, real, instruction = batch
        tokens = Tokens.of(real, instruction)
        if not self.is_native:
            tokens = tokens.with_latents(self.num_latents)
            masks = self._masks(tokens, added=self._kernel.endswith("eager"))
            inputs = self._inputs(self._words([batch])[0], tokens)
            inputs |= {"layer_masks": masks, "attention_mask": masks[0]}
            return self._read(self._run(inputs), tokens)
        inputs = {"input_ids": ids, "attention_mask": real, "position_ids": tokens.position}
        if real.is_meta:  # operations are counted: transformers would look at the padding
            inputs["attention_mask"] = real[:, None, None, :].repeat(1, 1, ids.shape[1], 1)
        return self._run(inputs), tokens

    def _packed(
        self, batches: Sequence[Padded], reads: Reads | None
    ) -> list[tuple[list[States], Tokens]]:
        if not self.decoder.config._attn_implementation.startswith(attention.PACKED):
            attention.take_blocks(self.decoder)
        texts = [Tokens.of(b.real, b.instruction).with_latents(self.num_latents) for b in batches]
        blocks = [self._block(tokens) for tokens in texts]
        parts = [
            self._inputs(ids, tokens)
            for ids, tokens in zip(self._words(batches), texts, strict=True)
        ]
        row: dict[str, Any] = {
            name: torch.cat([part[name].flatten(0, 1) for part in parts]).unsqueeze(0)
            for name in parts[0]
        }
        # Each block has masks of its own; of one like this transformers makes no other.
        nothing = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=row["position_ids"].device)
        varlen = self.varlen and nothing.is_cuda
        row |= {"attention_mask": nothing, "blocks": blocks, "varlen": varlen}
        row["read"] = reads and self._places(texts, reads)
        states = self._run(row)
        sizes = [block.texts * block.tokens for block in blocks]
        layers = zip(*(layer[0].split(sizes) for layer in states), strict=True)
        return [
            self._read([part.unflatten(0, (block.texts, -1)) for part in own], tokens)
            for block, tokens, own in zip(blocks, texts, layers, strict=True)
        ]

    def _places(self, texts: Sequence[Tokens], reads: Reads) -> Int[Tensor, " places"] | None:
        """Return which states of a packed row are read behind the last layer; None if most are."""
        masks = []
        for tokens in texts:
            mask = reads(tokens.last(self.num_latents))
            mask = functional.pad(mask, (tokens.real.shape[1] - mask.shape[1], 0), value=False)
            streams = [torch.zeros_like(mask)] if hasattr(self.mask, "first_stream") else []
            masks += [part.flatten() for part in (*streams, mask)]
        row = torch.cat(masks)
        read = row.nonzero()[:, 0]
        return read if len(read) < last_layer.SAVING * len(row) else None

    def _block(self, tokens: Tokens) -> Block:
        """Return a batch's place in a packed row, and what its tokens see.

        Its texts are padded on the right, so that causal attention keeps from padding by itself.
        """
        num_texts, num_tokens = tokens.real.shape
        if hasattr(self.mask, "first_stream"):
            num_texts *= 2
        kernel, is_causal = self._kernel, getattr(self.mask, "IS_CAUSAL", False)
        if tokens.real.is_cpu and num_tokens <= SHORT and self._has_eager:
            kernel = "eager"
            if hasattr(self.mask, "first_stream"):
                kernel = attention.TWO_STREAMS + kernel
        masks: Sequence[Tensor | None] = [None] * len(self.windows)
        if kernel.startswith("flash"):  # it has windows of its own
            masks = [None if is_causal else tokens.real] * len(self.windows)
        elif kernel.endswith("eager") or not self._needs_no_mask(tokens):
            masks = self._masks(tokens, added=kernel.endswith("eager"))
        return Block(num_texts, num_tokens, kernel, masks, is_causal)

    def _needs_no_mask(self, tokens: Tokens) -> bool:
        """Return whether kernels know what a batch's tokens see from `is_causal` alone."""
        windows = [window for window in self.windows if window is not None]
        if not self.is_native or (windows and min(windows) < tokens.real.shape[1]):
            return False
        return self.mask.IS_CAUSAL or bool(tokens.real.all())

    def _read(self, states: list[Tensor], tokens: Tokens) -> tuple[list[States], Tokens]:
        """Return the second stream, or the latents, of states that have them."""
        if hasattr(self.mask, "first_stream"):
            states = [state[len(state) // 2 :] for state in states]
        if self.num_latents:
            states = [state[:, -self.num_latents :] for state in states]
            tokens = tokens.last(self.num_latents)
        return states, tokens

    def _run(self, inputs: dict[str, Any]) -> list[States]:
        depth = self.decoder.config.num_hidden_layers
        only_last = self.read == (depth,)
        wanted: Any = False if only_last else list(self.read)
        output = self.decoder(**inputs, use_cache=False, output_hidden_states=wanted)
        if only_last:
            return [output.last_hidden_state]
        return [output.hidden_states[number] for number in self.read]

    def _words(self, batches: Sequence[Padded]) -> list[Tensor]:
        """Return what a decoder is given of each batch: ids, or with latents their embeddings.

        All are embedded by one call: with ZeRO stage 3 every call gathers weights from workers,
        which have other numbers of batches.
        """
        if not self.num_latents:
            return [batch.ids for batch in batches]
        row = torch.cat([batch.ids.flatten() for batch in batches])
        parts = self.decoder.get_input_embeddings()(row).split([b.ids.numel() for b in batches])
        return [p.unflatten(0, tuple(b.ids.shape)) for p, b in zip(parts, batches, strict=True)]

    def _inputs(self, ids: Tensor, tokens: Tokens) -> dict[str, Any]:
        """Return the decoder's inputs from a batch's ids, or with latents their embeddings."""
        positions = tokens.position
        inputs: dict[str, Any] = {"input_ids": ids}
        if self.num_latents:
            latents = self.latents.to(ids.dtype).expand(len(ids), -1, -1)
            inputs = {"inputs_embeds": torch.cat([ids, latents], dim=1)}
        elif hasattr(self.mask, "first_stream"):
            inputs, positions = {"input_ids": ids.repeat(2, 1)}, positions.repeat(2, 1)
        return inputs | {"position_ids": positions}

    def _masks(self, tokens: Tokens, *, added: bool) -> list[Mask]:
        dtype = self.decoder.get_input_embeddings().weight.dtype
        return layer_masks(self.mask, tokens, self.layers(), self.windows, dtype, added=added)

    def layers(self) -> list[Layer]:
        """Return where each layer's mask is asked for."""
        depth = self.decoder.config.num_hidden_layers
        return [Layer(n, depth, self.settings, self.progress) for n in range(1, depth + 1)]


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
        masks = kwargs.pop("layer_masks", None)  # a packed row has none: each block has its own
        return args, kwargs if masks is None else kwargs | {"attention_mask": masks[number - 1]}

    return hook


@torch.no_grad()
def _first_latents(decoder: Any, count: int) -> Float[Tensor, "latents dim"]:
    """Return latents near the mean of the tokens' embeddings, each a little different."""
    embed = decoder.get_input_embeddings()
    sample = torch.linspace(0, decoder.config.vocab_size - 1, SAMPLE, device=embed.weight.device)
    embeddings = embed(sample.long()).float()
    noise = torch.randn(count, embeddings.shape[1]).to(embeddings.device)  # as on a CPU
    latents: Tensor = embeddings.mean(0, keepdim=True) + LATENT_NOISE * embeddings.std() * noise
    return latents
