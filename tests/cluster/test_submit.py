"""Searches as Ray jobs: what is refused, what is sent, and a real one through a killed driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.runtime_env import RuntimeEnv

from cluster.search import main as search
from cluster.submission.checks import IN_JOB, environment_fault, flags_fault
from cluster.submission.jobs import EXCLUDES, LOCK, PACKAGES, STOP, runtime_environment
from cluster.submit import main

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN, SECRET = "planted-token-0123456789abcdef", "planted-secret-77"
TIMEOUT_S = 240


def test_all_faults_come_in_one_message_and_nothing_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").touch()
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code = main(
        [
            *("--outputs", "outputs", "--study", "s", "--trials", "-3", "--tasks", "Lee50"),
            *("--train-data", "pairs.jsonl=2", "--set", "poling.head=none"),
            *("--storage", f"postgresql://me:{SECRET}@host/trials"),
            *("--environment", "HF_TOKEN", "--address", "http://127.0.0.1:1"),
        ]
    )
    message = capsys.readouterr().err
    assert code == 2
    for expected in (
        "outputs: expected an absolute path that all nodes see, as /shared/outputs, got 'outputs'",
        "environment: expected no secrets, got HF_TOKEN; a job's settings are shown to all",
        "flags: expected no password in a URL",
        "train-data: expected absolute paths that all nodes see, got 'pairs.jsonl=2'",
        "poling.head: not a parameter; did you mean 'pooling.head'?",
        "--trials: expected at least 1, got -3",
        "--tasks (evaluation.tasks): ",
    ):
        assert expected in message
    assert SECRET not in message


def test_designs_that_cannot_be_built_are_refused_here(
    capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    command = [
        *("--outputs", "/shared/outputs", "--space", "attention", "--model", str(tiny_model)),
        *("--layers", "3", "--address", "http://127.0.0.1:1"),
    ]
    assert main([*command, "--layers", "9"]) == 2
    message = capsys.readouterr().err
    assert "--layers (backbone.num_layers): expected at most 3" in message
    assert "address" not in message  # nothing was asked of the cluster
    assert main(command) == 2
    assert "address: expected a Ray cluster" in capsys.readouterr().err


def test_files_that_only_the_cluster_has_are_left_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(
        [
            *("--outputs", "/nowhere/outputs", "--train-data", "/nowhere/mix.json"),
            *("--first", "/nowhere/first.json", "--deepspeed", "/nowhere/ds.json"),
            *("--model", "/nowhere/model", "--address", "http://127.0.0.1:1"),
        ]
    )
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "--address: expected a Ray cluster whose job server answers, got http://127.0.0.1:1"
    )


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "x", True),
        ("AWS_SECRET_ACCESS_KEY", "x", True),
        ("DB_PASSWORD", "x", True),
        ("MLFLOW_TRACKING_URI", "https://me:x@host", True),
        ("MLFLOW_TRACKING_URI", "https://host:5000", False),
        ("TOKENIZERS_PARALLELISM", "false", True),  # better one too many
        ("OMP_NUM_THREADS", "2", False),
    ],
)
def test_secrets_do_not_go_along(name: str, value: str, secret: bool) -> None:
    assert bool(environment_fault([name], {name: value})) == secret
    assert environment_fault([name], {}) == f"expected variables that are set, got {name}"
    assert bool(flags_fault(["--storage", value])) == ("@" in value)


def test_the_job_has_named_variables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    made = runtime_environment(["A"], install=False)
    assert made["env_vars"] == {**STOP, "A": "1"}
    assert made.keys() == {"working_dir", "excludes", "env_vars"}
    installed = RuntimeEnv(pip=runtime_environment([], install=True)["pip"])["pip"]["packages"]
    locked = {line for line in (ROOT / LOCK).read_text().splitlines() if line[:1].isalnum()}
    assert locked <= set(installed)


def test_only_the_packages_and_the_lock_are_sent(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    checkout, package = tmp_path / "checkout", tmp_path / "sent.zip"
    sent = [LOCK, *(f"{name}/inner/module.py" for name in PACKAGES), "analysis/report.css"]
    kept = [".env", ".git/config", "outputs/s/study.json", "tests/test_a.py", ".venv/bin/python"]
    kept += ["cluster/__pycache__/a.pyc", "notes.txt", "mlruns/0/meta.yaml"]
    for name in (*sent, *kept):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    create_package(str(checkout), package, include_gitignore=True, excludes=EXCLUDES)
    with zipfile.ZipFile(package) as opened:
        assert {name for name in opened.namelist() if not name.endswith("/")} == set(sent)


def test_a_job_refuses_outputs_that_would_go_with_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model: Path,
    tiny_pairs: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(IN_JOB, "{}")
    code = search(
        [
            *("--outputs", "outputs", "--model", str(tiny_model), "--layers", "3"),
            *("--train-data", str(tiny_pairs), "--tasks", "Lee50"),
        ]
    )
    assert code == 2
    assert "outputs of a job: expected an absolute path" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def head(tmp_path: Path, usual_cache: Path) -> Iterator[str]:
    """Start a head that does not have the project; yield its job server's address."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "locked.pth").write_text(sysconfig.get_paths()["purelib"])  # its .pth files are unread
    python = environment / "bin" / "python"
    find = "import importlib.util as u; print(u.find_spec('cluster'), u.find_spec('trainables'))"
    found = subprocess.run([python, "-c", find], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout == "None None\n"
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # sockets have short names
    gcs, dashboard, client = free_ports(3)
    command = [
        *(str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *("--num-cpus=2", "--dashboard-agent-listen-port=0", f"--temp-dir={folder}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "MLFLOW", "RAY"))
    }
    given = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "HF_TOKEN": SECRET,  # as a secretKeyRef gives it
        "POOLSEARCH_CACHE": str(usual_cache),
    }
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=kept | given, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until(lambda: answers(address))
        yield address
        assert not holding(folder), "a secret is in Ray's files"
    finally:
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"{address}/api/gcs_healthz", timeout=2).status == 200)
    return False


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def holding(folder: Path) -> list[Path]:
    """Return the files in a folder that hold one of the secrets."""
    found = []
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            content = file.read_bytes() if file.is_file() else b""
            found += [file] if any(s.encode() in content for s in (TOKEN, SECRET)) else []
    return found


