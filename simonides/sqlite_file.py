"""An SQLite file of ours, which several processes may have open: told from those of others, and its errors as ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from .errors import Damaged, Full, Unavailable

BUSY_MS = 30_000  # how long a lock of another process is waited for


def is_anothers(db: apsw.Connection, application: int) -> bool:
    """Return whether it is a database of another program, and not of this PRAGMA application_id."""
    sql = "SELECT (SELECT count(*) FROM sqlite_schema) > 0 AND (SELECT application_id FROM pragma_application_id) <> ?"
    return bool(one(db, sql, (application,)))  # one statement: another process may be making it just now


def version(db: apsw.Connection) -> int:
    """Return the number of its schema; 0 while there is none."""
    return int(one(db, "PRAGMA user_version"))


def check_known(db: apsw.Connection, path: str | None, newest: int) -> None:
    if (found := version(db)) > newest:
        raise Damaged(f"{path} was made by a newer Simonides (schema {found}, this one knows {newest}): update it")


def write_ahead(db: apsw.Connection, path: str) -> None:
    """Switch to the write-ahead log; SQLite's own waiting does not cover two processes that open at once."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            mode = one(db, "PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise Unavailable(f"{path} is on a file system that processes cannot share memory on; use a local disk")
        return


@contextlib.contextmanager
def alone(db: apsw.Connection) -> Iterator[None]:
    """Within this nobody else writes, and what is written is whole or not at all: whoever comes second waits."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def commits_seen(db: apsw.Connection) -> int | None:
    """Return a number that every commit of another connection changes, None where it cannot be told; it never waits."""
    try:
        found = db.pragma("data_version")
    except apsw.Error:
        return None  # whoever reads because of it will hear why
    assert isinstance(found, int)
    return found


def translated(error: BaseException, path: str | None, what: str, remedy: str) -> BaseException:
    """Return the error of our own tree that this is; what is not SQLite's passes as it is. `what` says what the file is
    to us, `remedy` what to do where it is damaged.
    """
    match error:
        case apsw.FullError():
            return Full(f"the disk is full: nothing of this call was kept. Free some space for {path}")
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable(f"another process has held {path} for over {BUSY_MS // 1000} seconds")
        case apsw.NotADBError() | apsw.CorruptError():
            return Damaged(f"{path} is not a sound {what} ({error}): {remedy}")
        case apsw.CantOpenError() | apsw.PermissionsError() | apsw.ReadOnlyError() | apsw.AuthError() | OSError():
            return Unavailable(f"{path} cannot be opened or written: {error}")
        case apsw.IOError():
            return Unavailable(f"{path}: the disk did not do as it was told ({error})")
        case apsw.SQLError() | apsw.SchemaChangeError() | apsw.ConstraintError():
            return Damaged(f"{path} is not as it was made ({error}): {remedy}")
    return error


def rows_of(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    return db.execute(sql, tuple(values)).fetchall()


def first(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    return db.execute(sql, tuple(values)).fetchone()


def one(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    """Return the first column of the first row; None where there is no row."""
    found = first(db, sql, values)
    return found[0] if found else None
