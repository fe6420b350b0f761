"""Whether a database can be reached and opened, before anything is made in it."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from cluster.preflight.folders import folder_fault
from cluster.study.storage import sqlite_file

TIMEOUT_S = 3  # for a server's answer
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
SQLITE = b"SQLite format 3\0"  # what such a file begins with
TABLES = "studies"  # one of Optuna's tables
PACKAGES = {  # that bring a driver which is named otherwise
    "psycopg2": "psycopg2-binary",
    "psycopg": "'psycopg[binary]'",
    "MySQLdb": "mysqlclient",
}


def sqlite_fault(uri: str) -> str | None:
    """Return why a SQLite file cannot be used; it need not be there yet."""
    file = sqlite_file(uri)
    if file.is_dir():
        return f"expected a file, got the folder {file}"
    if file.exists():
        with file.open("rb") as begun:
            start = begun.read(len(SQLITE))
        if start and start != SQLITE:
            return f"expected an SQLite file, got another kind of file at {file}"
        return None if os.access(file, os.W_OK) else f"expected to be allowed to write {file}"
    return folder_fault(file.absolute().parent)


def storage_fault(url: str) -> str | None:
    """Return why the database of a study's trials cannot be used; nothing is made there."""
    from sqlalchemy.exc import ArgumentError

    try:
        scheme = _backend(url)
    except ArgumentError:
        return None  # no URL: `storage.fault` says so
    if fault := driver_fault(url):
        return fault
    if scheme == "sqlite":
        return sqlite_fault(url)
    remedy = "start it, or leave --storage out to keep the trials in the study's folder"
    if fault := server_fault(url) if scheme in PORTS else None:
        return f"expected a server that answers within {TIMEOUT_S} s, got {fault}; {remedy}"
    return _login_fault(url)


def driver_fault(url: str) -> str | None:
    """Return what has to be installed for a database's URL, if anything."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url).get_dialect().import_dbapi()
    except ImportError as error:
        package = PACKAGES.get(error.name or "", error.name)
        return (
            f"expected a driver of {_backend(url)} in this environment, got none ({error}); pip "
            f"install {package} here and wherever the search is started, or use "
            "sqlite:////FOLDER/studies.db"
        )
    except ArgumentError:
        known = ", ".join(["sqlite", *PORTS])
        got = make_url(url).drivername
        return f"expected a database that SQLAlchemy knows, such as {known}, got {got!r}"
    return None


def is_filled(url: str) -> bool:
    """Return whether a database that can be opened has Optuna's tables."""
    from sqlalchemy import create_engine, inspect

    if _backend(url) == "sqlite" and not sqlite_file(url).exists():
        return False  # opening it would make it
    engine = create_engine(url)
    try:
        return inspect(engine).has_table(TABLES)
    finally:
        engine.dispose()


def _login_fault(url: str) -> str | None:
    """Return what a server says to its user and password."""
    from sqlalchemy.exc import DBAPIError

    try:
        is_filled(url)
    except DBAPIError as error:
        lines = str(error.orig).strip().splitlines() or ["no message"]
        return f"expected a database that opens, got {type(error.orig).__name__} ({lines[0]})"
    return None


def _backend(url: str) -> str:
    """Return which kind of database a URL is of."""
    from sqlalchemy.engine import make_url

    return make_url(url).get_backend_name()


def server_fault(url: str) -> str | None:
    """Return why the server of a database's URL cannot be reached."""
    parts = urlsplit(url)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or not port:
        return f"no host and port in {parts.scheme}://…"
    try:
        with socket.create_connection((parts.hostname, port), timeout=TIMEOUT_S):
            return None
    except OSError as error:
        return f"{type(error).__name__} from {parts.hostname}:{port}"
