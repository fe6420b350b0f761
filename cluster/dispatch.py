"""Ray: where the ledger's trials run, a few at once, in warm worker groups."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGALRM, SIGINT

from cluster.ledger import Ledger
from trainables.config import ConfigError

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
}
TUNE_ACTOR_CPU = 0.01
RETRIES = 2  # of a trial whose process died; it continues from its checkpoint


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or start Ray on this machine; shut down at the end.

    Raises:
        ConfigError: If no cluster answers at `address`.
    """
    os.environ |= QUIET
    import ray

    # Tune would print the traceback of every lost process; the trial's row has its reason.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
    local = address is None
    try:
        ray.init(
            address="local" if local else address,
            include_dashboard=False if local else None,
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


def slots(num_workers: int, limit: int | None) -> tuple[int, int]:
    """Return how many trials the cluster runs at once and the CPU threads of each worker.

    Raises:
        ConfigError: If the cluster cannot place a single trial.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive]
    return fit(nodes, num_workers, limit)


def fit(nodes: Sequence[tuple[int, int]], num_workers: int, limit: int | None) -> tuple[int, int]:
    """Return how many trials fit on nodes of (CPUs, GPUs) and the threads of each worker.

    A worker stays on one node and has a GPU to itself where there are any.

    >>> fit([(2, 0)], 1, None), fit([(8, 0), (8, 0)], 1, 1), fit([(16, 4), (8, 0)], 2, None)
    ((2, 1), (1, 8), (2, 4))

    Raises:
        ConfigError: If not one trial fits.
    """
    gpus = [(cpu, gpu) for cpu, gpu in nodes if gpu]
    places = sum(gpu for _, gpu in gpus) if gpus else sum(cpu for cpu, _ in nodes)
    fitting = places // num_workers
    if not fitting:
        unit = "GPUs" if gpus else "CPUs"
        raise ConfigError(
            f"engine.num_workers: expected at most {places}, the cluster's {unit}, "
            f"got {num_workers}"
        )
    at_once = min(fitting, limit) if limit else fitting
    if gpus:
        return at_once, max(1, min(cpu // gpu for cpu, gpu in gpus))
    threads = max(cpu for cpu, _ in nodes)
    while sum(cpu // threads for cpu, _ in nodes) < at_once * num_workers:
        threads -= 1
    return at_once, threads


def bundles(num_workers: int, threads: int, *, gpu: bool) -> list[dict[str, float]]:
    """Return the resources of a trial: its Tune actor, then each worker.

    The actor only waits; its share comes out of the workers', or the last trial would not fit.

    >>> bundles(1, 2, gpu=False)
    [{'CPU': 0.01}, {'CPU': 1.99}]
    """
    worker: dict[str, float] = {"CPU": threads - TUNE_ACTOR_CPU / num_workers}
    return [{"CPU": TUNE_ACTOR_CPU}] + [worker | ({"GPU": 1} if gpu else {})] * num_workers


def run_trials(
    ledger: Ledger, *, num_workers: int, at_once: int, threads: int, folder: Path
) -> None:
    """Run trials of the ledger until it has no more; Ray's own files go to `folder`."""
    import ray
    from ray import tune

    from cluster.adapters import LostTrials, StudyScheduler, StudySearcher
    from trainables.ray_trainable import TrialGroup

    trainable = tune.with_resources(
        TrialGroup,
        tune.PlacementGroupFactory(
            bundles(num_workers, threads, gpu=bool(ray.cluster_resources().get("GPU")))
        ),
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger, threads),
            scheduler=StudyScheduler(ledger),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            verbose=0,
            callbacks=[LostTrials(ledger)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    with insistent_interrupt():
        tuner.fit()
