"""What scores a model sees of it: a function from texts to vectors, and how ours is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables import packing
from trainables.model.tokens import Padded
from trainables.team import ALONE, Team
from trainables.tokenizer import Tokenizer

Floats = NDArray[np.float32]

Encode = Callable[[list[str], str | None], Floats]
"""From texts and their role ("query", "document" or None) to embeddings [texts, dim]."""

HANDED_OVER = 1 << 16  # texts that an encoder of ours receives at a time
TOGETHER = 2048  # texts that are tokenised at a time, while those before them are encoded


def encode_texts(
    encode: Encode, texts: Sequence[str], role: str | None, batch_size: int
) -> Floats:
    """Return the embeddings [texts, dim], encoded in batches of similar length, longest first.

    Raises:
        ValueError: If an embedding is not finite or the shape is wrong: mteb would make a number
            of it that means nothing.
    """
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    batches = []
    for start in range(0, len(order), batch_size):
        batch = [texts[place] for place in order[start : start + batch_size]]
        batches.append(_checked(encode(batch, role), len(batch)))
    inverse = np.argsort(order)
    embeddings: Floats = np.concatenate(batches)[inverse]
    return embeddings


def encode_packed(
    embed: Callable[[list[Padded]], torch.Tensor],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int,
    instruction: str = "",
    mini_batch_tokens: int,
    device: torch.device,
    team: Team = ALONE,
) -> Floats:
    """Return the embeddings [texts, dim] of texts packed by their tokens, next to nothing padded.

    They are those of padded batches, to rounding.

    Args:
        embed: From blocks of texts of like length to the embeddings of all, in their order.
        tokenizer: The model's.
        texts: At least one; best sorted by length if they are many.
        max_tokens: At which a text is cut.
        instruction: Written before each.
        mini_batch_tokens: In one call of `embed`; a longer text comes alone.
        device: Of the model.
        team: The workers that call this together with the same texts; each embeds its share.
    """
    chunks = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]

    def packed(chunk: Sequence[str]) -> packing.Packed:
        rows = tokenizer.rows(chunk, max_tokens, instruction)
        return team.pack(rows, mini_batch_tokens, tokenizer.padding)

    def embedded(part: packing.Packed) -> torch.Tensor:
        here = part.to(device)
        return torch.cat([embed(blocks) for blocks in here.mini_batches])[here.order].float()

    vectors = [
        team.gather(partial(embedded, part), len(chunk)).cpu().numpy()
        for chunk, part in zip(chunks, _ahead(packed, chunks), strict=True)
    ]
    return np.concatenate(vectors)


def _ahead(
    packed: Callable[[Sequence[str]], packing.Packed], chunks: Sequence[Sequence[str]]
) -> Iterator[packing.Packed]:
    """Yield the packed chunks, the next one being made in a thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(packed, chunks[0])
        for chunk in chunks[1:]:
            here, coming = coming.result(), pool.submit(packed, chunk)
            yield here
        yield coming.result()


def unit(embeddings: Any) -> Floats:
    """Return the rows scaled to length 1; rows of zeros stay."""
    array = np.asarray(embeddings, dtype=np.float32)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    scaled: Floats = (array / np.where(norms == 0, 1, norms)).astype(np.float32)
    return scaled


def _checked(embeddings: Any, num_texts: int) -> Floats:
    array = np.asarray(embeddings, dtype=np.float32)
    if array.ndim != 2 or len(array) != num_texts:
        raise ValueError(f"embeddings: expected shape [{num_texts}, dim], got {list(array.shape)}")
    num_bad = int((~np.isfinite(array)).any(axis=1).sum())
    if num_bad:
        raise ValueError(f"embeddings: expected finite numbers, got {num_bad} texts with others")
    return array
