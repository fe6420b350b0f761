"""Where trials fit: how many at once, on how many CPU threads and which share of a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.config import ConfigError
from trainables.faults import check, number

TUNE_ACTOR_CPU = 0.01
CONFIRM_UNDER = ("tune", "train")  # what runs the trials of a confirmation


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one machine has; the memory is None where it is not known."""

    cpus: int
    gpus: int = 0
    memory_bytes: float | None = None  # of a GPU where there are any, else of the machine


class ClusterLostError(RuntimeError):
    """This process has no Ray node any more."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How the trials of a study are placed; the number at once follows the cluster."""

    num_workers: int  # of each trial
    threads: int  # of each worker
    gpu: float = 0  # of each worker; 0 without GPUs
    gpu_bytes: float = 0  # the memory of the smallest one, where they are shared
    limit: int | None = None  # of trials at once

    def room(self, live: Sequence[float] = ()) -> int:
        """Return how many more trials fit on the nodes that are there now (see `fitting`)."""
        return self.fitting(alive(), live)

    def fitting(self, nodes: Sequence[Node], live: Sequence[float] = ()) -> int:
        """Return how many trials of the usual share fit on nodes beside those that are there.

        `live` has a worker's share in each of these. Where one of them cannot be placed, as its
        node is gone or its share too large for what is left, it is waited for: no other fits.

        >>> Slots(num_workers=2, threads=2).fitting([Node(cpus=5), Node(cpus=2)])
        1
        >>> shared = Slots(num_workers=1, threads=1, gpu=0.5, limit=3)
        >>> shared.fitting([Node(cpus=8, gpus=1)] * 2), shared.fitting([Node(cpus=8, gpus=1)], [1])
        (3, 0)
        """
        rooms = [_Room(node, self.threads) for node in nodes]
        for share in sorted(live, reverse=True):
            for _ in range(self.num_workers):
                if not any(room.take(share) for room in rooms):
                    return 0
        fitting = sum(room.places(self.gpu) for room in rooms) // self.num_workers
        return min(fitting, self.limit - len(live)) if self.limit else fitting

    def share(self, needed_bytes: float) -> float:
        """Return a worker's share of a GPU: as many times `gpu` as its memory takes, or all of it.

        >>> shared = Slots(num_workers=1, threads=1, gpu=0.25, gpu_bytes=80e9)
        >>> shared.share(20e9), shared.share(21e9), shared.share(90e9)
        (0.25, 0.5, 1.0)
        """
        if not self.gpu_bytes:
            return self.gpu
        times = max(1, math.ceil(needed_bytes / (self.gpu * self.gpu_bytes)))
        return min(1.0, times * self.gpu)

    def bundles(self, share: float | None = None) -> list[dict[str, float]]:
        """Return the resources of a trial whose workers have such a share: Tune's actor, workers.

        The actor only waits; its share comes out of the workers', or the last trial would not fit.

        >>> Slots(num_workers=1, threads=2).bundles()
        [{'CPU': 0.01}, {'CPU': 1.99}]
        """
        worker: dict[str, float] = {"CPU": self.threads - TUNE_ACTOR_CPU / self.num_workers}
        if self.gpu:
            worker["GPU"] = self.gpu if share is None else share
        return [{"CPU": TUNE_ACTOR_CPU}] + [worker] * self.num_workers


class _Room:
    """What is left of a node for workers of so many threads."""

    def __init__(self, node: Node, threads: int) -> None:
        self._workers = node.cpus // threads
        self._gpus = [1.0] * node.gpus

    def take(self, share: float) -> bool:
        """Place a worker, on the GPU that it fills best; return whether it fits."""
        fitting = [left for left in self._gpus if _times(left, share)] if share else []
        if not self._workers or (share and not fitting):
            return False
        self._workers -= 1
        if share:
            self._gpus[self._gpus.index(min(fitting))] -= share
        return True

    def places(self, share: float) -> int:
        """Return how many more workers fit."""
        if not share:
            return self._workers
        return min(self._workers, sum(_times(left, share) for left in self._gpus))


def _times(left: float, share: float) -> int:
    """Return how often a share is in what is left of one GPU; a worker has no parts of two."""
    return int(left / share + 1e-6)


def alive() -> list[Node]:
    """Return the nodes of the cluster that live."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        Node(
            cpus=int(has.get("CPU", 0)),
            gpus=int(has.get("GPU", 0)),
            memory_bytes=None if has.get("GPU") else has.get("memory"),
        )
        for has in found
    ]


def fit(
    nodes: Sequence[Node],
    num_workers: int,
    limit: int | None,
    gpus_per_worker: float | None = None,
) -> Slots:
    """Return how trials are placed on nodes.

    A worker stays on one node and has a GPU to itself where there are any, or the share of one
    that is given. On CPUs, workers have as many threads as so many of them at once can have.

    >>> fit([Node(cpus=16, gpus=4), Node(cpus=8)], 2, None)
    Slots(num_workers=2, threads=4, gpu=1, gpu_bytes=0, limit=None)

    Raises:
        ConfigError: If not one trial fits, or a GPU cannot be shared so.
    """
    with_gpus = [node for node in nodes if node.gpus]
    check({"gpus-per-worker": _share_fault(gpus_per_worker, len(with_gpus))})
    each = gpus_per_worker or 1
    shares = _times(1.0, each)
    gpus, cpus = sum(node.gpus for node in nodes), [node.cpus for node in nodes]
    places = gpus * shares if gpus else sum(cpus)
    fitting = places // num_workers
    if not fitting:
        unit = "GPUs" if gpus else "CPUs"
        raise ConfigError(
            f"engine.num_workers: expected at most {places}, the cluster's {unit}, "
            f"got {num_workers}"
        )
    if gpus:
        threads = max(1, min(node.cpus // (node.gpus * shares) for node in with_gpus))
        return Slots(num_workers=num_workers, threads=threads, gpu=each, limit=limit)
    at_once = min(fitting, limit) if limit else fitting
    threads = max(cpus)
    while sum(cpu // threads for cpu in cpus) < at_once * num_workers:
        threads -= 1
    return Slots(num_workers=num_workers, threads=threads, limit=limit)


def check_memory(slots: Slots, needed_bytes: float) -> None:
    """Refuse a share of a GPU whose memory the control does not fit in.

    Raises:
        ConfigError: With the share that it takes.
    """
    share = slots.share(needed_bytes)
    if share == slots.gpu:
        return
    raise ConfigError(
        f"gpus-per-worker: expected at least {share:.2g}, as the control takes about "
        f"{needed_bytes / 1e9:.1f} GB of a GPU's {slots.gpu_bytes / 1e9:.1f} GB, got {slots.gpu:g}"
    )


def _share_fault(share: float | None, num_gpus: int) -> str | None:
    """Return the fault of a worker's share of a GPU; Ray gives whole ones or parts of one."""
    if share is None:
        return None
    if not num_gpus:
        return f"expected none on a cluster without GPUs, got {share}"
    return number(share, above=0, at_most=1)
