"""Ray's job server: what is sent to it, and what it says."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = "requirements.lock"
PACKAGES = ("analysis", "cluster", "search_spaces", "trainables")
SENT = (".", *PACKAGES, LOCK)
EXCLUDES = ["/*", *(f"!/{name}" for name in SENT), "__pycache__"]  # in .gitignore's words
USUAL_ADDRESS = "http://127.0.0.1:8265"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray lets them overrule what is given
STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}  # as Ctrl-C does
PAUSE_S = 2.0


def authenticate() -> None:
    """Use the token that there is; Ray's command line would do without unless it is told."""
    has = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the job server at `address`, or of the one that the environment names.

    Raises:
        ConfigError: If none answers there, or not to us.
    """
    authenticate()
    if address is not None:
        for name in ADDRESSES:
            os.environ.pop(name, None)
    elif not any(os.environ.get(name) for name in ADDRESSES):
        address = USUAL_ADDRESS
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # uploads and closed sockets are no news
    with explained(address):
        return JobSubmissionClient(address)


@contextmanager
def explained(what: str | None) -> Iterator[None]:
    """Turn the errors of Ray's client into ours.

    Raises:
        ConfigError: With the remedy.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            "address: expected the cluster's token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to "
            "a file with it, or write it to ~/.ray/auth_token"
        ) from error
    except (ConnectionError, requests.RequestException, ValueError) as error:
        raise ConfigError(
            f"address: expected a Ray cluster whose job server answers, got {what or 'none'} "
            f"({type(error).__name__}); give the head's, as http://HEAD:8265"
        ) from error
    except RuntimeError as error:
        if "404" not in str(error):
            raise ConfigError(f"job: {str(error).splitlines()[0]}") from error
        raise ConfigError(
            f"job: expected a job of this cluster, got {what!r}; "
            "`python -m cluster.submit list` shows them"
        ) from error


def command(flags: Sequence[str]) -> str:
    """Return what the job runs.

    >>> command(["--outputs", "/shared/o", "--study", "a b"])
    "python -m cluster.search --address auto --outputs /shared/o --study 'a b'"
    """
    return shlex.join(["python", "-m", "cluster.search", "--address", "auto", *flags])


def runtime_environment(names: Sequence[str], *, install: bool) -> dict[str, Any]:
    """Return what the job runs in: our packages alone, and variables that are not secret.

    With `install`, the locked requirements are installed on every node before the job starts.
    """
    variables = {name: os.environ[name] for name in names}
    made: dict[str, Any] = {
        "working_dir": str(ROOT),
        "excludes": EXCLUDES,
        "env_vars": {**STOP, **variables},
    }
    if install:
        made["pip"] = str(ROOT / LOCK)
    return made


def submit(
    client: JobSubmissionClient,
    flags: Sequence[str],
    names: Sequence[str],
    *,
    install: bool,
    metadata: Mapping[str, str],
) -> str:
    """Send a search; return its job's name."""
    job = f"{metadata['study']}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    with explained(job):
        return client.submit_job(
            entrypoint=command(flags),
            submission_id=job,
            runtime_env=runtime_environment(names, install=install),
            metadata=dict(metadata),
        )


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print what a job says until it has ended; return its exit code."""
    shown = 0
    with explained(job):
        while True:
            ended = client.get_job_status(job).is_terminal()
            shown = asyncio.run(_print_rest(client, job, shown))
            if ended:
                return exit_code(client.get_job_info(job))
            time.sleep(PAUSE_S)


async def _print_rest(client: JobSubmissionClient, job: str, shown: int) -> int:
    """Print a job's log after its first `shown` characters as it grows; return its length."""
    length = 0
    try:
        async for text in client.tail_job_logs(job):
            sys.stdout.write(text[max(0, shown - length) :])
            sys.stdout.flush()
            length += len(text)
    except (RuntimeError, OSError):  # the connection broke; the job may go on
        pass
    return max(shown, length)


def stop(client: JobSubmissionClient, job: str) -> bool:
    """Interrupt a job and wait until it has ended; return whether it was running."""
    with explained(job):
        stopped = client.stop_job(job)
        while stopped and not client.get_job_status(job).is_terminal():
            time.sleep(PAUSE_S / 4)
        return stopped


def exit_code(details: Any) -> int:
    """Return the exit code that stands for a job's end."""
    if str(details.status) == "SUCCEEDED":
        return 0
    return details.driver_exit_code or 1


def describe(details: Any) -> list[str]:
    """Return what a person wants to know of a job."""
    started, ended = (_clock(at) for at in (details.start_time, details.end_time))
    return [
        f"{details.submission_id}: {details.status}",
        f"  {details.message}",
        f"  started {started}, ended {ended}",
        f"  {details.entrypoint}",
    ]


def searches(client: JobSubmissionClient) -> list[Any]:
    """Return the searches among a cluster's jobs, the latest first."""
    with explained(None):
        found = [job for job in client.list_jobs() if "cluster.search" in job.entrypoint]
    return sorted(found, key=lambda job: job.start_time or 0, reverse=True)


def _clock(at_ms: int | None) -> str:
    if not at_ms:
        return "not yet"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))
