"""A store on PostgreSQL 15 or later: for many processes on many machines, with rows walled off by tenant.

`postgresql://user@host/database`; see `postgres_url.py` for what a URL may say. Everything is in one schema
(`?schema=simonides`), which is made when the store is first opened. The second argument is the URL of a replica that
may be read from: it is, as long as it has everything that this process wrote or was told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import Connection

from ..errors import Invalid, SimonidesError
from ..growth import Growth
from ..query import Query
from ..record import Record, Ref, Scope
from ..store import Batch, Change, Cursor, Embedding, Extent, Health, Letter, Lines, Store
from . import rows
from .postgres_bell import Bell
from .postgres_bytes import scrub
from .postgres_errors import translated
from .postgres_migrations import prepare
from .postgres_pool import Pool, Sent, connect, fetch, fetched
from .postgres_replica import Replica, place
from .postgres_rows import Numbers, as_record, bound, given, kept, numbers, term_number, unbound, where
from .postgres_snapshot import ONLY_READ, Frozen, Refusing, frozen
from .postgres_trip import Db
from .postgres_upkeep import COUNTS, as_counts, check, rebuild
from .postgres_url import parsed
from .postgres_vectors import drop
from .postgres_words import Words, said
from .postgres_writer import Writer

PAGE_MAX = 10_000  # hits up to which it may be quicker to merge parts that are in order than to sort
MANY_ROWS = 2**31 - 1

T = TypeVar("T")

CHANGES = """
    SELECT c.seq, c.at, c.id, c.version, c.kind, c.note, m.tenant, m.space, c.user, c.agent, c.session
    FROM (SELECT * FROM changes WHERE seq > %s AND (%s OR version = 0) ORDER BY seq LIMIT %s) c
    JOIN realms m ON m.realm = c.realm
    ORDER BY c.seq
"""
LETTERS = """
    SELECT t.follower, t.tries, t.at,
        t.error, c.seq, c.at, c.id, c.version, c.kind, c.note, m.tenant, m.space, c.user, c.agent, c.session
    FROM letters t JOIN changes c ON c.seq = t.seq JOIN realms m ON m.realm = c.realm
    WHERE t.seq > %s AND (%s::text IS NULL OR t.follower = %s) ORDER BY t.seq, t.follower LIMIT %s
"""
RECALLED = """
    INSERT INTO recalls (realm, id, at)
    SELECT m.realm, j.id, max(j.at)
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) j (tenant, space, id, at)
    JOIN realms m ON m.tenant = j.tenant AND m.space = j.space
    JOIN records r ON r.realm = m.realm AND r.id = j.id AND r.version = 1
    GROUP BY m.realm, j.id ORDER BY m.realm, j.id
    ON CONFLICT (realm, id) DO UPDATE SET at = greatest(recalls.at, excluded.at)
"""
LOCKED = "SELECT 1 FROM realms WHERE tenant = ANY(%s::text[]) ORDER BY realm FOR UPDATE"
EXTENT = "SELECT grp, slots, holes FROM groups WHERE realm = %s AND model = %s"
GROUP = "(SELECT grp FROM groups WHERE realm = %s AND model = %s)"
VECTORS = f"SELECT slot, value FROM vectors WHERE realm = %s AND grp = {GROUP} AND slot >= %s ORDER BY slot LIMIT %s"
EMBEDDED = """
    SELECT v.slot, v.value, v.row_id, r.id, r.version
    FROM vectors v JOIN records r ON r.realm = v.realm AND r.row_id = v.row_id
    WHERE v.realm = %s AND v.grp = %s AND v.slot >= %s ORDER BY v.slot LIMIT %s
"""
THEIR_TOKENS = "SELECT row_id, value FROM tokens WHERE realm = %s AND grp = %s AND row_id = ANY(%b::bigint[])"
TOKENS = f"""
    SELECT j.n, t.value FROM unnest(%s::text[], %s::int[]) WITH ORDINALITY j (id, version, n)
    JOIN records r ON r.realm = %s AND r.id = j.id AND r.version = j.version
    JOIN tokens t ON t.realm = r.realm AND t.row_id = r.row_id AND t.grp = {GROUP}
"""
SLOTS = f"FROM vectors v WHERE v.realm = %s AND v.grp = {GROUP} AND v.slot = ANY(%s::bigint[])"
PLACED = f"SELECT v.slot, v.row_id, v.value {SLOTS}"
OWNERS = f"SELECT r.row_id, {rows.SELECT} FROM records r WHERE r.row_id IN (SELECT v.row_id {SLOTS}) AND "
MODELS = """
    SELECT g.model, sum(g.slots - g.holes) FROM groups g JOIN realms m ON m.realm = g.realm
    WHERE %s::text IS NULL OR (m.tenant = %s AND m.space = %s) GROUP BY g.model
