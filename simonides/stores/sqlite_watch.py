"""Tells whether anybody, in whatever process, has committed: a look into the shared memory of the write-ahead log."""

from __future__ import annotations

import threading
from collections.abc import Callable

import apsw

from ..sqlite_file import commits_seen


class Watch:
    """A connection that asks for nothing but SQLite's `data_version`, which another connection's commit changes.

    It is made at the first look. Without `connect` (a store in memory) it sees nothing.
    """

    def __init__(self, connect: Callable[[], apsw.Connection] | None) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None

    def look(self) -> int | None:
        """Return the version as it is now, or None where that cannot be told."""
        with self._lock:
            if self._connection is None and self._connect:
                self._connection = self._connect()
                self._connection.set_busy_timeout(0)
            return self._version()

    def seen(self) -> int | None:
        """The same, for a thread that must not wait: neither for the disk nor for anybody."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._version()
        finally:
            self._lock.release()

    def _version(self) -> int | None:
        return commits_seen(self._connection) if self._connection else None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._connect = None
