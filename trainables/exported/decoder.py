"""The decoder of an exported model: its adapter, and itself with the adapter merged."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from trainables.build import lora_settings
from trainables.config import EMBEDDED_MODEL, TrialConfig
from trainables.runs import Run

EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
DECODER = "backbone.decoder."
NAME = ".default."  # of the one adapter, which PEFT's files leave out
PEFT = "base_model.model."


def base_name(config: TrialConfig) -> str:
    """Return the name of the decoder that was trained, on the hub where it is there."""
    model = config.backbone.model
    return EMBEDDED_ON_HUB if model == EMBEDDED_MODEL else model


def write_adapter(run: Run, folder: Path) -> None:
    """Write the adapter as PEFT does, before it is merged."""
    settings: LoraConfig = lora_settings(run.config.lora)
    settings.base_model_name_or_path = base_name(run.config)
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    tensors = {
        PEFT + name.removeprefix(DECODER).replace(NAME, "."): p.detach().contiguous()
        for name, p in run.embedder.named_parameters()
        if "lora_" in name
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def merge(decoder: nn.Module) -> None:
    """Put the adapter into the decoder's own projections, in place."""
    for name, module in list(decoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            decoder.set_submodule(name, module.get_base_layer())
    del decoder.peft_config
