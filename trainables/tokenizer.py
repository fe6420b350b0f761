"""Texts to token ids: the instruction first, the end-of-text token last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import AutoTokenizer

from trainables import assets
from trainables.config import EMBEDDED_MODEL, ConfigError, TrialConfig
from trainables.faults import check
from trainables.model.tokens import Padded


def locate(model: str) -> str:
    """Return what transformers loads `model` from: a folder, or a hub id as it stands."""
    return str(assets.model_folder()) if model == EMBEDDED_MODEL else model


Row = tuple[Sequence[int], int]
"""A text's token ids, and how many of them are of the instruction."""


class Tokenizer:
    """Texts to padded ids; each ends with the end-of-text token, which `last_token` reads."""

    def __init__(self, model: str) -> None:
        """Load the tokenizer of `model`.

        Raises:
            ConfigError: If there is none, or it has no end-of-text token.
        """
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(locate(model))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"backbone.model: expected a model with its tokenizer, got {model!r} ({reason})"
            ) from error
        self._tokenizer.truncation_side = "right"  # the instruction stands on the left
        self.end = self._tokenizer.eos_token_id
        if self.end is None:
            raise ConfigError(
                f"backbone.model: expected a tokenizer with an end-of-text token, got {model!r}"
            )
        padding = self._tokenizer.pad_token_id
        self.padding = self.end if padding is None else padding
        mask = self._tokenizer.mask_token_id
        # Stands for a hidden token; "_" for want of one, as in LLM2Vec (arXiv 2404.05961).
        tokenizer: Any = self._tokenizer
        self.hidden: int = tokenizer.convert_tokens_to_ids("_") if mask is None else mask

    def rows(self, texts: Sequence[str], max_tokens: int, instruction: str = "") -> list[Row]:
        """Return each text's token ids and how many of them are of the instruction.

        Instruction and text are tokenised as one string. A token that reaches into the text is the
        text's; what the tokenizer puts before the instruction is the instruction's. A row has at
        most `max_tokens` with the end-of-text token, which is never the instruction's.

        Raises:
            ConfigError: If the instruction leaves no room for the text.
        """
        encoded = self._tokenizer(
            [instruction + text for text in texts],
            truncation=True,
            max_length=max_tokens - 1,
            return_attention_mask=False,
            return_offsets_mapping=bool(instruction),
        )
        counts = [0] * len(texts)
        if instruction:
            counts = [_count(row, len(instruction)) for row in encoded["offset_mapping"]]
        if max(counts, default=0) >= max_tokens - 1:
            raise ConfigError(f"instructions: {self._too_long(instruction, max_tokens)}")
        rows = [self._ended(ids) for ids in encoded["input_ids"]]
        return [(row, min(count, len(row) - 1)) for row, count in zip(rows, counts, strict=True)]

    def fingerprint(self) -> str:
        """Return a hash of all that decides a text's ids."""
        tokenizer = self._tokenizer
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()  # it remembers how it was last called
            backend.no_padding()
            content = backend.to_str()
        else:
            content = json.dumps(tokenizer.get_vocab(), sort_keys=True)
        named = f"{type(tokenizer).__name__} {self.end} {content}"
        return hashlib.sha256(named.encode()).hexdigest()

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == [self.end] else [*ids, self.end]

    def _too_long(self, instruction: str, max_tokens: int) -> str:
        count = len(self._tokenizer(instruction)["input_ids"])
        return (
            f"expected less than {max_tokens - 1} tokens, as texts are cut at {max_tokens}, "
            f"got {count}: {instruction!r}"
        )

    def instruction_tokens(self, instruction: str, max_tokens: int) -> int:
        """Return how many tokens are of an instruction; the last may be joined with the text.

        Raises:
            ConfigError: If it leaves no room for a text.
        """
        return min(count for _, count in self.rows(["", "a"], max_tokens, instruction))

    def __call__(self, texts: Sequence[str], max_tokens: int, instruction: str = "") -> Padded:
        """Return the texts as one batch."""
        return pad(self.rows(texts, max_tokens, instruction), self.padding)


def pad(rows: Sequence[Row], padding: int) -> Padded:
    """Return tokenised texts as one batch, filled up on the right with the token id `padding`."""
    lengths = torch.tensor([[len(ids), count] for ids, count in rows])
    places = torch.arange(int(lengths[:, 0].max()))
    ids = torch.full((len(rows), len(places)), padding)
    for number, (row, _) in enumerate(rows):
        ids[number, : len(row)] = torch.as_tensor(row)
    return Padded(ids, places < lengths[:, :1], places < lengths[:, 1:])


def check_instructions(config: TrialConfig) -> None:
    """Refuse instructions that leave no room for a text, or too little for what is done with them.

    Raises:
        ConfigError: With every fault, by the part that the text plays.
    """
    given = {role: text for role, text in _written(config).items() if text}
    if not given:
        return
    tokenizer = Tokenizer(config.backbone.model)
    counts: list[int] = []
    faults: dict[str, str | None] = {}
    for field, instruction in given.items():
        name, most = _limit(config, field)
        try:
            counts.append(tokenizer.instruction_tokens(instruction, most))
        except ConfigError as error:
            fault = str(error).removeprefix("instructions: ")
            faults[field] = f"{fault}; shorten it or raise {name}"
    if config.attention.mask == "prefix" and not faults and max(counts) < 2:
        faults["attention.mask"] = (
            "expected an instruction of two tokens or more with 'prefix', got one: it would be "
            "causal"
        )
    check(faults)


def _written(config: TrialConfig) -> dict[str, str | None]:
    """Return all instructions by their fields; None where a data set has none of its own."""
    written: dict[str, str | None] = {
        f"instructions.{role}": text for role, text in asdict(config.instructions).items()
    }
    for place, data in enumerate(config.training.data):
        written[f"training.data.{place}.query_instruction"] = data.query_instruction
        written[f"training.data.{place}.document_instruction"] = data.document_instruction
    return written


def _limit(config: TrialConfig, field: str) -> tuple[str, int]:
    """Return the setting that texts with an instruction are cut at, and its value."""
    training, scored = config.training, ("evaluation.max_tokens", config.evaluation.max_tokens)
    role = field.rpartition(".")[2].removesuffix("_instruction")
    if role == "query":
        return "training.max_query_tokens", training.max_query_tokens
    passages = ("training.max_passage_tokens", training.max_passage_tokens)
    return scored if role == "other" else min(passages, scored, key=lambda limit: limit[1])


def _count(offsets: Sequence[tuple[int, int]], length: int) -> int:
    """Return how many leading tokens end within the first `length` characters."""
    count = 0
    for _, end in offsets:
        if end > length:
            break
        count += 1
    return count
