"""Nodes come and go under a search, on a real cluster of several raylets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TRIALS = 6


def main(folder: Path) -> None:
    """Search on a head of one CPU; a node comes, and dies; print how many trials ran at once."""
    from ray.cluster_utils import Cluster

    from cluster.dispatch import ray_cluster
    from tests.cluster import formula

    os.environ[formula.STEP_S] = "0.5"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    seen: dict[str, Any] = {}

    def running() -> int:
        """Return how many trials have a checkpoint that moved within the last seconds."""
        files = (folder / "search").glob("*/heartbeat")
        return sum(time.time() - file.stat().st_mtime < 1.5 for file in files)

    def wait_for(number: int) -> None:
        deadline = time.monotonic() + 90
        while running() != number and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.setdefault("running", []).append(running())

    def disturb() -> None:
        wait_for(1)
        node = cluster.add_node(num_cpus=1)
        wait_for(2)
        cluster.remove_node(node, allow_graceful=False)

    with ray_cluster(cluster.address):
        disturber = threading.Thread(target=disturb)
        disturber.start()
        formula.search(folder, TRIALS, limit=None)
        disturber.join()
    cluster.shutdown()
    seen["states"] = [state for _, state, *_ in formula.table(folder)]
    found = (json.loads(line) for f in folder.glob("search/*/starts.jsonl") for line in f.open())
    seen["starts"] = sorted(start["step"] for start in found)
    print(json.dumps(seen))  # noqa: T201


@pytest.mark.slow
def test_a_node_that_comes_is_used_and_one_that_goes_is_done_without(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.test_elastic", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["running"] == [1, 2]
    assert len(seen["states"]) == TRIALS
    assert set(seen["states"]) <= {"COMPLETE", "PRUNED"}
    assert len(seen["starts"]) == TRIALS + 1  # one was started again, on the node that is left


if __name__ == "__main__":
    main(Path(sys.argv[1]))
