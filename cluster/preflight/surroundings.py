"""What a study finds around it: folders, MLflow, nodes; all asked before a trial starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from cluster.dispatch.losses import Patience
from cluster.dispatch.slots import Node, alive, fit
from cluster.dispatch.tune import gpu_bytes, ray_cluster
from cluster.observers.bill import Budget
from cluster.preflight import storages
from cluster.preflight.storages import PORTS, server_fault, sqlite_fault
from trainables.faults import check

LOCAL_STORES = "MLFLOW_ALLOW_FILE_STORE"  # MLflow's own word for plain folders


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a study runs."""

    outputs: Path
    address: str | None = None  # of a Ray cluster; None: this machine
    at_once: int | None = None  # trials; None: all that fit
    gpus_per_worker: float | None = None  # a share of one; None: a whole one where there are any
    confirm_under: str = "tune"  # one of `slots.CONFIRM_UNDER`
    budget: Budget = field(default_factory=Budget)
    patience: Patience = field(default_factory=Patience)  # with trials that are lost or silent

    @property
    def shares_gpus(self) -> bool:
        """Whether several workers are to share a GPU."""
        return self.gpus_per_worker is not None and self.gpus_per_worker < 1


@lru_cache(maxsize=4)  # connecting takes seconds
def nodes(address: str | None, looks: bool = False) -> tuple[Node, ...]:
    """Return the machines of a cluster, or this one; whoever `looks` sees its GPUs' memory.

    Raises:
        ConfigError: If no cluster answers at `address`.
    """
    if address is None:
        from trainables.estimate import machine_bytes, num_gpus

        cpus = len(os.sched_getaffinity(0))
        return (Node(cpus=cpus, gpus=num_gpus(), memory_bytes=float(machine_bytes())),)
    check({"address": _address_fault(address)})
    with ray_cluster(address):
        found = alive()
        shared = gpu_bytes() if looks and any(node.gpus for node in found) else None
    return tuple(replace(node, memory_bytes=shared) if node.gpus else node for node in found)


def placed(machines: Sequence[Node], num_workers: int, place: Place) -> tuple[int, int]:
    """Return how many trials run at once on some machines, and the threads of each worker.

    Raises:
        ConfigError: If not one trial fits.
    """
    slots = fit(machines, num_workers, place.at_once, place.gpus_per_worker)
    return slots.fitting(machines), slots.threads


def _address_fault(address: str) -> str | None:
    """Return why nothing listens at a cluster's address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # such as auto
        return None
    fault = server_fault(f"ray://{host}:{port}")
    remedy = "start one with `ray start --head`, or leave --address out"
    return f"expected a Ray cluster that answers, got {fault}; {remedy}" if fault else None


def tracking_fault(uri: str) -> str | None:
    """Return why MLflow cannot be reached at a URI; nothing is made there."""
    remedy = "start it, or unset MLFLOW_TRACKING_URI to use a file in the outputs folder"
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        fault = sqlite_fault(uri)
        return f"{fault}; {remedy.partition(', or ')[2]}" if fault else None
    if scheme in ("http", "https"):
        fault = _mlflow_fault(uri)
    elif scheme in PORTS:
        fault = server_fault(uri)
    elif scheme in ("", "file") and uri != "databricks":
        allowed = os.environ.get(LOCAL_STORES, "").lower() == "true"
        return None if allowed else f"expected a server or sqlite:///FILE, got {uri!r}; {remedy}"
    else:  # a managed service, which has its own login
        return None
    if fault is None:
        return None
    return f"expected a server that answers within {storages.TIMEOUT_S} s, got {fault}; {remedy}"


def _mlflow_fault(uri: str) -> str | None:
    """Ask a tracking server for its experiments, as a study will."""
    from mlflow import MlflowClient

    with _impatient():
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:  # requests', urllib3's and MLflow's own
            lines = str(error).strip().splitlines() or ["no message"]
            return f"{type(error).__name__} from {uri} ({lines[0][:200]})"
    return None


@contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow wait a few seconds and try once; it would try for minutes."""
    given = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(storages.TIMEOUT_S),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
