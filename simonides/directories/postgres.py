"""Keys in PostgreSQL: for servers that are several, which have one memory in common.

`postgres://me@db.example.com/memory?schema=simonides_keys` is a URL as `postgresql.py` says; the schema is the keys'
alone. It may be in the database of the memory, or in another that fewer may read.

Nothing is kept at hand: each secret that is shown is looked up, which is one question to the server. What one process
revokes, every other refuses from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from ..access import Permit
from ..directory import Grant, Kept, Key, digest, id_in, issue, opens
from ..errors import Damaged, Invalid, NotFound
from ..postgresql import Connection, Pool, make_schema, parsed
from ..record import now

SCHEMA = "simonides_keys"
VERSION = 1
COLUMNS = 'id, name, tenant, spaces, "user", permits, rate, made, expires, revoked, used'
ORDER = "SELECT pg_advisory_xact_lock(hashtextextended('simonides_keys', 0))"  # one at a time


class PostgresDirectory:
    def __init__(self, url: str) -> None:
        self._place = parsed(url, SCHEMA)
        self._pool = Pool(self._place, self._prepare, settings={"timezone": "UTC"}, size=4)

    async def make(self, grant: Grant) -> tuple[Key, str]:
        """One key at a time, so that none has a number before one that was listed already."""
        key, secret = issue(grant, now())
        row = (*_row(key), digest(secret))
        marks = ", ".join(["%s"] * len(row))
        sql = f"INSERT INTO keys ({COLUMNS}, digest) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"

        async def work(db: Connection) -> None:
            async with db.transaction():
                await db.execute(ORDER.encode())
                await db.execute(sql.encode(), row)  # a second time, where the first was not heard to have succeeded

        await self._pool.run(work)
        return key, secret

    async def find(self, secret: str) -> Key | None:
        sql = f"SELECT digest, {COLUMNS} FROM keys WHERE id = %s"

        async def work(db: Connection) -> Sequence[Any] | None:
            return await (await db.execute(sql.encode(), [id_in(secret)], prepare=True)).fetchone()

        row = await self._pool.run(work)
        return _key(row[1:]) if opens(secret, row[0] if row else None) and row else None

    async def get(self, id: str, *, tenant: str | None = None) -> Key:
        found = await self._read("WHERE id = %s AND coalesce(tenant = %s, true)", _text(id), tenant)
        if not found:
            raise NotFound(f"no key {id!r} here")
        return found[0]

    async def keys(self, *, tenant: str | None = None, after: str | None = None, limit: int = 100) -> list[Key]:
        if after is not None and not await self._read("WHERE id = %s", _text(after)):
            raise Invalid(f"no key {after!r} to go on after")
        return await self._read(
            "WHERE seq > coalesce((SELECT seq FROM keys WHERE id = %s), 0) AND coalesce(tenant = %s, true) "
            "ORDER BY seq LIMIT %s",
            *(after, tenant, limit),
        )

    async def count(self, at: datetime) -> int:
        sql = b"SELECT count(*) FROM keys WHERE coalesce(revoked > %s, true) AND coalesce(expires > %s, true)"

        async def work(db: Connection) -> int:
            row = await (await db.execute(sql, [at, at])).fetchone()
            return int(row[0]) if row else 0

        return await self._pool.run(work)

    async def revoke(self, id: str, at: datetime, *, tenant: str | None = None) -> Key:
        sql = "UPDATE keys SET revoked = least(revoked, %s) WHERE id = %s AND coalesce(tenant = %s, true) "
        found = await self._rows(f"{sql} RETURNING {COLUMNS}", at, _text(id), tenant)
        if not found:
            raise NotFound(f"no key {id!r} here")
        return found[0]

    async def note(self, uses: Mapping[str, datetime]) -> None:
        known = sorted((id, at) for id, at in uses.items() if _text(id))  # in order: nobody waits for each other
        sql = b"""UPDATE keys SET used = greatest(used, at) FROM (
            SELECT id, at FROM unnest(%s::text[], %s::timestamptz[]) AS uses (id, at)
            JOIN keys USING (id) ORDER BY id FOR UPDATE OF keys) AS uses WHERE keys.id = uses.id"""

        async def work(db: Connection) -> None:
            await db.execute(sql, [[id for id, _ in known], [at for _, at in known]])

        if known:
            await self._pool.run(work)

    async def kept(self, *, after: str | None = None, limit: int = 1000) -> list[Kept]:
        if after is not None and not await self._read("WHERE id = %s", _text(after)):
            raise Invalid(f"no key {after!r} to go on after")
        sql = (
            f"SELECT digest, {COLUMNS} FROM keys WHERE seq > coalesce((SELECT seq FROM keys WHERE id = %s), 0) "
            "ORDER BY seq LIMIT %s"
        )

        async def work(db: Connection) -> list[Kept]:
            rows = await (await db.execute(sql.encode(), [after, limit])).fetchall()
            return [(_key(row[1:]), bytes(row[0])) for row in rows]

        return await self._pool.run(work)

    async def restore(self, kept: Sequence[Kept]) -> int:
        rows = [(*_row(key), own) for key, own in kept]
        marks = ", ".join(["%s"] * (len(COLUMNS.split(", ")) + 1))
        new = f"INSERT INTO keys ({COLUMNS}, digest) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
        close = b"UPDATE keys SET revoked = least(revoked, %s) WHERE id = %s"
        closed = sorted((key.id, key.revoked) for key, _ in kept if key.revoked)

        async def work(db: Connection) -> int:
            async with db.transaction():
                await db.execute(ORDER.encode())
                found = 0
                for row in rows:
                    found += (await db.execute(new.encode(), row)).rowcount
                for id, at in closed:
                    await db.execute(close, [at, id])
                return found

        return await self._pool.run(work)

    async def close(self) -> None:
        await self._pool.close()

    async def _read(self, where: str, *values: Any) -> list[Key]:
        return await self._rows(f"SELECT {COLUMNS} FROM keys {where}", *values)

    async def _rows(self, sql: str, *values: Any) -> list[Key]:
        async def work(db: Connection) -> list[Key]:
            return [_key(row) for row in await (await db.execute(sql.encode(), values)).fetchall()]

        return await self._pool.run(work)

    async def _prepare(self, db: Connection) -> None:
        async with db.transaction():
            await db.execute(ORDER.encode())
            if await make_schema(db, self._place, "simonides_keys"):
                await db.execute(resources.files(__package__).joinpath("postgres.sql").read_bytes())
            row = await (await db.execute(b"SELECT version FROM simonides_keys")).fetchone()
            if row is None or row[0] > VERSION:
                raise Damaged(f"the keys in {self._place} were made by a newer Simonides: update it")


def _text(id: str) -> str:
    """Return what is asked for; "", which is no key's, where PostgreSQL could not even be asked."""
    return id if id.isascii() and "\0" not in id else ""


def _row(key: Key) -> tuple[Any, ...]:
    return (
        *(key.id, key.name, key.tenant),
        None if key.spaces is None else sorted(key.spaces),
        *(key.user, list(key.permits.names), key.rate),
        *(key.made, key.expires, key.revoked, key.used),
    )


def _key(row: Sequence[Any]) -> Key:
    id, name, tenant, spaces, user, permits, rate, made, expires, revoked, used = row
    return Key(
        id=id,
        name=name,
        tenant=tenant,
        spaces=None if spaces is None else frozenset(spaces),
        user=user,
        permits=Permit.of(permits),
        rate=rate,
        made=made.astimezone(UTC),
        expires=_time(expires),
        revoked=_time(revoked),
        used=_time(used),
    )


def _time(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)


open = PostgresDirectory
