"""The embedded default: the keys in one SQLite file that only its owner may read.

`sqlite:///me.db-keys` is a path relative to the working directory, `sqlite:////data/me.db-keys` an absolute one.
Several processes may have it open: what one writes, the others see at their next look, which asks SQLite whether
anybody has written since, in the memory that the processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import apsw

from ..access import Permit
from ..directory import Grant, Kept, Key, digest, id_in, issue, opens
from ..errors import Invalid, NotFound
from ..record import now
from ..sqlite_file import BUSY_MS, alone, check_known, commits_seen, is_anothers, one, translated, version, write_ahead

APPLICATION = 0x53494D4B  # PRAGMA application_id: "SIMK"
SCHEMA = 1
STEPS: Mapping[int, str] = {}  # SQL that leads from the schema before it to its number
OURS = ("directory of keys", "restore it, or remove it and make new keys")  # what errors say of it
MODE = 0o600
CACHED = 10_000  # keys that are at hand while nobody writes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = "id, name, tenant, spaces, user, permits, rate, made, expires, revoked, used"

T = TypeVar("T")


class SqliteDirectory:
    def __init__(self, url: str) -> None:
        self._path = _parsed(url)
        self._reader, self._writer = _Line("reader"), _Line("writer")
        self._watch: apsw.Connection | None = None
        self._cache: OrderedDict[bytes, Key] = OrderedDict()  # by the digests of their secrets
        self._cached_at: int | None = None  # what the watch saw when it was filled
        try:
            _make_file(self._path)
            self._writer.connection = _connected(self._path)
            _prepare(self._writer.connection, self._path)
            self._reader.connection = _connected(self._path)
            self._watch = _connected(self._path)
            self._watch.set_busy_timeout(0)
        except BaseException as error:
            self._disconnect()
            raise translated(error, self._path, *OURS) from error

    async def make(self, grant: Grant) -> tuple[Key, str]:
        key, secret = issue(grant, now())
        marks = ", ".join("?" * 12)
        row = (*_row(key), digest(secret))
        await self._run(
            self._writer, lambda db: db.execute(f"INSERT INTO keys ({COLUMNS}, digest) VALUES ({marks})", row)
        )
        return key, secret

    async def find(self, secret: str) -> Key | None:
        """Only right secrets are at hand, by their digests: a wrong one is looked up, whatever id it names."""
        seen, own = self._seen(), digest(secret)
        if seen is None or seen != self._cached_at:
            self._cache.clear()
            self._cached_at = seen
        if own in self._cache:
            return self._cache[own]
        sql, id = f"SELECT digest, {COLUMNS} FROM keys WHERE id = ?", id_in(secret)
        row = await self._run(self._reader, lambda db: db.execute(sql, (id,)).fetchone())
        if not opens(secret, row[0] if row else None) or row is None:
            return None
        key = _key(row[1:])
        self._keep(own, key, seen)
        return key

    def _keep(self, own: bytes, key: Key, seen: int | None) -> None:
        """Keep at hand what was read, unless somebody may have written since."""
        if seen is None or seen != self._cached_at:
            return
        self._cache[own] = key
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    async def get(self, id: str, *, tenant: str | None = None) -> Key:
        return await self._run(self._reader, lambda db: _get(db, id, tenant))

    async def keys(self, *, tenant: str | None = None, after: str | None = None, limit: int = 100) -> list[Key]:
        def read(db: apsw.Connection) -> list[Key]:
            where, values = ("", ()) if tenant is None else (" AND tenant = ?", (tenant,))
            sql = f"SELECT {COLUMNS} FROM keys WHERE seq > ?{where} ORDER BY seq LIMIT ?"
            return [_key(row) for row in db.execute(sql, (_place(db, after), *values, limit))]

        return await self._run(self._reader, read)

    async def count(self, at: datetime) -> int:
        sql = "SELECT count(*) FROM keys WHERE ifnull(revoked > ?1, true) AND ifnull(expires > ?1, true)"
        return await self._run(self._reader, lambda db: int(one(db, sql, (_stamp(at),))))

    async def revoke(self, id: str, at: datetime, *, tenant: str | None = None) -> Key:
        def write(db: apsw.Connection) -> Key:
            _get(db, id, tenant)
            db.execute("UPDATE keys SET revoked = min(ifnull(revoked, ?1), ?1) WHERE id = ?2", (_stamp(at), id))
            return _get(db, id, tenant)

        return await self._run(self._writer, write)

    async def note(self, uses: Mapping[str, datetime]) -> None:
        rows = [(_stamp(at), id) for id, at in uses.items()]
        sql = "UPDATE keys SET used = max(ifnull(used, ?1), ?1) WHERE id = ?2"

        def write(db: apsw.Connection) -> None:
            with db:
                db.executemany(sql, rows)

        await self._run(self._writer, write)

    async def kept(self, *, after: str | None = None, limit: int = 1000) -> list[Kept]:
        sql = f"SELECT digest, {COLUMNS} FROM keys WHERE seq > ? ORDER BY seq LIMIT ?"

        def read(db: apsw.Connection) -> list[Kept]:
            return [(_key(row[1:]), row[0]) for row in db.execute(sql, (_place(db, after), limit))]

        return await self._run(self._reader, read)

    async def restore(self, kept: Sequence[Kept]) -> int:
        marks = ", ".join("?" * 12)
        new = f"INSERT INTO keys ({COLUMNS}, digest) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
        close = "UPDATE keys SET revoked = min(ifnull(revoked, ?1), ?1) WHERE id = ?2"
        rows = [(*_row(key), own) for key, own in kept]
        closed = [(_stamp(key.revoked), key.id) for key, _ in kept if key.revoked]

        def write(db: apsw.Connection) -> int:
            with db:
                before = one(db, "SELECT count(*) FROM keys")
                db.executemany(new, rows)
                db.executemany(close, closed)
                after = one(db, "SELECT count(*) FROM keys")
            return int(after) - int(before)

        return await self._run(self._writer, write)

    async def close(self) -> None:
        await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        for line in (self._reader, self._writer):
            connection, line.connection = line.connection, None
            line.thread.shutdown()
            if connection is not None:
                connection.close()
        if self._watch is not None:
            self._watch.close()

    async def _run(self, line: _Line, work: Callable[[apsw.Connection], T]) -> T:
        connection = line.connection
        if connection is None:
            raise Invalid("this directory is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(line.thread, work, connection)
        except (apsw.Error, OSError) as error:
            raise translated(error, self._path, *OURS) from error

    def _seen(self) -> int | None:
        assert self._watch is not None
        return commits_seen(self._watch)


class _Line:
    """A connection and the one thread that uses it."""

    def __init__(self, name: str) -> None:
        self.connection: apsw.Connection | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"simonides-keys-{name}")


def _parsed(url: str) -> str:
    path = url.removeprefix("sqlite:")
    if not path.startswith("///") or not path[3:] or "?" in path:
        raise Invalid(
            f"{url!r}: write sqlite:///me.db-keys for a relative path, sqlite:////data/me.db-keys for an absolute one"
        )
    if path[3:] == ":memory:":
        raise Invalid("keys are kept in memory by memory:, not by sqlite:///:memory:")
    return str(Path(path[3:]).expanduser().absolute())


# -- the file ----------------------------------------------------------------------------------------------------


def _make_file(path: str) -> None:
    """Make the file where there is none, at once its owner's alone; what SQLite puts beside it is, too."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, MODE))


