"""Decoders in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainables.model import making


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from the name of a family to the folder of a small random decoder."""
    folders: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                making.decoder(family).save_pretrained(folders[family])
        return folders[family]

    return save


@pytest.fixture(scope="session")
def llama(saved: Callable[[str], Path]) -> Path:
    return saved("llama")
