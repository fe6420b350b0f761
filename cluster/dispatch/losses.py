"""When a trial whose processes die, or that hangs, is not started again.

A trial that is lost goes on from its checkpoint. Each loss counts, until a new report shows that
it gets on; but one that hits several trials, or comes with the death of a node, is not its fault.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

TOGETHER_S = 10.0  # between losses of several trials that have one cause
NODE_S = 60.0  # between a loss and the death of a node that explains it; Ray notices either late
EXCUSED = 4  # times the limit: so many in a row fail a trial, whoever is at fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How much is waited for."""

    losses: int = 3  # of its own, in a row without a new report: the last one fails the trial
    hang_timeout_s: float | None = None  # see `trainables.heartbeat.Watch`


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loss:
    number: int  # the trial's
    when: float
    is_first: bool  # since the trial's last new report


@dataclass
class Losses:
    """What has been lost in one act, and with what.

    >>> losses = Losses(limit=2)
    >>> losses.is_last(7), losses.is_last(7)
    (False, True)
    """

    limit: int
    nodes: Callable[[], Collection[str]] = tuple  # those that live, by name
    clock: Callable[[], float] = time.monotonic
    _lost: list[_Loss] = field(default_factory=list)
    _died: list[float] = field(default_factory=list)  # when nodes did
    _there: frozenset[str] = frozenset()
    _reached: dict[int, tuple[float, float]] = field(default_factory=dict)  # a step, and when

    def __post_init__(self) -> None:
        """Note the nodes that are there."""
        self._there = frozenset(self.nodes())

    def look(self) -> None:
        """See whether nodes have died; call it now and then."""
        now_there = frozenset(self.nodes())
        if self._there - now_there:
            self._died.append(self.clock())
        self._there = now_there

    def reported(self, number: int, step: float) -> None:
        """Forget a trial's losses if it is further than it ever was."""
        furthest, _ = self._reached.get(number, (-math.inf, 0.0))
        if step > furthest:
            self._reached[number] = step, self.clock()

    def is_last(self, number: int) -> bool:
        """Note a loss of a trial; return whether the trial is not to be started again."""
        self.look()
        is_first = not self._in_a_row(number)
        self._lost.append(_Loss(number=number, when=self.clock(), is_first=is_first))
        own = self._in_a_row(number)
        counted = [loss for loss in own if not self._is_shared(loss)]
        return len(counted) >= self.limit or len(own) >= EXCUSED * self.limit

    def num_in_a_row(self, number: int) -> int:
        """Return how often a trial was lost since its last new report."""
        return len(self._in_a_row(number))

    def _in_a_row(self, number: int) -> list[_Loss]:
        _, since = self._reached.get(number, (0.0, -math.inf))
        return [loss for loss in self._lost if loss.number == number and loss.when >= since]

    def _is_shared(self, loss: _Loss) -> bool:
        """Return whether a loss has a cause outside its trial.

        Two trials that are lost again and again do not excuse each other.
        """
        firsts = (o.when for o in self._lost if o.is_first and o.number != loss.number)
        together = any(abs(first - loss.when) <= TOGETHER_S for first in firsts)
        return together or any(abs(death - loss.when) <= NODE_S for death in self._died)
