"""Faults of several checks, so that a person mends them all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from trainables.config import ConfigError

T = TypeVar("T")


class Faults:
    """Collects the faults of several checks."""

    def __init__(self) -> None:
        """Start without a fault."""
        self.lines: list[str] = []

    def during(self, check: Callable[[], T]) -> T | None:
        """Run a check; return what it returns, or None after noting its faults."""
        try:
            return check()
        except ConfigError as error:
            self.note(str(error).splitlines())
            return None

    def note(self, lines: Iterable[str]) -> None:
        """Note faults, each once."""
        self.lines += [line for line in dict.fromkeys(lines) if line not in self.lines]

    def refuse(self) -> None:
        """Raise all faults together, if there are any."""
        if self.lines:
            raise ConfigError("\n".join(self.lines))
