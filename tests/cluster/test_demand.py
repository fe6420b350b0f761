"""What an autoscaler is told, on a real Ray that has one to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.dispatch.demand import MOST, asked_for, wanted
from cluster.dispatch.slots import ClusterLostError, Slots

ROOT = Path(__file__).resolve().parent.parent.parent


def test_all_trials_left_are_wanted_up_to_the_limit() -> None:
    slots = Slots(num_workers=2, threads=4, gpu=1)
    assert len(wanted(slots, 3)) == 2 * 3
    assert sum(bundle["GPU"] for bundle in wanted(slots, 3)) == 6
    assert len(wanted(Slots(num_workers=1, threads=1, limit=2), 9)) == 2
    assert len(wanted(Slots(num_workers=1, threads=1), 10_000)) == MOST
    assert wanted(slots, 0) == []


def main() -> None:
    """Ask for nodes and print what was asked for: meanwhile, afterwards, without a cluster."""
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    from cluster.dispatch.tune import ray_cluster

    seen = []

    def look() -> None:
        seen.append(json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)))

    with ray_cluster(None):
        with asked_for([{"CPU": 2.0}]):
            look()
        look()
        try:
            with asked_for([{"CPU": 1.0}]):
                raise ClusterLostError
        except ClusterLostError:
            look()
    print(json.dumps(seen))  # noqa: T201


@pytest.mark.slow
def test_the_autoscaler_is_asked_until_the_trials_are_done() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.test_demand"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[{"CPU": 2.0}], [], [{"CPU": 1.0}]]


if __name__ == "__main__":
    main()
