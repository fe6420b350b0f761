"""Whether an exported folder gives the vectors of the run that it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from trainables.config import Precision
from trainables.exported.folder import max_tokens
from trainables.runs import Run

TOLERANCES: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.05}
TEXTS = (
    "",
    "Herons.",
    " Where do the herons of this river sleep, and who told you so?\n",
    "鷺は川で眠る: où dorment-ils, “près de l’eau”?",  # noqa: RUF001
)


class DifferenceError(RuntimeError):
    """An exported model is not the one that was trained."""


def vectors(run: Run) -> dict[str, Tensor]:
    """Return the embeddings of some texts under each instruction, one of them too long."""
    limit = max_tokens(run)
    texts = _texts(limit)
    instructions = {*dataclasses.asdict(run.config.instructions).values(), ""}
    return {given: run.encode(texts, limit, given) for given in sorted(instructions)}


def _texts(limit: int) -> list[str]:
    return [*TEXTS, "a heron and an otter " * limit]


def compare(
    folder: Path, expected: Mapping[str, Tensor], limit: int, precision: Precision
) -> float:
    """Return the largest difference of a number in an embedding.

    Raises:
        DifferenceError: If it is more than rounding explains.
    """
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(
        str(folder), device="cpu", trust_remote_code=True, local_files_only=True
    )
    worst = 0.0
    for instruction, wanted in expected.items():
        found = loaded.encode(
            _texts(limit), prompt=instruction, convert_to_tensor=True, show_progress_bar=False
        )
        if found.shape != wanted.shape:
            raise DifferenceError(
                f"vectors: expected shape {list(wanted.shape)}, got {list(found.shape)}"
            )
        worst = max(worst, (found.float() - wanted).abs().max().item())
    if not worst <= TOLERANCES[precision]:
        raise DifferenceError(
            f"vectors: expected the run's to {TOLERANCES[precision]:g} after "
            f"sentence-transformers has loaded them, got a difference of {worst:.2g}"
        )
    return worst
