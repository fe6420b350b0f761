from __future__ import annotations

from cluster.dispatch.losses import EXCUSED, NODE_S, TOGETHER_S, Losses


class Cluster:
    """A clock and nodes that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes = {"a", "b"}

    def losses(self, limit: int = 3) -> Losses:
        return Losses(limit=limit, nodes=lambda: self.nodes, clock=lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds


def lose(losses: Losses, cluster: Cluster, number: int, times: int) -> list[bool]:
    """Lose a trial some times, an hour between."""
    found = []
    for _ in range(times):
        cluster.wait(3600)
        found.append(losses.is_last(number))
    return found


def test_the_last_of_a_row_fails_a_trial() -> None:
    cluster = Cluster()
    losses = cluster.losses(3)
    assert lose(losses, cluster, 1, 3) == [False, False, True]
    assert lose(losses, cluster, 2, 1) == [False]
    assert lose(cluster.losses(1), cluster, 1, 1) == [True]


def test_a_new_report_begins_the_count_again_and_an_old_one_does_not() -> None:
    cluster = Cluster()
    losses = cluster.losses(2)
    losses.reported(1, 4)
    assert lose(losses, cluster, 1, 1) == [False]
    cluster.wait(1)
    losses.reported(1, 2)  # told again from the checkpoint
    losses.reported(1, 4)
    losses.reported(1, 6)
    assert lose(losses, cluster, 1, 1) == [False]
    losses.reported(1, 6)
    assert losses.num_in_a_row(1) == 1
    assert lose(losses, cluster, 1, 1) == [True]


def test_what_hits_several_trials_is_nobodys_fault() -> None:
    cluster = Cluster()
    losses = cluster.losses(2)
    assert lose(losses, cluster, 1, 1) == [False]
    for other in range(2, 5):  # others' first losses
        cluster.wait(3600)
        assert not losses.is_last(other)
        cluster.wait(TOGETHER_S)
        assert not losses.is_last(1)
    assert lose(losses, cluster, 1, 1) == [True]  # alone, and again


def test_trials_that_are_lost_again_and_again_do_not_excuse_each_other() -> None:
    cluster = Cluster()
    losses = cluster.losses(2)
    found = []
    for _ in range(3):
        cluster.wait(3600)
        found.append((losses.is_last(1), losses.is_last(2)))
    assert found == [(False, False), (False, False), (True, True)]


def test_a_loss_with_a_node_does_not_count_whichever_is_noticed_first() -> None:
    cluster = Cluster()
    losses = cluster.losses(2)
    assert lose(losses, cluster, 1, 1) == [False]
    cluster.wait(NODE_S - 1)
    cluster.nodes = {"a"}
    losses.look()  # the loss before is explained now
    assert lose(losses, cluster, 1, 1) == [False]
    cluster.wait(3600)
    cluster.nodes = set()
    assert not losses.is_last(1)  # seen at the loss itself
    cluster.nodes = {"c"}  # one that comes explains nothing
    assert lose(losses, cluster, 1, 1) == [True]


def test_nothing_is_excused_for_ever() -> None:
    cluster = Cluster()
    losses = cluster.losses(3)
    found = []
    for _ in range(EXCUSED * 3):
        cluster.wait(3600)
        cluster.nodes = {str(cluster.now)}
        found.append(losses.is_last(1))
    assert found == [False] * (EXCUSED * 3 - 1) + [True]
