"""Ray: where the ledger's trials run, a few at once, in warm worker groups."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from signal import SIGALRM, SIGINT
from typing import Any

from cluster.dispatch.losses import Losses, Patience
from cluster.dispatch.slots import ClusterLostError, Slots, alive, check_memory, fit
from cluster.study.ledger import Ledger
from search_spaces.drawing import CONTROL
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import from_dict, overlay

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: the same command resumes
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "60",
    "RAY_DEDUP_LOGS": "1",
}
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take a busy machine's cores
}


@contextmanager
def ray_cluster(address: str | None, *, dashboard: bool = False) -> Iterator[None]:
    """Connect to the cluster at `address`, or start Ray on this machine; shut down at the end.

    Ray Train asks the dashboard which of its runs live, to clear up after those that died.

    Raises:
        ConfigError: If no cluster answers at `address`.
    """
    os.environ |= QUIET
    import ray

    # Tune would print the traceback of every lost process; the trial's row has its reason.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
    local = address is None
    if local:  # nobody will start its head again: do not wait a minute for that
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    try:
        ray.init(
            address="local" if local else address,
            include_dashboard=dashboard if local else None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=False,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
    except ConnectionError as error:
        raise ConfigError(
            f"address: expected a Ray cluster that answers, got {address!r} ({error}); start one "
            "with `ray start --head`, or leave --address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def insistent_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the block even if its first KeyboardInterrupt is swallowed.

    One that is raised inside a finalizer or a weak reference's callback is only printed and lost;
    so it is raised again, every fifth of a second, until the block is left.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def slots(base: TrialConfig, limit: int | None, gpus_per_worker: float | None = None) -> Slots:
    """Return how a study's trials are placed on the cluster as it is now.

    Raises:
        ConfigError: If the cluster cannot place a single trial, or share its GPUs so.
    """
    found = fit(alive(), base.engine.num_workers, limit, gpus_per_worker)
    if 0 < found.gpu < 1:
        found = replace(found, gpu_bytes=gpu_bytes())
        check_memory(found, _needed_bytes(overlay(base, CONTROL)))
    return found


def gpu_bytes() -> int:
    """Return the memory of the cluster's smallest GPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from trainables.estimate import machine_bytes

    look = ray.remote(machine_bytes)
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    found = [look.options(num_gpus=0.01, scheduling_strategy=place).remote() for place in places]
    return min(ray.get(found))


@lru_cache(maxsize=256)  # a trial is asked about when it is proposed and when it is placed
def _needed_bytes(config: TrialConfig) -> float:
    """Return the memory that a worker of a trial takes."""
    from trainables.estimate import estimate

    return estimate(config, 1.0).total_bytes


def gpu_share(slots: Slots, config: TrialConfig) -> float:
    """Return a worker's share of a GPU; a large design's is larger where they are shared."""
    return slots.share(_needed_bytes(config)) if slots.gpu_bytes else slots.gpu


def living_nodes() -> set[str]:
    """Return the names of the cluster's nodes that live."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def check_own_node(own: str) -> None:
    """See that this process still has the node that it was connected to.

    Raises:
        ClusterLostError: If it has not.
    """
    if own not in living_nodes():
        raise ClusterLostError(
            "the Ray node that the search was started on is gone; the same command "
            "continues where this left off, once there is a cluster again"
        )


def run_trials(
    ledger: Ledger,
    *,
    slots: Slots,
    folder: Path,
    patience: Patience = Patience(),  # noqa: B008 (frozen)
    trainable: type | None = None,
) -> None:
    """Run trials of the ledger until it has no more; Ray's own files go to `folder`.

    Nodes that come are used, trials of nodes that go continue on others. `trainable` is
    `ray_trainable.TrialGroup` or of its kind.

    Raises:
        ClusterLostError: If the Ray node of this process dies.
    """
    import ray

    from cluster.dispatch.demand import asked_for, wanted
    from trainables.ray_trainable import TrialGroup

    losses = Losses(limit=patience.losses, nodes=living_nodes)
    own_node = ray.get_runtime_context().get_node_id()
    looks = (partial(check_own_node, own_node), losses.look)
    tuner = _tuner(ledger, slots, folder, losses, looks, patience, trainable or TrialGroup)
    hoped = wanted(slots, ledger.num_trials - ledger.num_ended)
    with asked_for(hoped), insistent_interrupt():
        tuner.fit()


def _tuner(
    ledger: Ledger,
    slots: Slots,
    folder: Path,
    losses: Losses,
    looks: Sequence[Callable[[], object]],
    patience: Patience,
    trainable: type,
) -> Any:
    """Return the tuner of a ledger's trials; it looks at the nodes now and then."""
    from ray import tune

    from cluster.dispatch import adapters

    searcher = adapters.StudySearcher(ledger, slots.threads, patience.hang_timeout_s)

    def share(config: dict[str, Any]) -> float:
        return gpu_share(slots, from_dict(config["trial"]))

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(slots.bundles(share(config)))

    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=adapters.FittingSearcher(searcher, slots.room, share),
            scheduler=adapters.StudyScheduler(ledger, losses),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            verbose=0,
            callbacks=[adapters.LostTrials(ledger), adapters.NodeWatch(*looks)],
            failure_config=tune.FailureConfig(max_failures=-1),  # `losses` says when it is enough
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep theirs
        ),
    )
