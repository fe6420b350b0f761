"""One evaluation by all workers of a trial: the first scores, and all of them encode its texts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist

from trainables import packing
from trainables.tokenizer import Row

Result = TypeVar("Result")
Floats = NDArray[np.float32]
PATIENCE = timedelta(days=1)

Encoder = Callable[..., Floats]  # takes texts, their role and more, and returns [texts, dim]


class WorkerError(RuntimeError):
    """Another worker of the trial could not do its part; all raise it together."""


@dataclass(frozen=True, slots=True)
class Team:
    """This worker among those of a trial.

    `alike` has all of them make equally many calls of a module, as ZeRO stage 3 needs.
    """

    rank: int = 0
    size: int = 1
    alike: bool = False

    def pack(self, rows: Sequence[Row], mini_batch_tokens: int, padding: int) -> packing.Packed:
        """Return this worker's share of tokenised texts in mini-batches.

        All have equally many texts, some the last one again, and equally many mini-batches.
        """
        filled = [*rows, *[rows[-1]] * (-len(rows) % self.size)]
        shares = [filled[rank :: self.size] for rank in range(self.size)]
        lengths = [[len(ids) for ids, _ in share] for share in shares]
        number = max(packing.num_mini_batches(each, mini_batch_tokens) for each in lengths)
        blocks = packing.num_equal_blocks(lengths, number) if self.alike else None
        return packing.pack(shares[self.rank], number, padding, blocks)

    def gather(self, compute: Callable[[], torch.Tensor], number: int) -> torch.Tensor:
        """Return the vectors [number, dim] of all shares, in the order of the texts.

        Raises:
            WorkerError: On all workers, if `compute` raised on another one.
        """
        if self.size == 1:
            return compute()
        error, own = None, None
        try:
            own = compute().float().contiguous()
        except Exception as raised:  # told to the others first, which would wait for ever
            error = raised
        wrong: list[str | None] = [None] * self.size
        dist.all_gather_object(
            wrong, None if error is None else f"{type(error).__name__}: {error}"
        )
        if error is not None:
            raise error
        if own is None or any(wrong):
            found = "; ".join(f"worker {rank}: {why}" for rank, why in enumerate(wrong) if why)
            raise WorkerError(found)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.stack(parts, dim=1).flatten(0, 1)[:number]

    def work(
        self,
        encode: Encoder,
        score: Callable[[Encoder], Result],
        summary: Callable[[Result], Result],
    ) -> Result:
        """Return `score(encode)` on the first worker; the others only encode when it does.

        Args:
            encode: Is called on all workers with the same arguments.
            score: Does all else, such as loading tasks, on the first worker alone.
            summary: What the others return of its result.

        Raises:
            WorkerError: On the others, if the first one raised.
        """
        if self.size == 1:
            return score(encode)
        if self.rank > 0:
            return _follow(encode)  # type: ignore[no-any-return]

        def encode_together(*arguments: Any, **named: Any) -> Floats:
            _tell(_Call(arguments, named))
            return encode(*arguments, **named)

        try:
            result = score(encode_together)
        except Exception as error:
            _tell(WorkerError(f"worker 0: {type(error).__name__}: {error}"))
            raise
        _tell(summary(result))
        return result


ALONE = Team()


@dataclass(frozen=True, slots=True)
class _Call:
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def _follow(encode: Encoder) -> Any:
    """Encode whatever the first worker does; return its result."""
    while isinstance(told := _hear(), _Call):
        with contextlib.suppress(Exception):  # the first worker raises too, and deals with it
            encode(*told.arguments, **told.named)
    if isinstance(told, WorkerError):
        raise told
    return told


@functools.cache
def _line() -> dist.ProcessGroup:
    """Return a group to wait in for as long as the first worker loads and scores."""
    line: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
    return line


def _tell(what: Any) -> None:
    dist.broadcast_object_list([what], src=0, group=_line())


def _hear() -> Any:
    heard: list[Any] = [None]
    dist.broadcast_object_list(heard, src=0, group=_line())
    return heard[0]
