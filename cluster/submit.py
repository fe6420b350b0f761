"""Submit a search to a Ray cluster as a job: this checkout goes along, the job outlives us.

Submitting the same command again continues the study where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.arguments import with_flags
from cluster.command_line import parse, say
from cluster.command_line import parser as search_parser
from cluster.submission import jobs
from trainables.config import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

EXAMPLES = """examples:
  python -m cluster.submit --address http://HEAD:8265 --outputs /shared/outputs --study big
      all other flags are those of cluster.search (python -m cluster.search --help)
  python -m cluster.submit follow big-20260101-120000 --address http://HEAD:8265
      its console; Ctrl-C ends the following, not the job
  python -m cluster.submit stop big-20260101-120000 --address http://HEAD:8265
  python -m cluster.submit list --address http://HEAD:8265

RAY_ADDRESS=http://HEAD:8265 spares --address. The cluster's token is read from RAY_AUTH_TOKEN,
RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
"""
ADDRESS = f"of the job server (default: RAY_ADDRESS, else {jobs.USUAL_ADDRESS})"
ENVIRONMENT = "variables, none of them secret, that the search is to have as they are here"


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition, without the search's flags."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.submit",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [options] --outputs FOLDER [flags of cluster.search]\n"
        "       %(prog)s {follow,status,stop} JOB | list  [--address URL]",
    )
    made.add_argument("--address", metavar="URL", help=ADDRESS)
    made.add_argument(
        "--install", action="store_true", help="install the locked requirements on each node first"
    )
    made.add_argument("--environment", nargs="+", default=[], metavar="NAME", help=ENVIRONMENT)
    made.add_argument("--no-follow", action="store_true", help="submit and leave")
    return made


def submit(argv: Sequence[str]) -> int:
    """Check, submit and follow a search; return its exit code."""
    from cluster.submission.checks import check_submission

    given, flags = parser().parse_known_args(argv)
    arguments, unknown = parse(search_parser(), flags)
    check_submission(arguments, flags, given.environment, unknown)
    client = jobs.connect(given.address)
    metadata = {"study": arguments.study, "outputs": str(arguments.outputs)}
    job = jobs.submit(client, flags, given.environment, install=given.install, metadata=metadata)
    suffix = f"{job}{f' --address {given.address}' if given.address else ''}"
    say(f"submitted {job}; come back with: python -m cluster.submit follow {suffix}")
    return 0 if given.no_follow else _follow(client, job)


def _follow(client: JobSubmissionClient, job: str) -> int:
    try:
        code = jobs.follow(client, job)
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{job} goes on; `stop` would end it\n")
        return 130
    say(f"{job}: {client.get_job_status(job)}")
    return code


def _status(client: JobSubmissionClient, job: str) -> int:
    with jobs.explained(job):
        for line in jobs.describe(client.get_job_info(job)):
            say(line)
    return 0


def _stop(client: JobSubmissionClient, job: str) -> int:
    stopped = jobs.stop(client, job)
    say(f"{job}: stopped; the same command continues" if stopped else f"{job}: had ended")
    return 0


COMMANDS: dict[str, Callable[[JobSubmissionClient, str], int]] = {
    "follow": _follow,
    "status": _status,
    "stop": _stop,
}


def ask(name: str, argv: Sequence[str]) -> int:
    """Run one of the commands about jobs that are there."""
    made = argparse.ArgumentParser(prog=f"python -m cluster.submit {name}")
    made.add_argument("--address", metavar="URL", help=ADDRESS)
    if name in COMMANDS:
        made.add_argument("job")
    given = made.parse_args(argv)
    client = jobs.connect(given.address)
    if name in COMMANDS:
        return COMMANDS[name](client, given.job)
    for details in jobs.searches(client):
        say(jobs.describe(details)[0])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in (*COMMANDS, "list"):
            return ask(words[0], words[1:])
        return submit(words)
    except ConfigError as error:
        sys.stderr.write(f"{with_flags(str(error))}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
