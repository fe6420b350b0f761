"""A trial shows that it goes on, by the time of a file in its folder, whoever may look."""

from __future__ import annotations

from pathlib import Path

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