def _connected(path: str) -> apsw.Connection:
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(db: apsw.Connection, path: str) -> None:
    """Make the schema, or bring it up to date."""
    if is_anothers(db, APPLICATION):
        raise Invalid(f"{path} is a database of another program, or no directory of keys; name another file")
    check_known(db, path, SCHEMA)
    write_ahead(db, path)
    migrate(db)


def migrate(db: apsw.Connection, steps: Mapping[int, str] = STEPS, newest: int = SCHEMA) -> None:
    """Make the schema, or bring an older one to the newest: all steps, or none. Whoever comes second finds it done."""
    if version(db) == newest:
        return
    with alone(db):
        if not (found := version(db)):
            db.execute(resources.files(__package__).joinpath("sqlite.sql").read_text("utf-8"))
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            found = SCHEMA
        for step in range(found + 1, newest + 1):
            db.execute(steps[step])
        db.execute(f"PRAGMA user_version = {max(found, newest)}")


# -- rows --------------------------------------------------------------------------------------------------------


def _place(db: apsw.Connection, after: str | None) -> int:
    """Return the number of the key that a page goes on after."""
    if after is None:
        return 0
    row = db.execute("SELECT seq FROM keys WHERE id = ?", (after,)).fetchone()
    if row is None:
        raise Invalid(f"no key {after!r} to go on after")
    return int(row[0])


def _get(db: apsw.Connection, id: str, tenant: str | None) -> Key:
    row = db.execute(f"SELECT {COLUMNS} FROM keys WHERE id = ? AND ifnull(tenant = ?, true)", (id, tenant)).fetchone()
    if row is None:
        raise NotFound(f"no key {id!r} here")
    return _key(row)


def _row(key: Key) -> tuple[Any, ...]:
    return (
        *(key.id, key.name, key.tenant),
        None if key.spaces is None else json.dumps(sorted(key.spaces), ensure_ascii=False),
        *(key.user, ",".join(key.permits.names), key.rate),
        *map(_stamp, (key.made, key.expires, key.revoked, key.used)),
    )


def _key(row: Sequence[Any]) -> Key:
    id, name, tenant, spaces, user, permits, rate, made, expires, revoked, used = row
    return Key(
        id=id,
        name=name,
        tenant=tenant,
        spaces=None if spaces is None else frozenset(json.loads(spaces)),
        user=user,
        permits=Permit.of(permits.split(",") if permits else ()),
        rate=rate,
        made=EPOCH + timedelta(microseconds=made),
        expires=_time(expires),
        revoked=_time(revoked),
        used=_time(used),
    )


def _stamp(at: datetime | None) -> int | None:
    return None if at is None else (at - EPOCH) // timedelta(microseconds=1)


def _time(stamp: int | None) -> datetime | None:
    return None if stamp is None else EPOCH + timedelta(microseconds=stamp)


open = SqliteDirectory
