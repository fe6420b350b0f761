"""The decoder LLM: loaded, cut, its attention set, LoRA added, and joined with the pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from trainables import assets
from trainables.config import (
    EMBEDDED_MODEL,
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    LoraConfig,
    Precision,
    TrialConfig,
)
from trainables.pooling import Pooling

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def locate(model: str) -> str:
    """Return what transformers loads `model` from: a folder, or a hub id as it stands."""
    return str(assets.model_folder()) if model == EMBEDDED_MODEL else model


def check_against_model(config: TrialConfig) -> int:
    """Compare a configuration with the settings of the model that it names; return its depth.

    Raises:
        ConfigError: If the model cannot be found or has fewer layers than asked for.
    """
    try:
        depth: int = AutoConfig.from_pretrained(locate(config.backbone.model)).num_hidden_layers
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"backbone.model: expected {EMBEDDED_MODEL!r}, a model folder or a reachable hub id, "
            f"got {config.backbone.model!r} ({reason})"
        ) from error
    kept = config.backbone.num_layers
    if kept is not None and kept > depth:
        raise ConfigError(
            f"backbone.num_layers: expected at most {depth}, "
            f"the layers of {config.backbone.model}, got {kept}"
        )
    if config.pooling.num_layers > (kept or depth):
        raise ConfigError(
            f"pooling.num_layers: expected at most {kept or depth}, the layers of the backbone, "
            f"got {config.pooling.num_layers}"
        )
    return depth


def load_backbone(config: BackboneConfig, precision: Precision) -> PreTrainedModel:
    """Return the frozen decoder with its first `num_layers` layers; the final norm stays."""
    model: PreTrainedModel = AutoModel.from_pretrained(
        locate(config.model), dtype=DTYPES[precision], attn_implementation="sdpa"
    )
    if config.num_layers is not None:
        layers: Any = model.layers
        model.layers = layers[: config.num_layers]
        model.config.num_hidden_layers = config.num_layers
    return model.requires_grad_(False)


def set_attention(model: PreTrainedModel, config: AttentionConfig) -> None:
    """Make the decoder causal or bidirectional.

    The switch is the model's `is_causal` setting, which transformers' mask functions read; setting
    it on the attention modules alone is silently causal again as soon as one row is padded.
    """
    model.config.is_causal = config.mask == "causal"


def add_lora(model: PreTrainedModel, config: LoraConfig) -> None:
    """Put trainable low-rank adapters into the decoder's projections, in place."""
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
        ),
        model,
    )


class Tokenizer:
    """Texts to padded ids; each ends with the end-of-text token, which `last_token` reads."""

    def __init__(self, model: str) -> None:
        """Load the tokenizer of `model`."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(locate(model))
        self.end = self._tokenizer.eos_token_id
        padding = self._tokenizer.pad_token_id
        self.padding = self.end if padding is None else padding

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return each text's token ids, at most `max_tokens` with the end-of-text token."""
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=max_tokens - 1, return_attention_mask=False
        )["input_ids"]
        return [[*row, self.end] if row[-1:] != [self.end] else row for row in encoded]

    def __call__(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """Return right-padded ids and the mask of real tokens."""
        rows = self.ids(texts, max_tokens)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.padding] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(longest) < lengths.unsqueeze(1)


class Embedder(nn.Module):
    """A decoder and its read-out: token ids to embeddings of length 1."""

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling) -> None:
        """Join a prepared backbone with a read-out of its width."""
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling

    def forward(
        self, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """Return the embeddings in fp32."""
        read = self.pooling.num_layers
        output = self.backbone(
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            output_hidden_states=read > 1,
        )
        states = list(output.hidden_states[-read:]) if read > 1 else [output.last_hidden_state]
        return functional.normalize(self.pooling(states, mask).float(), dim=-1)


def build(config: TrialConfig) -> Embedder:
    """Return a trial's untrained embedder; LoRA and head are drawn from torch's RNG."""
    backbone = load_backbone(config.backbone, config.engine.precision)
    set_attention(backbone, config.attention)
    add_lora(backbone, config.lora)
    return Embedder(backbone, Pooling(config.pooling, backbone.config.hidden_size))


def trainable_parameters(module: nn.Module) -> int:
    """Return how many numbers training changes."""
    # DeepSpeed's stage 3 leaves empty shards in place and keeps the true size beside them.
    sizes = (getattr(p, "ds_numel", p.numel()) for p in module.parameters() if p.requires_grad)
    return sum(sizes)
