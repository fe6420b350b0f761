"""Start an MLflow server for one person or for a team, and wait until it is ended.

Runs are kept in a database, files are served by the server, so that users need no access to where
they are. It is reached from this machine alone unless --host says otherwise.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.mlflow.server import DATABASE, ServerConfig, command, serve
from cluster.study.storage import hidden
from trainables.config import ConfigError

EXAMPLES = f"""examples:
  python -m cluster.mlflow
      the runs of the searches on this machine (outputs/mlflow.db), at http://127.0.0.1:5000
  {DATABASE}=postgresql+psycopg://mlflow@db/mlflow python -m cluster.mlflow \\
      --artifacts s3://team-bucket/mlflow --host 0.0.0.0 --allowed-hosts mlflow.team.example
      a team's server; PostgreSQL's password comes from ~/.pgpass or PGPASSWORD, the keys of S3
      from AWS's own variables, so neither is on a command line
then, wherever a search is started:
  export MLFLOW_TRACKING_URI=http://mlflow.team.example:5000

With --basic-auth, clients take MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD from the
environment.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.mlflow",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    made.add_argument(
        "--artifacts",
        metavar="FOLDER|URL",
        help="where files are kept: a folder, s3://, gs:// ... (default: OUTPUTS/mlartifacts)",
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this)")
    made.add_argument("--port", type=int, default=5000, help="default: 5000")
    made.add_argument("--workers", type=int, default=1, help="server processes (default: 1)")
    made.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names by which clients may call it (default: localhost and private addresses)",
    )
    made.add_argument("--basic-auth", action="store_true", help="users and passwords, by MLflow")
    made.add_argument("--dry-run", action="store_true", help="say what would run; start nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments = parser().parse_args(argv)
    outputs = arguments.outputs.resolve()
    try:
        config = ServerConfig(
            database=os.environ.get(DATABASE, f"sqlite:///{outputs}/mlflow.db"),
            artifacts=arguments.artifacts or str(outputs / "mlartifacts"),
            host=arguments.host,
            port=arguments.port,
            workers=arguments.workers,
            allowed_hosts=tuple(arguments.allowed_hosts),
            basic_auth=arguments.basic_auth,
        )
        if arguments.dry_run:
            _say(f"{DATABASE}={hidden(config.database)} {shlex.join(command(config))}")
            return 0
        serve(config, say=_say)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