def submit(*arguments: str) -> str:
    """Run the program; it ends well. Return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.submit", *arguments],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs_json(address: str) -> str:
    request = urllib.request.Request(
        f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
@pytest.mark.embedded
def test_a_job_goes_on_after_its_driver_was_killed(
    head: str, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    outputs, at = tmp_path / "outputs", ("--address", head)
    settings = {
        "training.steps": 4,
        "training.report_every": 2,
        "training.batch_size": 4,
        "engine.precision": "fp32",
        "evaluation.max_tokens": 16,
    }
    command = [
        *("--outputs", str(outputs), "--study", "s", "--space", "attention", "--trials", "3"),
        *("--finalists", "1", "--seeds", "2", "--at-once", "1", "--model", str(tiny_model)),
        *("--layers", "3", "--train-data", str(tiny_pairs), "--tasks", "Lee50STS"),
        *(f"--set={name}={value}" for name, value in settings.items()),
    ]
    said = submit(*at, "--no-follow", *command)
    found = re.search(r"submitted (s-[\d-]+); come back with: python -m cluster.submit", said)
    assert found is not None
    first = found[1]
    results, log = outputs / "s" / "results", outputs / "s" / "search.log"
    wait_until(lambda: log.is_file() and "search-0001 started" in log.read_text())
    kill_driver(str(outputs))
    before = {file.name: file.read_text() for file in results.glob("*.json")}
    wait_until(lambda: f"{first}: FAILED" in submit("status", first, *at))

    output = submit(*at, *command)  # followed to its end
    assert f"search: 3 trials, {len(before)} done, 1 at once" in output
    assert output.splitlines()[-1].endswith(": SUCCEEDED")
    after = {file.name: file.read_text() for file in results.glob("*.json")}
    assert after.items() > before.items()
    lines = log.read_text()
    assert all(lines.count(f"{name.removesuffix('.json')} started") == 1 for name in before)
    assert [line.split(": ")[1] for line in submit("list", *at).splitlines()] == [
        "SUCCEEDED",
        "FAILED",
    ]
    assert submit("stop", first, *at) == f"{first}: had ended\n"
    shown = jobs_json(head)
    assert len(json.loads(shown)) == 2
    assert TOKEN not in shown
    assert SECRET not in shown
    assert not holding(outputs)


def kill_driver(outputs: str) -> None:
    """Kill the command of a job, which no other command line on this machine looks like."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"cluster.search", outputs} <= set(process.info["cmdline"] or ())
    ]
    assert found
    for process in found:
        process.kill()
