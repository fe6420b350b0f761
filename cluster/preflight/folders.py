"""Folders that a study will write in, which need not be there yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def folder_fault(folder: Path) -> str | None:
    """Return why files cannot be made in a folder, which need not be there yet."""
    nearest = existing(folder)
    if not nearest.is_dir():
        return f"expected a folder, got a file at {nearest}"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"expected a folder that you may write in, got {nearest}; give another one"
    return None


def existing(path: Path) -> Path:
    """Return the nearest part of a path that exists."""
    return next(part for part in (path, *path.parents) if part.exists())


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk that holds, or will hold, a folder."""
    return shutil.disk_usage(existing(folder)).free
