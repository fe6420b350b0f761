"""What designs must know of a decoder before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Numbers from a decoder's own settings."""

    depth: int  # layers that are kept
    width: int
    num_heads: int
    num_key_value_heads: int
    windows: tuple[int | None, ...] = ()  # of each layer; () where no layer has one


EMBEDDED = Shape(depth=6, width=576, num_heads=9, num_key_value_heads=3)  # as it is cut by default
