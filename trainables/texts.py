"""When two texts are the same, or nearly so: what keeps halves of data apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

NEAR = 0.6  # cosine of TF-IDF above which two paragraphs are revisions of, or quote, each other
_CHUNK = 1024


def normal(text: str) -> str:
    """Return the words of a text in lower case, so that spacing and punctuation do not matter.

    >>> normal("Is  it  TRUE?")
    'is it true'
    """
    return " ".join(re.findall(r"\w+", text.lower()))


def text_id(text: str) -> str:
    """Return the name of a text as an item: 12 hexadecimal digits of its normal form's SHA-256."""
    return hashlib.sha256(normal(text).encode()).hexdigest()[:12]


def by_hash(texts: Sequence[str], salt: str = "") -> list[int]:
    """Return positions in an order that looks random but is the same on every machine."""

    def key(position: int) -> bytes:
        return hashlib.sha256(f"{salt}\n{normal(texts[position])}".encode()).digest()

    return sorted(range(len(texts)), key=key)


def near_duplicates(texts: Sequence[str], reference: Sequence[str]) -> set[int]:
    """Return the positions of `texts` that are, or nearly are, among `reference`."""
    if not texts or not reference:
        return set()
    vectors = tfidf([*texts, *reference])
    columns = vectors[len(texts) :].T.tocsc()
    found: set[int] = set()
    for start in range(0, len(texts), _CHUNK):  # the whole product would not fit a small machine
        best = (vectors[start : min(start + _CHUNK, len(texts))] @ columns).max(axis=1).toarray()
        found |= {start + int(row) for row in np.flatnonzero(best.ravel() > NEAR)}
    return found


def distinct(texts: Sequence[str]) -> list[int]:
    """Return the positions of those texts that are near no earlier one that is kept."""
    if not texts:
        return []
    vectors = tfidf(texts)
    near = (vectors @ vectors.T).toarray() > NEAR
    kept: list[int] = []
    for position in range(len(texts)):
        if not near[position, kept].any():
            kept.append(position)
    return kept


def tfidf(texts: Sequence[str]) -> csr_matrix:
    """Return unit vectors [texts, words]; words in over a fifth of the texts do not count."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_df=0.2, dtype=np.float32)
    vectors: csr_matrix = vectorizer.fit_transform([normal(text) for text in texts]).tocsr()
    return vectors
