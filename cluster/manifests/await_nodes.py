"""Wait until a Ray cluster has so many nodes: python -m cluster.manifests.await_nodes HOST:PORT N.

It runs on one of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

TIMEOUT_S = 300.0
PAUSE_S = 1.0


def await_nodes(address: str, wanted: int, timeout_s: float = TIMEOUT_S) -> int:
    """Return how many nodes are there, when they are `wanted` or the time is up."""
    import ray

    from cluster.dispatch.slots import alive
    from cluster.dispatch.tune import ray_cluster
    from cluster.preflight.storages import server_fault

    deadline = time.monotonic() + timeout_s
    while server_fault(f"ray://{address}"):  # Ray itself would try for minutes
        if time.monotonic() > deadline:
            return 0
        time.sleep(PAUSE_S)
    with ray_cluster(address):
        while len(alive()) < wanted and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        return len([node for node in ray.nodes() if node["Alive"]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    address, wanted = argv or sys.argv[1:]
    found = await_nodes(address, int(wanted))
    if found >= int(wanted):
        return 0
    sys.stderr.write(f"expected {wanted} Ray nodes within {TIMEOUT_S:g} s, got {found}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
