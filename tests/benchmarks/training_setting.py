"""What both sides of the training benchmarks are given: a model folder, its sizes and texts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.config import EMBEDDED_MODEL

Triplet = tuple[str, str, str]  # a question, the passage that answers it, one that does not
Batch = Sequence[Triplet]

LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
TEMPERATURE = 0.05

SHAPES: dict[str, dict[str, Any]] = {  # of SmolLM2-135M and, all but its biases, Qwen2.5-1.5B
    "135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "1.5B": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model and the batches that it is trained on, the same for both sides."""

    model: str = EMBEDDED_MODEL  # or a folder
    num_layers: int | None = 6
    device: str = "cpu"
    kernel: str = "sdpa"  # transformers' name of the attention function
    batch_size: int = 16  # triplets
    max_tokens: int = 128


def batches(setting: Setting) -> Iterator[Batch]:
    """Yield batches without end, always the same ones; no text occurs twice in a batch."""
    triplets = _boolq() if setting.model == EMBEDDED_MODEL else _invented(setting.model)
    drawn = random.Random(0)
    while True:
        batch: list[Triplet] = []
        seen: set[str] = set()
        for triplet in drawn.sample(triplets, 4 * setting.batch_size):
            if len(batch) < setting.batch_size and seen.isdisjoint(triplet):
                batch.append(triplet)
                seen.update(triplet)
        yield batch


def _boolq() -> list[Triplet]:
    from trainables import boolq

    rows = boolq.load_training_rows()
    return [(row["query"], row["positive"], row["negatives"][0]) for row in rows]


def _invented(model: str) -> list[Triplet]:
    """Return texts of random words, one token each, with about the lengths that BoolQ has."""
    from transformers import AutoTokenizer

    words = sorted(AutoTokenizer.from_pretrained(model).get_vocab())
    words = [word for word in words if word.startswith("w")]
    drawn = random.Random(1)

    def text(middle: float) -> str:
        length = max(4, round(drawn.lognormvariate(0, 0.5) * middle))
        return " ".join(drawn.choices(words, k=length))

    return [(text(10), text(120), text(120)) for _ in range(2000)]


def write_random_model(shape: dict[str, Any], folder: Path, device: str) -> None:
    """Write a decoder with random weights in bf16 and a tokenizer with one token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    settings = LlamaConfig(**shape)
    with torch.device(device):
        AutoModel.from_config(settings, dtype=torch.bfloat16).save_pretrained(folder)
    vocabulary = {"<end>": 0, "<unknown>": 1}
    vocabulary |= {f"w{number}": number for number in range(2, settings.vocab_size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
