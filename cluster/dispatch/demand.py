"""What a search would like to have of a cluster that grows.

It never asks Ray for more trials than fit on the nodes that are there, so an autoscaler would see
nothing to grow for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.dispatch.slots import ClusterLostError, Slots

MOST = 256  # trials at once that are asked for; an autoscaler has a limit of its own


def wanted(slots: Slots, num_left: int) -> list[dict[str, float]]:
    """Return the resources that all trials left would take at once.

    >>> wanted(Slots(num_workers=1, threads=2, gpu=1, limit=2), 9)
    [{'CPU': 1.99, 'GPU': 1}, {'CPU': 1.99, 'GPU': 1}]
    """
    trials = min(num_left, slots.limit or MOST, MOST)
    _, *workers = slots.bundles()
    return workers * trials


@contextmanager
def asked_for(bundles: list[dict[str, float]]) -> Iterator[None]:
    """Ask the autoscaler, if there is one, for so much until the block is left."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
    listens = True
    try:
        yield
    except ClusterLostError:
        listens = False
        raise
    finally:
        if listens:
            request_resources(bundles=[])
