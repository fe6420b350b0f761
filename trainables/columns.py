"""Reads a data set's columns at once.

`datasets` hands a column out as a view that reads every value from Arrow by itself, some fifty
microseconds each; mteb goes over labels dozens of times for each of its fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from datasets.arrow_dataset import Column


@contextmanager
def columns_at_once() -> Iterator[None]:
    """Have `dataset["name"]` be a list within, as it was before `datasets` 4."""
    read = Dataset.__getitem__

    def at_once(self: Dataset, key: Any) -> Any:
        found = read(self, key)
        return found[:] if isinstance(found, Column) else found

    Dataset.__getitem__ = at_once
    try:
        yield
    finally:
        Dataset.__getitem__ = read
