"""From a configuration to a model: the decoder, its attention, LoRA and the read-out."""

from __future__ import annotations

import peft
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from trainables import designs, kernels, layers
from trainables.config import BackboneConfig, ConfigError, EngineConfig, LoraConfig, TrialConfig
from trainables.model.backbone import Backbone
from trainables.model.decoder import checkpoint_activations, keep_layers
from trainables.model.embedder import Embedder
from trainables.model.last_layer import compute_where_read
from trainables.model.pooling import Pooling
from trainables.tokenizer import locate

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_decoder(config: BackboneConfig, engine: EngineConfig) -> PreTrainedModel:
    """Return the frozen decoder with its first `num_layers` layers; the final norm stays."""
    model: PreTrainedModel = AutoModel.from_pretrained(
        locate(config.model),
        dtype=DTYPES[engine.precision],
        attn_implementation=engine.attn_implementation,
    )
    if config.num_layers is not None:
        keep_layers(model, config.num_layers)
    if engine.liger_kernels:
        kernels.use_liger(model)
    return model.requires_grad_(False)


def add_lora(model: PreTrainedModel, config: LoraConfig) -> None:
    """Put trainable low-rank adapters into the decoder's projections, in place.

    Raises:
        ConfigError: If the decoder has no projection of a name in `targets`.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = {name.rpartition(".")[2] for name in linear}
    missing = [target for target in config.targets if target not in names]
    if missing:
        raise ConfigError(
            f"lora.targets: expected linear layers of {type(model).__name__} "
            f"({', '.join(sorted(names))}), got {', '.join(missing)}"
        )
    peft.inject_adapter_in_model(lora_settings(config), model)


def lora_settings(config: LoraConfig) -> peft.LoraConfig:
    """Return PEFT's own configuration."""
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
    )


def build(config: TrialConfig) -> Embedder:
    """Return a trial's untrained embedder; LoRA, latents and head are drawn from torch's RNG.

    Whether the design is degenerate is for `designs.check_design` to say.

    Raises:
        ConfigError: If the decoder cannot take the design.
    """
    return assemble(config, load_decoder(config.backbone, config.engine))


def assemble(config: TrialConfig, decoder: PreTrainedModel) -> Embedder:
    """Return the embedder that `config` describes around a loaded decoder."""
    shape = designs.shape_of(decoder.config)
    config = designs.resolve(config, shape)
    read = layers.numbers(config.pooling.layers, shape.depth)
    with designs.refused_by_name():
        backbone = Backbone(decoder, config.attention, read)
    backbone.varlen = config.engine.varlen
    add_lora(decoder, config.lora)
    compute_where_read(backbone.decoder.layers[-1])
    checkpoint_activations(decoder, config.training.gradient_checkpointing)
    middle = set(read) != {shape.depth}
    return Embedder(backbone, Pooling(config.pooling, shape.width, len(read), middle=middle))


def trainable_parameters(module: nn.Module) -> int:
    """Return how many numbers training changes."""
    # DeepSpeed's stage 3 leaves empty shards in place and keeps the true size beside them.
    trained = (p for p in module.parameters() if p.requires_grad)
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in trained)
