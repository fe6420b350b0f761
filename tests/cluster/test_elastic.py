"""Nodes come and go under a search, on a real cluster of several raylets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.programs import run

TRIALS = 4
STEP_S = "2"
SOON = {  # the head counts a node as dead; its workers live on until then
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def main(folder: Path) -> None:
    """Search on a head of one CPU; a node comes, and dies; print how many trials ran at once."""
    from ray.cluster_utils import Cluster

    from tests.cluster import formula

    os.environ[formula.STEP_S] = STEP_S  # which raylets hand on to their workers
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": SOON})
    program = [sys.executable, "-m", "tests.cluster.formula", str(folder)]
    search = subprocess.Popen([*program, "--trials", str(TRIALS), "--address", cluster.address])

    def running() -> int:
        """Return how many trials have a checkpoint; those that have ended have none."""
        return len(list((folder / "search").glob("*/checkpoints")))

    def most_running(wanted: int) -> int:
        deadline, most = time.monotonic() + 180, 0
        while most < wanted and time.monotonic() < deadline and search.poll() is None:
            most = max(most, running())
            time.sleep(0.1)
        return most

    alone = most_running(1)
    node = cluster.add_node(num_cpus=1)
    both = most_running(2)
    cluster.remove_node(node, allow_graceful=False)
    code = search.wait(300)
    cluster.shutdown()
    files = sorted(folder.glob(f"search/*/{formula.STARTS}"))
    seen = {
        "running": [alone, both],
        "code": code,
        "states": [state for _, state, *_ in formula.table(folder)],
        "starts": [[json.loads(line)["step"] for line in file.open()] for file in files],
    }
    print(json.dumps(seen))  # noqa: T201


@pytest.mark.slow
def test_a_node_that_comes_is_used_and_one_that_goes_is_done_without(tmp_path: Path) -> None:
    seen = run("test_elastic", tmp_path, timeout_s=600)
    assert (seen["code"], seen["running"]) == (0, [1, 2])
    assert len(seen["states"]) == TRIALS
    assert set(seen["states"]) <= {"COMPLETE", "PRUNED"}
    starts = seen["starts"]  # of each trial
    assert [steps[0] for steps in starts] == [0] * TRIALS
    assert all(steps == sorted(steps) for steps in starts)
    assert max(map(max, starts)) > 0  # from its checkpoint, on the node that is left


if __name__ == "__main__":
    main(Path(sys.argv[1]))
