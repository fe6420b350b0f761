"""A hundred early stops leave nothing behind."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.programs import run

STOPS = 100
SETTLE_S = 60.0  # for Ray to end what it has put down, on a busy machine


def counts() -> dict[str, int]:
    """Return what this process, its Ray and its actors hold."""
    import ray

    own = psutil.Process()
    family = own.children(recursive=True)
    (raylet,) = (p for p in family if p.name() == "raylet")
    groups = ray.util.placement_group_table().values()
    busy = [p for p in raylet.children() if not p.name().startswith("ray::IDLE")]
    return {
        "placement groups": sum(group["state"] != "REMOVED" for group in groups),
        "the raylet's processes but idle ones": len(busy),
        "zombies": sum(p.status() == psutil.STATUS_ZOMBIE for p in family),
        "the driver's files": own.num_fds(),
        "the raylet's files": raylet.num_fds(),
    }


def main(folder: Path) -> None:
    """Print what is held after two short searches, the second one with all the stops."""
    from cluster.dispatch.tune import ray_cluster
    from tests.cluster import formula

    os.environ[formula.STEP_S] = "0"
    with ray_cluster(None):
        formula.search(folder / "first", 5, pruner=formula.StopAll())
        time.sleep(5)
        before = after = counts()
        formula.search(folder / "second", STOPS, pruner=formula.StopAll())
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            after = counts()
            if all(after[name] <= number for name, number in before.items()):
                break
            time.sleep(0.5)
    stopped = sum(state == "PRUNED" for _, state, *_ in formula.table(folder / "second"))
    print(json.dumps([before, after, stopped]))  # noqa: T201


@pytest.mark.slow
def test_a_hundred_early_stops(tmp_path: Path) -> None:
    before, after, stopped = run("test_leaks", tmp_path, timeout_s=400)
    assert stopped == STOPS
    assert before["placement groups"] == after["placement groups"] == 0
    assert {name: after[name] for name in before if after[name] > before[name]} == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
