"""Which data sets a trial is trained on, how often each has its turn, and with what instructions.

It imports the configuration for its types alone: `trainables/config.py` is made of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainables.faults import check, number, some_text, text_or_none

if TYPE_CHECKING:
    from trainables.config import InstructionConfig

EMBEDDED_TRAIN_DATA = "boolq"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """One data set: its columns are query, positive and negatives."""

    name: str = EMBEDDED_TRAIN_DATA  # or a JSONL/parquet file, `datasets` folder, hub id
    weight: float = 1.0  # of its share of the steps, relative to the others'
    query_instruction: str | None = None  # None: `instructions.query`
    document_instruction: str | None = None  # None: `instructions.document`

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "name": some_text(self.name),
                "weight": number(self.weight, above=0),
                "query_instruction": text_or_none(self.query_instruction),
                "document_instruction": text_or_none(self.document_instruction),
            }
        )


def fault(data: object) -> str | None:
    """Return the fault if `data` is not a tuple of data sets, at least one, each by its name."""
    if not isinstance(data, tuple) or not all(isinstance(each, DataConfig) for each in data):
        return f"expected a list of data sets, got {data!r}"
    if not data:
        return "expected at least one data set, got none"
    names = [each.name for each in data]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return f"expected each data set once, got {', '.join(repeated)} again" if repeated else None


def shares(data: Sequence[DataConfig]) -> list[float]:
    """Return which part of the steps each data set has, rounded so that equal ratios are equal.

    >>> shares([DataConfig(name="a", weight=0.3), DataConfig(name="b", weight=0.9)])
    [0.25, 0.75]
    """
    total = sum(each.weight for each in data)
    return [round(each.weight / total, 12) for each in data]


def instructions_of(given: DataConfig, usual: InstructionConfig) -> InstructionConfig:
    """Return what is written before the texts of a data set."""
    query, document = given.query_instruction, given.document_instruction
    return replace(
        usual,
        query=usual.query if query is None else query,
        document=usual.document if document is None else document,
    )
