"""A trial shows that it goes on, by the time of a file in its folder, whoever may look."""

from __future__ import annotations

import time
from pathlib import Path

HANG_TIMEOUT_S = 3600.0  # without a step or a scored batch, where steps are no slower than minutes
SLOW = 20  # times the longest step so far that a trial may be silent, if that is more
_FILE = "heartbeat"


def beat(folder: Path) -> None:
    """Show that the trial in `folder` goes on: before every step, and every batch for a score."""
    (folder / _FILE).touch()


def last_beat(folder: Path) -> float | None:
    """Return when it last did, by the clock of whoever keeps the folder; None if never."""
    try:
        return (folder / _FILE).stat().st_mtime
    except OSError:
        return None


class Watch:
    """Tells whoever waits for a trial how long it has been silent, and how long it may be."""

    def __init__(self, folder: Path, timeout_s: float | None = None) -> None:
        """Watch the trial in `folder`; without a `timeout_s` it follows the trial's own pace."""
        self._folder = folder
        self._timeout_s = timeout_s
        self._known = last_beat(folder)  # of an earlier attempt, if there is one
        self._has_begun = False
        self._slowest_s = 0.0  # between two beats
        self._since = time.monotonic()

    @property
    def timeout_s(self) -> float:
        """The seconds of silence after which the trial counts as dead."""
        if self._timeout_s is not None:
            return self._timeout_s
        return max(HANG_TIMEOUT_S, SLOW * self._slowest_s)

    def begin(self) -> None:
        """Wait from now on."""
        self._listen()
        self._since = time.monotonic()

    def is_hung(self) -> bool:
        """Look at the trial; return whether it has been silent for too long."""
        if self._listen():
            self._since = time.monotonic()
        return time.monotonic() - self._since > self.timeout_s

    def _listen(self) -> bool:
        """Return whether the heart has beaten since the last time."""
        before, self._known = self._known, last_beat(self._folder)
        if self._known == before or self._known is None:
            return False
        if self._has_begun and before is not None:
            self._slowest_s = max(self._slowest_s, self._known - before)
        self._has_begun = True
        return True
