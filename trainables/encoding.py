"""What scores a model sees of it: a function from texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Encode = Callable[[list[str], str | None], Floats]
"""From texts and their role ("query", "document" or None) to embeddings [texts, dim]."""


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
