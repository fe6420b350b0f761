"""The batch script: read by bash, and run to its end where there is a Slurm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.manifests.__main__ import main
from cluster.manifests.deployment import Deployment
from cluster.manifests.slurm import batch_script

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 400


def has_slurm() -> bool:
    """Return whether a controller answers."""
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


def num_nodes() -> int:
    done = subprocess.run(["sinfo", "-hN", "-o%N"], capture_output=True, text=True, check=True)
    return len(done.stdout.split())


def check_bash(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_is_bash_whatever_the_settings() -> None:
    check_bash(batch_script(Deployment()))
    odd = Deployment(
        environment=("A=it's $HOME; `date`",),
        secrets=("HF_TOKEN",),
        flags=("--study", "a b'c", "--set", 'instructions.query="Answer: "'),
        queue="gpu",
        time_limit_h=4,
        gpus=0,
    )
    script = batch_script(odd)
    check_bash(script)
    assert "{" not in "".join(script.split("#SBATCH")[1:-1])
    lines = script.splitlines()
    assert "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --time=4:00:00" in lines
    assert not any(line.startswith("#SBATCH --gpus") for line in lines)
    assert """export A='it'"'"'s $HOME; `date`'""" in lines
    assert ': "${HF_TOKEN:?expected in the environment}"' in lines


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.skipif(not has_slurm(), reason="no Slurm answers")
def test_a_search_runs_to_its_end_and_goes_on_where_it_was_interrupted(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, usual_cache: Path
) -> None:
    outputs, script, nodes = tmp_path / "outputs", tmp_path / "s.sbatch", min(2, num_nodes())
    settings = {
        "training.steps": 4,
        "training.report_every": 2,
        "training.batch_size": 4,
        "engine.precision": "fp32",
        "evaluation.max_tokens": 16,
    }
    flags = [
        *("--study", "s", "--space", "attention", "--trials", "3", "--finalists", "1"),
        *("--seeds", "2", "--model", str(tiny_model), "--layers", "3", "--tasks", "Lee50STS"),
        *("--train-data", str(tiny_pairs), *(f"--set={n}={v}" for n, v in settings.items())),
    ]
    code = main(
        [
            *("slurm", "--max-workers", str(nodes), "--cpus", "1", "--gpus", "0"),
            *("--memory-gib", "4", "--outputs", str(outputs), "--cache", str(usual_cache)),
            *("--output", str(script), "--", *flags),
        ]
    )
    assert code == 0
    first = submit(script, tmp_path)
    assert f"expected {nodes}" not in first
    assert f"search: 3 trials, 0 done, {nodes} at once" in first
    rows = [json.loads(file.read_text()) for file in (outputs / "s/results").glob("*.json")]
    assert [row["status"] for row in rows].count("complete") >= 3
    assert (outputs / "s/report.html").is_file()
    assert not list(Path("/tmp").glob("ray-*/session_*"))
    again = submit(script, tmp_path)
    assert "search: all 3 trials are done" in again


def submit(script: Path, folder: Path) -> str:
    """Run a job to its end, which is a good one; return what it printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = folder / "job.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["sbatch", "--wait", f"--output={log}", str(script)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr + log.read_text()
    return log.read_text()
