"""What a server is started with: settings that are checked, a command, and an environment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import sqlalchemy

from cluster.study.storage import hidden
from trainables.faults import ConfigError, check, some_text, whole

DATABASE = "MLFLOW_BACKEND_STORE_URI"  # MLflow's own name; a command line would show a password
DRIVERS = {"postgresql": "psycopg[binary]", "mysql": "pymysql", "mssql": "pyodbc"}
ANSWER_S = 60.0  # that a database may take to come up


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """A server: what it keeps, where, and who reaches it."""

    database: str  # an SQLAlchemy URL
    artifacts: str  # a folder, or a URL that MLflow knows
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    allowed_hosts: tuple[str, ...] = ()
    basic_auth: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "database": _database_fault(self.database),
                "artifacts": some_text(self.artifacts),
                "host": some_text(self.host),
                "port": whole(self.port, at_least=1),
                "workers": whole(self.workers, at_least=1),
            }
        )


def _database_fault(url: str) -> str | None:
    """Return the fault of a database's URL, its driver included."""
    try:
        sqlalchemy.create_engine(url).dispose()
    except sqlalchemy.exc.NoSuchModuleError as error:
        return f"expected a database that SQLAlchemy knows, got {hidden(url)!r} ({error})"
    except sqlalchemy.exc.ArgumentError:
        return f"expected a URL such as postgresql+psycopg://user@host/name in ${DATABASE}"
    except ImportError as error:
        kind = url.partition(":")[0].partition("+")[0]
        remedy = f"pip install '{DRIVERS[kind]}'" if kind in DRIVERS else "install it"
        named = f" and name it: {kind}+psycopg://" if kind == "postgresql" else ""
        return f"its driver is missing ({error}); {remedy}{named}"
    return None


def command(config: ServerConfig) -> list[str]:
    """Return the command that starts the server; there is no secret in it."""
    options = {
        "--host": config.host,
        "--port": config.port,
        "--workers": config.workers,
        "--artifacts-destination": config.artifacts,
        "--allowed-hosts": ",".join(config.allowed_hosts),
        "--app-name": "basic-auth" if config.basic_auth else "",
    }
    given = [part for name, value in options.items() if value for part in (name, str(value))]
    return [sys.executable, "-m", "mlflow", "server", *given]


def environment(config: ServerConfig) -> dict[str, str]:
    """Return what the server's environment has beside what is in ours."""
    return {DATABASE: config.database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(config: ServerConfig, say: Callable[[str], None]) -> NoReturn:
    """Become the server, once its database answers.

    Raises:
        ConfigError: If the database does not answer.
    """
    _await_database(config.database, say)
    if "://" not in config.artifacts:
        Path(config.artifacts).mkdir(parents=True, exist_ok=True)
    say(f"MLflow: http://{config.host}:{config.port}  (Ctrl-C ends it)")
    arguments = command(config)
    os.execve(arguments[0], arguments, os.environ | environment(config))


def _await_database(url: str, say: Callable[[str], None]) -> None:
    until, said = time.monotonic() + ANSWER_S, False
    while True:
        try:
            engine = sqlalchemy.create_engine(url)
            engine.connect().close()
            engine.dispose()
            return
        except sqlalchemy.exc.OperationalError as error:
            if time.monotonic() > until:
                reason = str(error.orig).strip().partition("\n")[0]
                raise ConfigError(
                    f"database: expected {hidden(url)} to answer, got {reason}; start it, or mend "
                    f"${DATABASE}"
                ) from error
            if not said:
                said = True
                say(f"waiting for {hidden(url)} ...")
            time.sleep(1)
