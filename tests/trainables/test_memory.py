"""What torch's CPU products keep for each shape, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainables.memory import PRODUCT_CACHES, bound_caches

NUM_SHAPES = 400
PROGRAM = f"""
import sys
from trainables.memory import bound_caches
if sys.argv[1] == "bounded":
    bound_caches()
import psutil, torch
weight = torch.randn(256, 256, dtype=torch.bfloat16)
torch.randn(1, 256, dtype=torch.bfloat16) @ weight
before = psutil.Process().memory_info().rss
for rows in range(2, {NUM_SHAPES}):
    torch.randn(rows, 256, dtype=torch.bfloat16) @ weight
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def growth(kind: str) -> int:
    """Return by how many MiB products of many shapes make a process grow."""
    kept = {name: value for name, value in os.environ.items() if name not in PRODUCT_CACHES}
    command = [sys.executable, "-c", PROGRAM, kind]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=kept)
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shapes() -> None:
    usual = growth("usual")
    if usual < 20:
        pytest.skip("this machine's products keep nothing worth bounding")
    assert growth("bounded") < usual / 2


def test_a_users_own_bound_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PRODUCT_CACHES:
        monkeypatch.setenv(name, "7")
    bound_caches()
    assert {os.environ[name] for name in PRODUCT_CACHES} == {"7"}
