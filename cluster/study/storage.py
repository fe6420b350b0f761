"""Where Optuna keeps a study: a journal file by default, or any database that Optuna knows."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import (
    BaseJournalBackend,
    JournalFileBackend,
    JournalFileSymlinkLock,
)
from optuna.storages.journal._storage import JournalOperation

from trainables.config import ConfigError

Log = dict[str, Any]
LASTING = (
    JournalOperation.CREATE_STUDY,
    JournalOperation.CREATE_TRIAL,
    JournalOperation.SET_TRIAL_STATE_VALUES,
)


class Journal(JournalStorage):
    """Optuna's journal, in which all writes of one event can go to the file together.

    A process that is killed leaves an event whole or not at all.
    """

    def __init__(self, backend: BaseJournalBackend) -> None:
        """Keep the journal in `backend`."""
        self._grouping = _Grouping(backend)
        super().__init__(self._grouping)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Append what the block writes at its end, at once; nothing of it is read before."""
        self._grouping.held = []
        try:
            yield
            held = self._grouping.held
        finally:
            self._grouping.held = None
        if held:
            self._grouping.append_logs(held)


class _Grouping(BaseJournalBackend):
    """A backend that can hold logs back."""

    def __init__(self, backend: BaseJournalBackend) -> None:
        self._backend = backend
        self.held: list[Log] | None = None

    def read_logs(self, log_number_from: int) -> Generator[Log, None, None]:
        yield from self._backend.read_logs(log_number_from)

    def append_logs(self, logs: list[Log]) -> None:
        if self.held is None:
            self._backend.append_logs(logs)
        else:
            self.held += logs


class File(BaseJournalBackend):
    """Optuna's journal file, which waits for the disk only where a trial begins or ends.

    What a machine that goes down may lose in between, trials tell again from their checkpoints.
    """

    def __init__(self, file: Path) -> None:
        """Open the file; what a machine that went down left of a last line is cut off."""
        self._file = file
        self._lock = JournalFileSymlinkLock(str(file))
        self._reader = JournalFileBackend(str(file), lock_obj=self._lock)
        with self._locked():
            _cut_half_line(file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def read_logs(self, log_number_from: int) -> Generator[Log, None, None]:
        """Return the logs from a number on."""
        return self._reader.read_logs(log_number_from)

    def append_logs(self, logs: list[Log]) -> None:
        """Append logs to the file."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._locked(), self._file.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            if any(log["op_code"] in LASTING for log in logs):
                os.fsync(file.fileno())


def _cut_half_line(file: Path) -> None:
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(file, whole)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Return the database at `url`, or the journal file in a study's folder.

    The folder of a SQLite file need not be there.

    Raises:
        ConfigError: If the database cannot be opened.
    """
    if url is None:
        return journal(folder)
    try:
        if url.startswith("sqlite"):
            sqlite_file(url).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever the database's driver raises
        raise ConfigError(
            f"storage: expected a database that opens, got {hidden(url)!r} ({error})"
        ) from error


def journal(folder: Path) -> Journal:
    """Return the journal of a study's folder, which is on a local or a shared disk."""
    return Journal(File(folder / "study.journal"))


def sqlite_file(uri: str) -> Path:
    """Return the file of a SQLite database.

    >>> str(sqlite_file("sqlite:////shared/s.db")), str(sqlite_file("sqlite:///s.db"))
    ('/shared/s.db', 's.db')
    """
    return Path(urlsplit(uri).path.removeprefix("/") or "/")


def hidden(url: str | None) -> str | None:
    """Return the URL without its password.

    >>> hidden("postgresql://ada:secret@host/studies")
    'postgresql://ada:***@host/studies'
    """
    from sqlalchemy.engine import make_url

    return url and make_url(url).render_as_string(hide_password=True)


def fault(url: object) -> str | None:
    """Return the fault if `url` is not None and no database's URL."""
    from sqlalchemy.exc import ArgumentError

    try:
        hidden(url)  # type: ignore[arg-type]
    except (ArgumentError, AttributeError, TypeError):
        return f"expected a database URL such as sqlite:////shared/studies.db, got {url!r}"
    return None
