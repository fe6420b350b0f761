from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.dispatch.slots import Node, Slots, check_memory, fit
from cluster.dispatch.tune import gpu_share, insistent_interrupt
from search_spaces.drawing import CONTROL
from trainables.config import ConfigError, TrialConfig
from trainables.estimate import estimate
from trainables.overlay import overlay

Size = tuple[int, int]  # a node's CPUs and GPUs


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


def nodes(*sizes: Size) -> list[Node]:
    return [Node(cpus=cpus, gpus=gpus) for cpus, gpus in sizes]


def test_a_trial_is_placed_on_nodes_as_they_are() -> None:
    def placed(sizes: list[Size], num_workers: int, limit: int | None) -> tuple[int, int]:
        slots = fit(nodes(*sizes), num_workers, limit)
        return slots.fitting(nodes(*sizes)), slots.threads

    assert placed([(2, 0)], 1, None) == (2, 1)
    assert placed([(8, 0), (8, 0)], 1, 1) == (1, 8)
    assert placed([(8, 0), (8, 0)], 2, 1) == (1, 8)  # not 16 threads on a node of 8
    assert placed([(8, 0), (2, 0)], 1, 2) == (2, 4)
    assert placed([(16, 4), (8, 0)], 2, None) == (2, 4)
    assert placed([(64, 8), (16, 0)], 4, None) == (2, 8)


def test_how_much_runs_at_once_follows_the_nodes() -> None:
    slots = fit(nodes((8, 0)), 2, 2)
    assert slots.threads == 2
    assert [slots.fitting(nodes(*[(8, 0)] * num)) for num in (0, 1, 2)] == [0, 2, 2]
    assert fit(nodes((8, 0)), 2, None).fitting(nodes((8, 0), (3, 0))) == 5


def test_trials_that_are_there_take_room() -> None:
    slots = fit(nodes((4, 0)), 1, None)
    assert [slots.fitting(nodes((4, 0)), [0.0] * num) for num in range(6)] == [4, 3, 2, 1, 0, 0]
    limited = fit(nodes((4, 0)), 1, 3)
    assert [limited.fitting(nodes((4, 0)), [0.0] * num) for num in range(4)] == [3, 2, 1, 0]


def test_a_larger_share_of_a_gpu_leaves_room_for_fewer() -> None:
    two = nodes((8, 1), (8, 1))
    slots = fit(two, 1, None, 0.25)
    assert slots.fitting(two) == 8
    assert slots.fitting(two, [1.0]) == 4
    assert slots.fitting(two, [0.5, 0.75]) == 3
    assert slots.fitting(two, [0.75, 0.75, 0.25]) == 1
    assert slots.fitting(two, [0.75, 0.75, 0.5]) == 0  # the last of them waits for a GPU
    assert slots.fitting(two, [0.75, 0.25, 0.75, 0.25]) == 0
    pairs = fit(two, 2, None, 0.5)  # a trial's workers on either node
    assert [pairs.fitting(two, live) for live in ([], [0.5], [1.0], [0.5, 0.5])] == [2, 1, 0, 0]


def test_a_gpu_is_shared() -> None:
    given = nodes((16, 2), (32, 2), (64, 0))
    slots = fit(given, 1, None, 0.25)
    assert (slots.fitting(given), slots.threads, slots.gpu) == (16, 2, 0.25)
    assert slots.bundles() == [{"CPU": 0.01}, {"CPU": 1.99, "GPU": 0.25}]
    assert fit(given, 1, None, 1 / 3).fitting(given) == 12


def test_a_share_of_a_gpu_holds_the_control_and_larger_designs_get_more() -> None:
    slots = Slots(num_workers=2, threads=2, gpu=0.25, gpu_bytes=80e9)
    check_memory(slots, 19e9)
    shares = [slots.share(needed) for needed in (0, 19e9, 41e9, 70e9, 200e9)]
    assert shares == [0.25, 0.25, 0.75, 1.0, 1.0]
    assert slots.bundles(0.75) == [{"CPU": 0.01}, *[{"CPU": 1.995, "GPU": 0.75}] * 2]
    with pytest.raises(ConfigError) as raised:
        check_memory(slots, 41e9)
    assert str(raised.value) == (
        "gpus-per-worker: expected at least 0.75, as the control takes about 41.0 GB of a GPU's "
        "80.0 GB, got 0.25"
    )


def test_a_designs_own_memory_gives_its_share(tiny_model: Path) -> None:
    given = {"backbone.model": str(tiny_model), "backbone.num_layers": 3, "lora.rank": 4}
    small = overlay(TrialConfig(), CONTROL | given | {"training.mini_batch_tokens": 1})
    large = overlay(small, {"lora.rank": 64})
    bare = Slots(num_workers=1, threads=1, gpu=0.25)
    assert gpu_share(bare, large) == 0.25
    needed = [estimate(config, 1.0).total_bytes for config in (small, large)]
    tight = replace(bare, gpu_bytes=4 * needed[0])
    assert gpu_share(tight, small) == 0.25
    assert gpu_share(tight, large) == min(1.0, 0.25 * math.ceil(needed[1] / needed[0])) > 0.25


@pytest.mark.parametrize(
    ("size", "share", "fault"),
    [
        ((2, 0), 0.5, "expected none on a cluster without GPUs, got 0.5"),
        ((2, 1), 2, "expected at most 1, got 2"),
        ((2, 1), 0, "expected more than 0, got 0"),
    ],
)
def test_what_is_no_share_of_a_gpu_is_refused(size: Size, share: float, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        fit(nodes(size), 1, None, share)
    assert str(raised.value) == f"gpus-per-worker: {fault}"


def test_what_no_cluster_can_place_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        fit(nodes((2, 0)), 64, None)
    expected = "engine.num_workers: expected at most 2, the cluster's CPUs, got 64"
    assert str(raised.value) == expected


def test_trials_are_asked_for_as_there_is_room() -> None:
    """Nodes come and go, a large trial takes the room of two, and one that ends leaves its own."""
    from ray.tune.search import Searcher

    from cluster.dispatch.adapters import FittingSearcher

    class Endless(Searcher):
        shares = iter((0.5, 1.0, 0.5, 0.5, 0.5))

        def suggest(self, trial_id: str) -> dict[str, float]:
            return {"share": next(self.shares)}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, float] | None = None, error: bool = False
        ) -> None:
            pass

    there = nodes((4, 1))
    slots = fit(there, 1, None, 0.5)
    searcher = FittingSearcher(
        Endless(), lambda live: slots.fitting(there, live), lambda given: given["share"]
    )
    assert searcher.suggest("half")
    assert searcher.suggest("whole")  # it is not known before it is drawn; it waits
    assert searcher.suggest("none") is None
    there += nodes((4, 1))  # where it fits
    assert searcher.suggest("second half")
    assert searcher.suggest("none") is None
    searcher.on_trial_complete("whole")
    assert searcher.suggest("third half")
    there.pop()
    assert searcher.suggest("none") is None
    searcher.on_trial_complete("half")
    assert searcher.suggest("none") is None
    searcher.on_trial_complete("second half", error=True)
    assert searcher.suggest("fourth half")
    assert searcher.suggest("none") is None
