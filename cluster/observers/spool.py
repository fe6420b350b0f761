"""A queue on disk before a server that may be away: records are sent in order, each at least once.

The search appends a record and goes on; a thread sends. A sender to whom a repeated record changes
nothing makes that exactly once, whatever is killed in between.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

RETRY_S = 10.0  # between tries while the server is away
SETTLE_S = 60.0  # that the end of a study waits for what has not been sent

Record = dict[str, Any]  # plain values, as JSON has them


class RefusedError(Exception):
    """The server answers and will not have a record, now or later."""


class Spool:
    """Records on their way; one process at a time may open a file."""

    def __init__(
        self,
        file: Path,
        send: Callable[[Record], None],
        log: Callable[[str], None],
        server: str = "MLflow",
    ) -> None:
        """Begin with what an earlier process has left in `file`; `log` hears of outages.

        `send` is called from one thread alone. It raises `RefusedError` for a record that is to be
        left out, and anything else while the server is away.
        """
        self._file, self._send, self._log, self._server = file, send, log, server
        file.parent.mkdir(parents=True, exist_ok=True)
        self._waiting: deque[Record] = deque(map(json.loads, whole_lines(file)))
        self._changed = threading.Condition()
        self._closed = self._is_away = False
        self._next_try = 0.0
        self._num_failed = 0
        self._on_disk = file.open("a", encoding="utf-8")
        self._thread = threading.Thread(target=self._run, name=f"{server} spool", daemon=True)
        self._thread.start()

    @property
    def is_away(self) -> bool:
        """Whether the last record could not be sent."""
        return self._is_away

    def add(self, record: Record) -> None:
        """Keep a record on disk; it is sent when its turn comes."""
        with self._changed:
            self._on_disk.write(json.dumps(record) + "\n")
            self._on_disk.flush()
            self._waiting.append(record)
            self._changed.notify_all()

    def settle(self, timeout_s: float = SETTLE_S) -> int:
        """Wait until all is sent, or a try fails; return how many records are left."""
        until = time.monotonic() + timeout_s
        with self._changed:
            num_failed, self._next_try = self._num_failed, 0.0
            self._changed.notify_all()
            while self._waiting and self._num_failed == num_failed and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
            return len(self._waiting)

    def close(self) -> None:
        """End the thread; what was not sent stays on disk."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._on_disk.close()
        if not self._waiting:
            self._file.unlink(missing_ok=True)

    def _run(self) -> None:
        while (record := self._next()) is not None:
            reason = self._try(record)
            with self._changed:
                self._away(reason) if reason else self._sent()
                self._changed.notify_all()

    def _next(self) -> Record | None:
        """Return the first record when it may be tried; None when the spool is closed."""
        with self._changed:
            while not self._closed:
                rest = self._next_try - time.monotonic()
                if self._waiting and rest <= 0:
                    return self._waiting[0]
                self._changed.wait(rest if self._waiting else None)
            return None

    def _try(self, record: Record) -> str | None:
        """Send a record; return why the server did not have it, or None."""
        try:
            self._send(record)
        except RefusedError as error:
            self._log(f"{self._server} refuses a record of {record.get('run')!r}: {error}")
        except Exception as error:  # of any client, in any state of its server
            return str(error).partition("\n")[0] or type(error).__name__
        return None

    def _sent(self) -> None:
        self._waiting.popleft()
        if self._is_away:
            self._is_away = False
            self._log(f"{self._server} answers again; {len(self._waiting)} records are under way")
        if not self._waiting:
            self._on_disk.truncate(0)

    def _away(self, reason: str) -> None:
        self._num_failed += 1
        self._next_try = time.monotonic() + RETRY_S
        if not self._is_away:
            self._is_away = True
            self._log(f"{self._server} does not answer; records wait in {self._file} ({reason})")


def whole_lines(file: Path) -> list[str]:
    """Return the lines of a file; what a kill left of a last one is cut off."""
    if not file.is_file():
        return []
    content = file.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        file.write_text(whole, encoding="utf-8")
    return whole.splitlines()
