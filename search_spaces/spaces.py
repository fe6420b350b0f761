"""The spaces by name, as `--space` takes them."""

from __future__ import annotations

from search_spaces.ablations import attention, joint, pooling
from search_spaces.drawing import Space
from search_spaces.literature import literature

SPACES: dict[str, Space] = {
    "attention": attention,
    "pooling": pooling,
    "joint": joint,
    "literature": literature,
}
