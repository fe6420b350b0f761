"""Converts a GGUF file to bf16 safetensors: `python -m trainables.conversion FROM TO`.

FROM holds `model.gguf`; TO receives the model and its tokenizer. Loading GGUF takes a quarter of a
minute and 1.2 GB, the result half a second, so it is done once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers


def convert(source: Path, target: Path) -> None:
    """Write the model and tokenizer inside `source/model.gguf` to the folder `target`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModel.from_pretrained(
        source, gguf_file="model.gguf", dtype=torch.float32
    )
    _forget_gguf(model)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _forget_gguf(model: Any) -> None:
    """Detach the quantizer, whose mere presence makes transformers refuse to save."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
