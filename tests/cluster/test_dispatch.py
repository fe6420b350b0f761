from __future__ import annotations

import os
import signal
import time

import pytest

from cluster.dispatch.slots import Node, Slots, check_memory, fit
from cluster.dispatch.tune import insistent_interrupt
from trainables.config import ConfigError


class Swallows:
    """Takes a Ctrl-C into a finalizer, where Python only prints and forgets it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_swallowed_interrupt_is_raised_again() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with insistent_interrupt():
            Swallows()
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trial_is_placed_on_nodes_as_they_are() -> None:
    def placed(nodes: list[Node], num_workers: int, limit: int | None) -> tuple[int, int]:
        slots = fit(nodes, num_workers, limit)
        return slots.fitting(nodes), slots.threads

    assert placed([(2, 0)], 1, None) == (2, 1)
    assert placed([(8, 0), (8, 0)], 1, 1) == (1, 8)
    assert placed([(8, 0), (8, 0)], 2, 1) == (1, 8)  # not 16 threads on a node of 8
    assert placed([(8, 0), (2, 0)], 1, 2) == (2, 4)
    assert placed([(16, 4), (8, 0)], 2, None) == (2, 4)
    assert placed([(64, 8), (16, 0)], 4, None) == (2, 8)


def test_how_much_runs_at_once_follows_the_nodes() -> None:
    slots = fit([(8, 0)], 2, 2)
    assert slots.threads == 2
    assert [slots.fitting([(8, 0)] * num) for num in (0, 1, 2)] == [0, 2, 2]
    assert fit([(8, 0)], 2, None).fitting([(8, 0), (3, 0)]) == 5


def test_a_gpu_is_shared() -> None:
    nodes = [(16, 2), (32, 2), (64, 0)]
    slots = fit(nodes, 1, None, 0.25)
    assert (slots.fitting(nodes), slots.threads, slots.gpu) == (16, 2, 0.25)
    assert slots.bundles() == [{"CPU": 0.01}, {"CPU": 1.99, "GPU": 0.25}]
    assert fit(nodes, 1, None, 1 / 3).fitting(nodes) == 12


def test_a_share_of_a_gpu_holds_the_control_and_larger_designs_get_more() -> None:
    slots = Slots(num_workers=2, threads=2, gpu=0.25, gpu_bytes=80e9)
    check_memory(slots, 19e9)
    assert slots.bundles(19e9) == [{"CPU": 0.01}, *[{"CPU": 1.995, "GPU": 0.25}] * 2]
    assert [bundle.get("GPU") for bundle in slots.bundles(41e9)] == [None, 0.75, 0.75]
    with pytest.raises(ConfigError) as raised:
        check_memory(slots, 41e9)
    assert str(raised.value) == (
        "gpus-per-worker: expected at least 0.75, as the control takes about 41.0 GB of a GPU's "
        "80.0 GB, got 0.25"
    )


@pytest.mark.parametrize(
    ("nodes", "share", "fault"),
    [
        ([(2, 0)], 0.5, "expected none on a cluster without GPUs, got 0.5"),
        ([(2, 1)], 2, "expected at most 1, got 2"),
        ([(2, 1)], 0, "expected more than 0, got 0"),
    ],
)
def test_what_is_no_share_of_a_gpu_is_refused(nodes: list[Node], share: float, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        fit(nodes, 1, None, share)
    assert str(raised.value) == f"gpus-per-worker: {fault}"


def test_what_no_cluster_can_place_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        fit([(2, 0)], 64, None)
    expected = "engine.num_workers: expected at most 2, the cluster's CPUs, got 64"
    assert str(raised.value) == expected
