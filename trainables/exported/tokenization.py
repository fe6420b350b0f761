"""The tokenizer of an exported model, which ends each text as `trainables.tokenizer` does."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trainables.config import ConfigError
from trainables.tokenizer import locate


def ending_tokenizer(model: str, max_tokens: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of `model` with the end-of-text token in its post-processing.

    It pads on the right and cuts texts where ours does, of which one that adds the token itself
    gets one token less.

    Raises:
        ConfigError: If the model has no tokenizer of the `tokenizers` library.
    """
    ours: Any = AutoTokenizer.from_pretrained(locate(model))
    if not ours.is_fast:
        raise ConfigError(
            "backbone.model: expected a tokenizer of the `tokenizers` library, "
            f"got {model!r} with {type(ours).__name__}"
        )
    backend, is_new = _ended(ours.backend_tokenizer, ours.eos_token)
    tokens = {name: token for name, token in ours.special_tokens_map.items() if token}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{**tokens, "pad_token": ours.pad_token or ours.eos_token},
        model_max_length=max_tokens if is_new else max_tokens - 1,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def _ended(backend: Backend, end: str) -> tuple[Backend, bool]:
    """Return a copy of `backend` that ends texts with `end`, and whether that is new."""
    backend = Backend.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    before, after = _added(backend)
    if after[-1:] == [end]:
        return backend, False
    added = {token: backend.token_to_id(token) for token in (*before, *after, end)}
    pieces = [*before, "$A", *after, end]
    template = {
        "type": "TemplateProcessing",
        "single": [_piece(name, "A", 0) for name in pieces],
        "pair": [_piece(n, s, i) for i, s in enumerate("AB") for n in pieces],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in added.items()
        },
    }
    content = json.loads(backend.to_str())
    kept = [part for part in _parts(content["post_processor"]) if part["type"] == "ByteLevel"]
    content["post_processor"] = {"type": "Sequence", "processors": [*kept, template]}
    return Backend.from_str(json.dumps(content)), True


def _added(backend: Backend) -> tuple[list[str], list[str]]:
    """Return the special tokens that are put before and behind a text."""
    bare = backend.encode("a", add_special_tokens=False).tokens
    whole = backend.encode("a").tokens
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _parts(post_processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    if post_processor is None:
        return []
    parts: list[dict[str, Any]] = post_processor.get("processors", [post_processor])
    return parts


def _piece(name: str, sequence: str, number: int) -> dict[str, Any]:
    if name == "$A":
        return {"Sequence": {"id": sequence, "type_id": number}}
    return {"SpecialToken": {"id": name, "type_id": number}}
