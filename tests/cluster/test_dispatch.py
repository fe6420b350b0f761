from __future__ import annotations

import os
import signal
import time

import pytest

from cluster.dispatch import fit, insistent_interrupt
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
    assert fit([(2, 0)], 1, None) == (2, 1)
    assert fit([(8, 0), (8, 0)], 2, 1) == (1, 8)  # not 16 threads on a node of 8
    assert fit([(8, 0), (2, 0)], 1, 2) == (2, 4)
    assert fit([(64, 8), (16, 0)], 4, None) == (2, 8)


def test_what_no_cluster_can_place_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        fit([(2, 0)], 64, None)
    expected = "engine.num_workers: expected at most 2, the cluster's CPUs, got 64"
    assert str(raised.value) == expected
