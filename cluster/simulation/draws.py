"""Numbers by chance that belong to what they are drawn for, whatever is drawn before."""

from __future__ import annotations

import hashlib
import math


def uniform(*parts: object) -> float:
    """Return a number of [0, 1) that belongs to the parts.

    >>> uniform("a", 1) == uniform("a", 1) != uniform("a", 2)
    True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def normal(*parts: object) -> float:
    """Return a standard normal number that belongs to the parts (Box and Muller)."""
    radius = math.sqrt(-2 * math.log(1 - uniform("radius", *parts)))
    return radius * math.cos(2 * math.pi * uniform("angle", *parts))


def exponential(*parts: object) -> float:
    """Return an exponential number of mean 1 that belongs to the parts."""
    return -math.log(1 - uniform(*parts))