"""
AROUND = f"""
    SELECT j.n, x.* FROM unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY j (part_of, at, id, n)
    CROSS JOIN LATERAL (
        SELECT {rows.SELECT} FROM records r
        WHERE {{where}} AND r.part_of = j.part_of AND (r.at, r.id) {{way}} (j.at, j.id)
        ORDER BY r.at {{order}}, r.id {{order}}, r.version DESC LIMIT 1
    ) x
"""


COUNTED = ("records", "words", "labels", "links", "vectors", "tokens", "groups", "realms", "changes")
COUNTED_AT = 1_000  # rows written, at first; then twice as many each time

log = logging.getLogger("simonides")


@dataclass(frozen=True, slots=True)
class Parts:
    pool: Pool | Frozen
    writer: Writer | Refusing
    replica: Replica | None
    bell: Bell | None


class PostgresStore:
    def __init__(self, url: str, read_url: str = "") -> None:
        self._address = parsed(url)
        connection = connect(self._address)
        try:
            self.identity = prepare(connection, self._address)
        finally:
            connection.close()
        self.folder: str | None = None
        self._read_from = parsed(read_url) if read_url else None
        self._parts: Parts | None = None
        self._head = 0  # the last that was told
        self._growth = Growth()
        self._words = Words()
        self._fresh, self._many = 0, COUNTED_AT  # rows written since they were last counted, and when to count again
        self._counting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def _here(self) -> Parts:
        """Return the connections, which belong to the event loop that first asks for them."""
        if self._parts is None:
            if self._closed:
                raise Invalid("this memory is closed")
            pool = Pool(self._address)
            replica = Replica(pool, self._read_from) if self._read_from else None
            self._parts = Parts(pool, Writer(pool), replica, Bell(pool, self._growth))
        return self._parts

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Store]:
        pool = self._here.pool
        if isinstance(pool, Frozen):
            yield self
            return
        async with frozen(pool) as moment:
            one = copy.copy(self)
            one._parts, one._words = Parts(moment, Refusing(), None, None), Words()
            yield one

    # -- writing -------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch, *, cursor: Cursor | None = None) -> Lines:
        lines = await self._here.writer.commit(batch, cursor)
        if lines and self._here.bell:
            self._growth.stir()
            self._here.bell.ring()
        self._count(len(lines) + len(batch.embeddings))
        await self._follow()
        return lines

    def _count(self, more: int) -> None:
        """Have the rows counted, in the background, when they are many more than before.

        Until PostgreSQL has counted a table it takes it for nearly empty, and looks through all of it for a few rows;
        by itself it counts within a minute or so, which is long after an import.
        """
        self._fresh += more
        if self._fresh >= self._many and self._counting is None:
            self._fresh, self._many = 0, self._many * 2
            self._counting = asyncio.get_running_loop().create_task(self._counted())

    async def _counted(self) -> None:
        try:
            await self._aside(lambda db: db.execute(f"ANALYZE {', '.join(COUNTED)}"))
        except SimonidesError as error:
            log.debug("rows are not counted yet: %s", error)
        finally:
            self._counting = None

    async def recalled(self, last: Mapping[Ref, datetime]) -> None:
        if last:
            refs = list(last)
            tenants, spaces, ids = zip(*((kept(r.tenant), kept(r.space), kept(r.id)) for r in refs), strict=True)
            stamps = [rows.stamp(last[ref]) for ref in refs]

            async def note(db: Db) -> None:
                await db.execute(LOCKED, (list(tenants),))  # so that none of them is erased meanwhile
                await db.execute(RECALLED, (list(tenants), list(spaces), list(ids), stamps))

            await self._here.writer.alone(note)
            await self._follow()

    async def drop_model(self, model: str, *, limit: int | None = None) -> int:
        dropped = await self._here.writer.alone(lambda db: drop(db, kept(model), limit))
        await self._follow()
        return dropped

    async def _follow(self) -> None:
        """Read from a replica only when it has what is on the primary by now."""
        if replica := self._here.replica:
            replica.wanted = await self._here.pool.read(None, place)

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, query: Query) -> list[Record]:
        found = await self._in_realm(query.scope, lambda db, realm: db.execute(*_finding(query, realm)))
        return [as_record(row, query.scope) for row in await fetched(found)]

    async def count(self, query: Query) -> int:
        def count(realm: int) -> tuple[str, list[Any]]:
            condition, values = where(query, realm)
            return f"SELECT count(*) FROM records r WHERE {condition}", values

        found = await self._in_realm(query.scope, lambda db, realm: db.execute(*count(realm)))
        return _only(await fetched(found))

    async def around(self, query: Query, records: Sequence[Record]) -> list[tuple[Record | None, Record | None]]:
        asked = [(n, record) for n, record in enumerate(records) if record.part_of is not None]
        beside: list[list[Record | None]] = [[None, None] for _ in records]

        async def read(db: Db, realm: int) -> list[Sent]:
            condition, values = where(dataclasses.replace(query, ids=None), realm)
            places = (
                [kept(r.part_of or "") for _, r in asked],
                Numbers([rows.stamp(r.at) or 0 for _, r in asked]),
                [kept(r.id) for _, r in asked],
            )
            ways = [
                AROUND.format(where=condition, way=way, order=order) for way, order in (("<", "DESC"), (">", "ASC"))
            ]
            return [await db.execute(way, (*places, *values)) for way in ways]

        found = (await self._in_realm(query.scope, read) or []) if asked else []
        for side, cursor in enumerate(found):
            for n, *columns in await cursor.fetchall():
                beside[asked[n - 1][0]][side] = as_record(columns, query.scope)
        return [(before, after) for before, after in beside]

    async def words(self, query: Query, text: str) -> list[tuple[Record, float]]:
        found = await self._in_realm(query.scope, lambda db, realm: self._words.find(db, realm, query, text))
        return await said(found, query.scope) if found else []

    async def spread(self, scope: Scope, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        words, numbered = self._words, {term: term_number(term) for term in terms}
        wanted = list(numbered.values())
        while asked := await self._in_realm(scope, lambda db, realm: words.ask(db, realm, wanted)):
            if found := await words.told(asked):
                versions, counts = found
                return versions, {term: counts[number] for term, number in numbered.items()}
        return 0, dict.fromkeys(terms, 0)

    async def changes(self, *, after: int = 0, limit: int = 100, erases: bool = False) -> list[Change]:
        found = await self._everywhere(CHANGES, (after, not erases, limit))
        return [rows.as_change(unbound(row)) for row in found]

    async def head(self, scope: Scope | None = None) -> int:
        """Ask the server: it is one small row, in less time than a message about it would take to come."""
        if scope is not None:
            sql = "SELECT head FROM realms WHERE tenant = %s AND space = %s"
            values = bound(scope.realm)
            found = await self._here.pool.read([scope.tenant], lambda db: db.execute(sql, values))
            return _only(await fetched(found))
        [(seq,)] = await fetched(await self._here.pool.read([], lambda db: db.execute("SELECT seq FROM log")))
        if seq != self._head:
            await self._follow()  # first: others who ask meanwhile have to wait for it, too
            self._head = int(seq)
        return int(seq)

    async def grown(self, after: int, wait_s: float) -> int:
        if self._here.bell:
            self._here.bell.listen()
        return await self._growth.beyond(self.head, after, wait_s)

    async def cursor(self, name: str) -> int:
        found = await self._everywhere("SELECT seq FROM cursors WHERE name = %s", (kept(name),))
        return int(found[0][0]) if found else 0

    async def cursors(self, prefix: str) -> dict[str, int]:
        sql = "SELECT name, seq FROM cursors WHERE starts_with(name, %s) AND seq <> 0"
        return {given(name): int(seq) for name, seq in await self._everywhere(sql, (kept(prefix),))}

    async def letters(self, follower: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        name = None if follower is None else kept(follower)
        found = [unbound(row) for row in await self._everywhere(LETTERS, (after, name, name, limit))]
        return [
            Letter(follower, rows.as_change(tuple(change)), tries, rows.moment(at), error)
            for follower, tries, at, error, *change in found
        ]

    # -- vectors -------------------------------------------------------------------------------------------------

    async def extent(self, scope: Scope, model: str) -> Extent:
        found = await self._in_realm(scope, lambda db, realm: db.execute(EXTENT, (realm, kept(model))))
        return next((Extent(*row) for row in await fetched(found)), Extent(0, 0, 0))

    async def vectors(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, bytes]]:
        async def read(db: Db, realm: int) -> Sent:
            return await db.execute(VECTORS, (realm, realm, kept(model), start, limit), binary=True)

        return [(slot, value) for slot, value in await fetched(await self._in_realm(scope, read))]

    async def embedded(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, Embedding]]:
        async def read(db: Db, realm: int) -> list[tuple[int, Embedding]]:
            group = _only(await fetch(db, EXTENT, (realm, kept(model))))
            its = await _embedded(db, realm, group, start, limit)
            found = [(whose, list(some)) for whose, some in islice(groupby(its, lambda row: row[2:]), limit)]
            named = [row for (row, *_), _ in found]
            tokens = dict(await fetch(db, THEIR_TOKENS, (realm, group, named), binary=True))
            return [
                (
                    some[0][0],
                    Embedding(Ref(*scope.realm, given(id)), version, model, _floats(some), tokens.get(row, b"")),
                )
                for (row, id, version), some in found
            ]

        return await self._in_realm(scope, read) or []

    async def holes(self, scope: Scope, model: str, *, after: int) -> list[int]:
        sql = f"SELECT slot FROM holes WHERE realm = %s AND grp = {GROUP} AND hole >= %s ORDER BY hole"
        found = await self._in_realm(scope, lambda db, realm: db.execute(sql, (realm, realm, kept(model), after)))
        return [slot for (slot,) in await fetched(found)]

    async def slots(self, query: Query, model: str, *, start: int = 0, limit: int | None = None) -> NDArray[np.int64]:
        async def read(db: Db, realm: int) -> Sent:
            condition, values = where(query, realm)
            found = (
                "SELECT v.slot FROM records r JOIN vectors v ON v.realm = r.realm AND v.row_id = r.row_id"
                f" WHERE {condition} AND v.grp = {GROUP} AND v.slot >= %s ORDER BY v.slot LIMIT %s"
            )
            sql = f"SELECT array_send(array_agg(slot::bigint)) FROM ({found}) s"
            return await db.execute(sql, (*values, realm, kept(model), start, limit), binary=True)

        found = await fetched(await self._in_realm(query.scope, read))
        return numbers(found[0][0] if found else None)

    async def owners(self, query: Query, model: str, slots: Sequence[int]) -> list[tuple[int, Record, bytes]]:
        async def read(db: Db, realm: int) -> tuple[Sent, Sent]:
            condition, values = where(query, realm, of_given=True)
            wanted = Numbers([slot for slot in map(int, slots) if 0 <= slot <= MANY_ROWS])
            named = realm, realm, kept(model), wanted
            placed = await db.execute(PLACED, named, binary=True)
            return placed, await db.execute(OWNERS + condition, (*named, *values))  # each once: it may be long

        if (sent := await self._in_realm(query.scope, read)) is None:
            return []
        placed, found = [await fetched(each) for each in sent]
        owner = {row_id: as_record(row, query.scope) for row_id, *row in found}
        return [(slot, owner[row_id], value) for slot, row_id, value in placed if row_id in owner]

    async def tokens(self, scope: Scope, model: str, which: Sequence[tuple[str, int]]) -> list[bytes]:
        async def read(db: Db, realm: int) -> Sent:
            ids, versions = [kept(id) for id, _ in which], [version for _, version in which]
            return await db.execute(TOKENS, (ids, versions, realm, realm, kept(model)), binary=True)

        found = await self._in_realm(scope, read) if which else None
        told = dict(await fetched(found))
        return [told.get(n, b"") for n in range(1, len(which) + 1)]

    async def recalls(self, scope: Scope, ids: Sequence[str]) -> dict[str, datetime]:
        sql = "SELECT id, at FROM recalls WHERE realm = %s AND id = ANY(%s::text[])"
        found = await self._in_realm(scope, lambda db, realm: db.execute(sql, (realm, bound([list(ids)])[0])))
        return {given(id): rows.moment(at) for id, at in await fetched(found)}

    async def last_recalls(self, scope: Scope, *, after: str = "", limit: int = 1000) -> list[tuple[str, datetime]]:
        sql = "SELECT id, at FROM recalls WHERE realm = %s AND id > %s ORDER BY id LIMIT %s"
        found = await self._in_realm(scope, lambda db, realm: db.execute(sql, (realm, kept(after), limit)))
        return [(given(id), rows.moment(at)) for id, at in await fetched(found)]

    async def models(self, scope: Scope | None = None) -> dict[str, int]:
        tenant, space = bound(scope.realm) if scope else (None, None)
        found = await self._everywhere(MODELS, (tenant, tenant, space))
        return {given(model): int(count) for model, count in found if count}

    async def realms(self) -> list[Scope]:
        found = await self._everywhere("SELECT tenant, space FROM realms ORDER BY tenant, space")
        return [Scope(tenant=tenant, space=space) for tenant, space in map(unbound, found)]

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def scrub(self, erased: Sequence[str] = ()) -> Mapping[str, Any]:
        return await self._aside(scrub, writes=True)

    async def unfinished(self) -> list[Ref]:
        sql = "SELECT m.tenant, m.space, e.id FROM erasing e JOIN realms m ON m.realm = e.realm ORDER BY 1, 2, 3"
        return [Ref(*unbound(row)) for row in await self._everywhere(sql)]

    async def rebuild(self) -> None:
        await self._aside(rebuild, writes=True)
        self._words.forget()

    async def counts(self) -> dict[str, int]:
        return as_counts(await self._everywhere(COUNTS))

    async def check(self) -> Health:
        return await self._aside(check)

    async def close(self) -> None:
        self._closed = True
        if self._counting:
            await asyncio.wait([self._counting])
        self._growth.close()
        if self._parts:
            await self._parts.writer.close()
            if self._parts.bell:
                await self._parts.bell.close()
            await self._parts.pool.close()
            if self._parts.replica:
                await self._parts.replica.close()

    @property
    def connections(self) -> tuple[int, int]:
        pools = [self._parts.pool, self._parts.replica] if self._parts else []
        found = [pool.connections for pool in pools if pool is not None and not isinstance(pool, Frozen)]
        return sum(active for active, _ in found), sum(idle for _, idle in found)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _in_realm(self, scope: Scope, work: Callable[[Db, int], Awaitable[T]]) -> T | None:
        """Do the work, which reads in this realm alone; return None where there is no such realm."""

        async def read(db: Db) -> T | None:
            realm = known.get(scope.realm)
            if realm is None:
                sql = "SELECT realm FROM realms WHERE tenant = %s AND space = %s"
                realm = _only(await fetch(db, sql, bound(scope.realm)))
                if not realm:
                    return None
                known[scope.realm] = realm
            return await work(db, realm)

        known = self._here.writer.realms
        return await (self._here.replica or self._here.pool).read([scope.tenant], read)

    async def _everywhere(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return await fetched(await self._here.pool.read(None, lambda db: db.execute(sql, values)))

    async def _aside(self, work: Callable[[Connection[Any]], T], *, writes: bool = False) -> T:
        """Do work that takes its time on a connection of its own, in a thread."""
        if self._closed:
            raise Invalid("this memory is closed")
        moment = self._parts.pool if self._parts else None
        if writes and isinstance(moment, Frozen):
            raise Invalid(ONLY_READ)

        def do() -> T:
            try:
                with connect(self._address) as db:
                    if isinstance(moment, Frozen):
                        moment.join(db)
                    return work(db)
            except psycopg.Error as error:
                raise translated(error, self._address.place) from error

        return await asyncio.to_thread(do)


def _finding(query: Query, realm: int) -> tuple[str, list[Any]]:
    """Return the statement that finds what a query means.

    The newest of somebody's and of nobody's are found apart, each in the order of an index, and merged.
    """
    order = "at DESC, id DESC, version DESC" if query.newest else "id, version"
    page, more = rows.page(query, query.after) if query.after is not None else ("true", [])
    level = next(iter(rows.levels(query)), None) if query.newest and query.limit <= PAGE_MAX else None
    ways: list[rows.By] = [{level[0]: (name,)} for name in level[1]] if level else [{}]
    parts, values = list[str](), list[Any]()
    for way in ways:
        condition, mine = where(query, realm, by=way)
        found = f"SELECT {rows.SELECT} FROM records r WHERE {condition} AND {page.replace('?', '%s')}"
        parts.append(f"({found} ORDER BY {order} LIMIT %s)")
        values += [*mine, *bound(more), query.limit]
    if len(parts) == 1:
        return parts[0], values
    return f"{' UNION ALL '.join(parts)} ORDER BY {order} LIMIT %s", [*values, query.limit]


def _only(found: Sequence[tuple[Any, ...]]) -> int:
    """Return the number that begins the one row there may be; 0 where there is none."""
    return int(found[0][0]) if found else 0


async def _embedded(db: Db, realm: int, group: int, start: int, limit: int) -> list[tuple[Any, ...]]:
    """Return the vectors from that slot on of so many versions, and some that come after; each with whose it is."""
    found = list[tuple[Any, ...]]()
    while True:
        page = await fetch(db, EMBEDDED, (realm, group, start, limit + 1), binary=True)
        found += page
        if len(page) <= limit or len({row for _, _, row, *_ in found}) > limit:
            return found
        start = page[-1][0] + 1


def _floats(some: Sequence[tuple[Any, ...]]) -> NDArray[np.float32]:
    return np.stack([np.frombuffer(value, "<f2") for _, value, *_ in some]).astype(np.float32)


open = PostgresStore
