"""Where trials of the tests stand, and the workers that run them.

A module that needs more in the folder has a fixture `root` of its own; the workers follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a machine that only has a GPU has no deepspeed, which workers import
    from tests.trainables.workers import Group


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_pairs: Path) -> Path:
    """Return a folder with the tiny model and its pairs, by names that give equal digests."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "model").symlink_to(tiny_model)
    (folder / "pairs.jsonl").symlink_to(tiny_pairs)
    return folder


@pytest.fixture(scope="module")
def one(root: Path) -> Iterator[Group]:
    """Yield a group of one worker."""
    from tests.trainables.workers import opened

    with opened(1, root) as group:
        yield group


@pytest.fixture(scope="module")
def two(root: Path) -> Iterator[Group]:
    """Yield a group of two workers."""
    from tests.trainables.workers import opened

    with opened(2, root) as group:
        yield group
