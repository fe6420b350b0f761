"""A data set's columns as lists, for as long as they are asked to be."""

from __future__ import annotations

import pytest
from datasets import Dataset
from datasets.arrow_dataset import Column

from trainables.columns import columns_at_once


def test_columns_are_lists_within_and_views_again_after_an_error() -> None:
    rows = Dataset.from_dict({"label": [3, 1, 2], "text": ["a", "b", "c"]})

    def read() -> None:
        with columns_at_once():
            assert isinstance(rows["label"], list)
            assert rows["label"] == [3, 1, 2]
            assert rows.select([2, 0])["text"] == ["c", "a"]
            assert rows[1] == {"label": 1, "text": "b"}
            assert rows[:2] == {"label": [3, 1], "text": ["a", "b"]}
            rows["none"]

    with pytest.raises(ValueError, match="'none' doesn't exist"):
        read()
    assert isinstance(rows["label"], Column)
