"""Where trials fit: how many at once, on how many CPU threads and which share of a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.config import ConfigError
from trainables.faults import check, number

TUNE_ACTOR_CPU = 0.01
CONFIRM_UNDER = ("tune", "train")  # what runs the trials of a confirmation

Node = tuple[int, int]  # its CPUs and GPUs


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

    def at_once(self) -> int:
        """Return how many trials fit on the nodes that are there now."""
        return self.fitting(alive())

    def fitting(self, nodes: Sequence[Node]) -> int:
        """Return how many trials fit on nodes.

        >>> Slots(num_workers=2, threads=2).fitting([(5, 0), (2, 0)])
        1
        >>> Slots(num_workers=1, threads=1, gpu=0.5, limit=3).fitting([(8, 1), (8, 1)])
        3
        """
        shares = int(1 / self.gpu + 1e-6) if self.gpu else 0  # of one GPU; none is of two
        places = sum(
            min(cpu // self.threads, gpu * shares) if shares else cpu // self.threads
            for cpu, gpu in nodes
        )
        fitting = places // self.num_workers
        return min(fitting, self.limit) if self.limit else fitting

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

    def bundles(self, needed_bytes: float = 0) -> list[dict[str, float]]:
        """Return the resources of a trial: its Tune actor, then each worker.

        The actor only waits; its share comes out of the workers', or the last trial would not fit.

        >>> Slots(num_workers=1, threads=2).bundles()
        [{'CPU': 0.01}, {'CPU': 1.99}]
        """
        worker: dict[str, float] = {"CPU": self.threads - TUNE_ACTOR_CPU / self.num_workers}
        if self.gpu:
            worker["GPU"] = self.share(needed_bytes)
        return [{"CPU": TUNE_ACTOR_CPU}] + [worker] * self.num_workers


def alive() -> list[Node]:
    """Return the nodes of the cluster."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]


def fit(
    nodes: Sequence[Node],
    num_workers: int,
    limit: int | None,
    gpus_per_worker: float | None = None,
) -> Slots:
    """Return how trials are placed on nodes.

    A worker stays on one node and has a GPU to itself where there are any, or the share of one
    that is given. On CPUs, workers have as many threads as so many of them at once can have.

    >>> fit([(16, 4), (8, 0)], 2, None)
    Slots(num_workers=2, threads=4, gpu=1, gpu_bytes=0, limit=None)

    Raises:
        ConfigError: If not one trial fits, or a GPU cannot be shared so.
    """
    gpus = [(cpu, gpu) for cpu, gpu in nodes if gpu]
    check({"gpus-per-worker": _share_fault(gpus_per_worker, len(gpus))})
    each = gpus_per_worker or 1
    shares = int(1 / each + 1e-6)
    places = sum(gpu * shares for _, gpu in gpus) if gpus else sum(cpu for cpu, _ in nodes)
    fitting = places // num_workers
    if not fitting:
        unit = "GPUs" if gpus else "CPUs"
        raise ConfigError(
            f"engine.num_workers: expected at most {places}, the cluster's {unit}, "
            f"got {num_workers}"
        )
    at_once = min(fitting, limit) if limit else fitting
    if gpus:
        threads = max(1, min(cpu // (gpu * shares) for cpu, gpu in gpus))
        return Slots(num_workers=num_workers, threads=threads, gpu=each, limit=limit)
    threads = max(cpu for cpu, _ in nodes)
    while sum(cpu // threads for cpu, _ in nodes) < at_once * num_workers:
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
