"""When memory runs out: how many tokens go through the model at once, halved until they fit.

GradCache makes the gradient the same whatever that number is. It is kept in the trial's folder, so
that a trial which is started again does not run into the same wall.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import torch

from trainables.engine import MiniBatchHalvedError, TrainingError

PRODUCT_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
NUM_PRODUCTS = 64  # shapes that each of them keeps, some 0.5 MB for one; 1024 unless told
_CPU = "can't allocate memory"  # torch raises a plain error where a CPU has none left

_log = logging.getLogger(__name__)


def bound_caches() -> None:
    """Bound what torch's CPU products keep for each shape; call it before the process has any.

    Packed rows have other shapes in each step; by default memory grows by some 100 MB a step until
    each cache holds 1024. What a user has set stays.
    """
    for name in PRODUCT_CACHES:
        os.environ.setdefault(name, str(NUM_PRODUCTS))


class Memory:
    """How many tokens a trial takes through the model at once."""

    def __init__(self, file: Path, mini_batch_tokens: int) -> None:
        """Start from what `file` keeps, or else from `mini_batch_tokens`."""
        self._file = file
        kept = json.loads(file.read_text()) if file.is_file() else {}
        self.mini_batch_tokens: int = kept.get("mini_batch_tokens", mini_batch_tokens)

    def halve(self, name: str, num_tokens: int, *, can_halve: bool) -> TrainingError:
        """Take half of the `num_tokens` that were too many at the step `name`; return the error.

        It is a `MiniBatchHalvedError` if fewer may fit, and another if one text is too much.
        """
        if not can_halve:
            return TrainingError(
                f"memory: expected enough for one text at a time at {name}, got too little; set "
                "training.gradient_checkpointing=true or cut the texts shorter"
            )
        self.mini_batch_tokens = max(1, min(num_tokens, self.mini_batch_tokens) // 2)
        partial = self._file.with_suffix(f".{os.getpid()}.partial")  # another worker may lack too
        partial.write_text(json.dumps({"mini_batch_tokens": self.mini_batch_tokens}))
        partial.replace(self._file)
        text = (
            f"out of memory at {name} with {num_tokens} tokens in a forward pass: going on from "
            f"the last checkpoint with {self.mini_batch_tokens}"
        )
        _log.warning("%s", text)
        return MiniBatchHalvedError(text)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch raised it for want of memory."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU in str(error)
