"""Programs of the tests that run in a process of their own, with a Ray of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def run(module: str, *arguments: object, timeout_s: float) -> Any:
    """Run `python -m tests.cluster.MODULE`; return what its last line says, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.cluster.{module}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
