"""Vectors in PostgreSQL, by pgvector: for a memory whose processes are several, and for one beyond a machine's RAM.

`pgvector://me@db.example.com/memory` is a URL as `postgresql.py` says, with these options beside libpq's:
`schema=simonides_near` (it is the index's alone), `small=2048` (groups up to so many vectors, and what came since the
last catch-up, are held in memory), `exact=10000` (up to so many rows, and up to so many that match a filter, every one
is looked at; beyond, an HNSW graph is walked), `ef=160` (how widely it is walked), `m=16`, `ef_construction=64` (how it
is built) and `memory_mb=1024` (what building it may take of the server's memory).

A group is what one model made of one tenant and space. The rows of small ones lie together in one table for each
dimension, by group and slot. One of more than `exact` rows has a table of its own, with a graph of its own: then no
walk has to pass over what is another tenant's, and a group goes with its table. Rows are half floats, as in the store.

The graph is built when the rows are there, because a row put into a graph costs about ten times what it costs in a
build: on the disk, one by one, and not in `maintenance_work_mem`. Where a group more than doubles, it is built anew.

Whoever writes rows of a group, of however many processes, has its line in `lots` locked, and moves on how far it is
filled in the same transaction. Nothing here is the only copy: whatever is missing, damaged or another's is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import numpy as np
import psycopg
from psycopg import pq
from psycopg.adapt import Dumper

from ..errors import Damaged, Invalid, SimonidesError, Unavailable
from ..postgresql import Connection, Pool, make_schema, parsed, quoted
from ..query import Query
from ..record import Record, Scope
from ..store import Extent, Store
from .kernels import Floats, Slots
from .search import (
    REMEDY,
    Held,
    Joined,
    Matches,
    Proposed,
    Search,
    answered,
    checked,
    decoded,
    differing,
    everything,
    made_again,
    meant,
    nothing,
)

SCHEMA = "simonides_near"
VERSION = 1
PGVECTOR = (0, 8)  # the first that goes on walking where a filter left too little
GRAPH_DIMENSIONS = 4000  # that pgvector makes a graph of, of half floats
INLINE_DIMENSIONS = 3900  # that fit in a page with their row
BLOCK = 8192  # rows written in one transaction…
GRAPH_BLOCK = 512  # …where each has to find its place in a graph
BACKLOG = 32_768  # vectors that are held in memory until they are written behind the answers; more are waited for
LOCK_S = 30  # how long somebody else may write before this one gives up
LARGE = 1 / 4  # share of the rows from which walking the graph costs more than looking at every row
EF_MAX = 1000  # as wide as pgvector walks at once; then it goes on from where it was
SAMPLE = 64  # rows that are compared with the store when a group is first asked for
ROW = 1500  # bytes of a node in a build beside its vector, with m = 16; about
OPTIONS = {"small": 2048, "exact": 10_000, "ef": 160, "m": 16, "ef_construction": 64, "memory_mb": 1024}

T = TypeVar("T")
Realm = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    small: int
    exact: int
    ef: int
    m: int
    ef_construction: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Lot:
    """A group's line: see pgvector.sql."""

    lot: int
    number: int
    dimension: int
    filled: int
    holes: int
    own: bool
    graph: bool

    @property
    def table(self) -> str:
        return f"lot_{self.lot}" if self.own else f"vectors_{self.dimension}"

    @property
    def where(self) -> str:
        return "true" if self.own else f"lot = {self.lot}"


LOT = "lot, number, dimension, filled, holes, own, graph"
WHOSE = "store = %s AND model = %s AND tenant = %s AND space = %s"


class Half:
    """A vector on its way to PostgreSQL, as pgvector's halfvec is sent: two shorts, and the halves, big-endian."""

    def __init__(self, vector: Floats) -> None:
        self.bytes = struct.pack(">hh", len(vector), 0) + vector.astype(">f2").tobytes()


class _HalfDumper(Dumper):
    format = pq.Format.BINARY  # of no type that is said: the cast in the statement says it

    def dump(self, obj: Half) -> bytes:
        return obj.bytes


psycopg.adapters.register_dumper(Half, _HalfDumper)


class _Moved(Exception):
    """The rows are not where they were: another process has moved them, or made them anew."""


class PgvectorIndex:
    def __init__(self, url: str, store: Store, model: str, dimension: int) -> None:
        place = parsed(url, SCHEMA, {name: str(value) for name, value in OPTIONS.items()})
        self._place, self._options = place, _options(url, place.options)
        self._store, self._model, self._dimension = store, model, dimension
        settings = {
            "hnsw.iterative_scan": "strict_order",
            "hnsw.max_scan_tuples": str(2**31 - 1),  # a filter ends no walk
            "hnsw.scan_mem_multiplier": "16",
            "hnsw.ef_search": str(self._options.ef),
            "lock_timeout": f"{LOCK_S}s",
        }
        self._pool = Pool(place, self._prepare, settings=settings)
        self._held = Held(store, model, dimension, asyncio.to_thread)
        self._matches = Matches(store, model)
        self._lots: dict[Realm, Lot] = {}
        self._locks: dict[Realm, asyncio.Lock] = {}
        self._behind: dict[Realm, asyncio.Task[None]] = {}
        self._swept = False

    async def near(self, query: Query, vector: Floats, limit: int) -> list[tuple[Record, float]]:
        query, vector = meant(query), checked(vector, self._model, self._dimension)
        extent = await self._store.extent(query.scope, self._model)
        if limit < 1 or not extent.slots:
            return []
        try:
            return await self._nearest(query, vector, limit, extent)
        except _Moved:
            self._lots.pop(query.scope.realm, None)
            return await self._nearest(query, vector, limit, extent)

    async def _nearest(self, query: Query, vector: Floats, limit: int, extent: Extent) -> list[tuple[Record, float]]:
        lot = await self._lot(query.scope, extent)
        tail = await self._held.vectors(query.scope, extent, lot.filled if lot else 0)
        propose = Rows(self._pool, lot, vector, self._options.ef).propose if lot else nothing
        rows = Joined(propose, lot.filled if lot else 0, tail, vector, _slack(vector))
        search = Search(self._store, self._model, query, vector, limit, asyncio.to_thread)
        await answered(search, rows, query, extent, self._matches, self._options.exact)
        return search.answer()

    async def _lot(self, scope: Scope, extent: Extent) -> Lot | None:
        """Return the group's rows, filled so far that what is lacking can be held in memory; None: all of it can."""
        if extent.slots <= self._options.small:
            return None
        lot = self._known(scope, extent) or await self._met(scope)
        lacking = extent.slots - (lot.filled if lot else 0)
        behind = lot is not None and lot.graph and lacking <= BACKLOG  # no question waits for rows to find their place
        if lacking > self._options.small and not behind:
            lot = await self._filled(scope, extent, wait=lacking > BACKLOG)
        if lot and ((lacking > self._options.small and behind) or self._is_graph_due(lot)):
            self._begin_behind(scope)
        return lot

    def _known(self, scope: Scope, extent: Extent) -> Lot | None:
        lot = self._lots.get(scope.realm)
        return lot if lot and lot.number == extent.group else None

    async def _met(self, scope: Scope) -> Lot | None:
        """Return the group's rows as another process, or an earlier one, has left them, if they are sound."""

        async def work(db: Connection) -> Lot | None:
            lot = await self._line(db, scope)
            return lot if lot and await self._is_sound(db, lot, scope) else None

        if lot := await self._pool.run(work):
            self._lots[scope.realm] = lot
        return lot

    async def _is_sound(self, db: Connection, lot: Lot, scope: Scope) -> bool:
        """Compare rows spread over the group, and the last, with the store's vectors."""
        if not await self._fits(lot, scope):
            return False
        if not lot.filled:
            return True
        spread = np.unique(np.linspace(0, lot.filled - 1, SAMPLE + 1).astype(np.int64)).tolist()
        owned = await self._store.owners(everything(scope), self._model, spread)
        found = await self._rows(db, lot, [slot for slot, _, _ in owned])
        return all(found.get(slot) == half for slot, _, half in owned)

    async def _fits(self, lot: Lot, scope: Scope) -> bool:
        """Whether these can be the rows of the group, which is asked how far it reaches after the line was read: since
        the question began, others may have written both.
        """
        extent = await self._store.extent(scope, self._model)
        same = (lot.number, lot.dimension) == (extent.group, self._dimension)
        return same and lot.filled <= extent.slots and lot.holes <= extent.holes

    async def _rows(self, db: Connection, lot: Lot, slots: Sequence[int]) -> dict[int, bytes]:
        """Return the vectors in these slots, as the store has them."""
        sql = f"SELECT slot, halfvec_send(v) FROM {lot.table} WHERE {lot.where} AND slot = ANY(%s)"
        found = await (await db.execute(sql.encode(), [list(slots)], binary=True)).fetchall()
        return {slot: _received(sent) for slot, sent in found}

    # -- writing -------------------------------------------------------------------------------------------------

    async def _filled(self, scope: Scope, extent: Extent, *, wait: bool) -> Lot | None:
        """Write the rows that are lacking; where another writes and is not waited for, return what there is."""
        async with self._locks.setdefault(scope.realm, asyncio.Lock()):  # one connection that waits is enough
            while True:
                lot = await self._pool.run(lambda db: self._fill_block(db, scope, extent, wait))
                if lot is None:
                    return self._known(scope, extent)
                self._lots[scope.realm] = lot
                if lot.filled >= extent.slots:
                    return lot

    async def _fill_block(self, db: Connection, scope: Scope, extent: Extent, wait: bool) -> Lot | None:
        """Write the next of the rows that are lacking. The line is locked, so that nothing is taken away in between."""
        async with db.transaction():
            lot = await self._locked(db, scope, extent, wait)
            if lot is None or lot.filled >= extent.slots:
                return lot
            lot = await self._fitted(db, lot, extent)
            block = GRAPH_BLOCK if lot.graph else BLOCK
            found = await self._store.vectors(scope, self._model, start=lot.filled, limit=block)
            found = [(slot, half) for slot, half in found if slot < extent.slots]
            full = len(found) == block
            reach = found[-1][0] + 1 if full else extent.slots  # a block that is not full reaches to the end
            await self._copy(db, lot, found)
            sql = f"UPDATE lots SET filled = %s WHERE lot = %s RETURNING {LOT}"
            return await self._one(db, sql, [reach, lot.lot])

    async def _locked(self, db: Connection, scope: Scope, extent: Extent, wait: bool) -> Lot | None:
        """Return the group's line, locked, and made where there is none, or another's; None where another has it."""
        lock = f"FOR UPDATE{'' if wait else ' SKIP LOCKED'}"
        made = "INSERT INTO lots (store, model, tenant, space, number, dimension, holes) VALUES "
        made += f"(%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING {LOT}"
        while True:
            lot = await self._line(db, scope, lock)
            if lot and await self._fits(lot, scope) and await self._is_known(db, lot, scope):
                return lot
            if lot:
                await self._drop(db, lot)
            values = [*self._whose(scope), extent.group, self._dimension, extent.holes]
            if lot := await self._one(db, made, values):
                self._matches.forget(extent.group)
                return lot
            if not wait:
                return None

    async def _is_known(self, db: Connection, lot: Lot, scope: Scope) -> bool:
        """Whether the rows are known to be sound, or are found to be."""
        known = self._lots.get(scope.realm)
        return (known is not None and known.lot == lot.lot) or await self._is_sound(db, lot, scope)

    async def _fitted(self, db: Connection, lot: Lot, extent: Extent) -> Lot:
        """Give the group a table of its own where it needs one, and take its graph away where it is to be made anew."""
        if not lot.own and extent.slots > self._options.exact:
            return await self._own(db, lot)
        if lot.graph and extent.slots > 2 * lot.filled:
            await db.execute(f"DROP INDEX {lot.table}_graph".encode())
            lot = await self._changed(db, lot, "graph = false")
        return lot

    async def _own(self, db: Connection, old: Lot) -> Lot:
        sql = f"""UPDATE lots SET own = true, lot = DEFAULT WHERE lot = %s RETURNING {LOT}"""
        new = await self._one(db, sql, [old.lot])
        assert new is not None, "the line is locked"
        await db.execute(f"CREATE TABLE {new.table} (slot bigint PRIMARY KEY, v halfvec({new.dimension}))".encode())
        await _keep_inline(db, new.table, new.dimension)
        rows = f"DELETE FROM {old.table} WHERE {old.where} RETURNING slot, v"
        await db.execute(f"WITH gone AS ({rows}) INSERT INTO {new.table} SELECT slot, v FROM gone".encode())
        return new

    async def _changed(self, db: Connection, lot: Lot, what: str) -> Lot:
        changed = await self._one(db, f"UPDATE lots SET {what} WHERE lot = %s RETURNING {LOT}", [lot.lot])
        assert changed is not None, "the line is locked"
        return changed

    async def _copy(self, db: Connection, lot: Lot, found: Sequence[tuple[int, bytes]]) -> None:
        columns = "slot, v" if lot.own else "lot, slot, v"
        packed = await asyncio.to_thread(_packed, found, self._dimension, None if lot.own else lot.lot)
        async with db.cursor().copy(f"COPY {lot.table} ({columns}) FROM STDIN (FORMAT binary)".encode()) as copy:
            await copy.write(packed)

    # -- the graph -----------------------------------------------------------------------------------------------

    def _is_graph_due(self, lot: Lot) -> bool:
        return lot.own and not lot.graph and lot.filled > self._options.exact and self._dimension <= GRAPH_DIMENSIONS

    def _begin_behind(self, scope: Scope) -> None:
        """Take in what is lacking, and build the graph, in the background: until then, every row of it is looked at."""
        task = self._behind.get(scope.realm)
        if task is None or task.done():
            self._behind[scope.realm] = asyncio.get_running_loop().create_task(self._take_in(scope))

    async def _take_in(self, scope: Scope) -> None:
        with contextlib.suppress(SimonidesError):  # it is tried again by the next question, and catching up says why
            lot = await self._filled(scope, await self._store.extent(scope, self._model), wait=False)
            if lot and self._is_graph_due(lot):
                await self._build(scope, wait=False)

    async def _build(self, scope: Scope, *, wait: bool) -> None:
        lock = f"FOR UPDATE{'' if wait else ' SKIP LOCKED'}"

        async def build(db: Connection, parallel: bool) -> None:
            async with db.transaction():
                lot = await self._line(db, scope, lock)
                if lot is None or not self._is_graph_due(lot):
                    return
                await db.execute(f"SET LOCAL maintenance_work_mem = '{self._build_mb(lot)}MB'".encode())
                if not parallel:
                    await db.execute(b"SET LOCAL max_parallel_maintenance_workers = 0")
                await db.execute(
                    f"CREATE INDEX {lot.table}_graph ON {lot.table} USING hnsw (v halfvec_ip_ops) "
                    f"WITH (m = {self._options.m}, ef_construction = {self._options.ef_construction})".encode()
                )
                self._lots[scope.realm] = await self._changed(db, lot, "graph = true")

        async def work(db: Connection) -> None:
            try:
                await build(db, True)
            except (
                psycopg.errors.DiskFull,
                psycopg.errors.OutOfMemory,
            ):  # of /dev/shm, which containers have little of
                await build(db, False)

        await self._pool.run(work)

    def _build_mb(self, lot: Lot) -> int:
        needed = lot.filled * (2 * self._dimension + ROW * self._options.m / 16) / 2**20
        return max(64, min(self._options.memory_mb, math.ceil(1.2 * needed)))

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def catch_up(self, scope: Scope) -> None:
        extent = await self._store.extent(scope, self._model)
        if extent.slots <= self._options.small:
            await self._give_up(scope)
        else:
            await self._emptied(scope, extent)
            lot = await self._filled(scope, extent, wait=True)
            if lot and self._is_graph_due(lot):
                await self._build(scope, wait=True)
        if scope in self._held:
            lot = self._known(scope, extent)
            await self._held.vectors(scope, extent, lot.filled if lot else 0)
        if not self._swept:
            await self._sweep()

    async def _give_up(self, scope: Scope) -> None:
        """Take away the rows of a group that is small, or small again."""
        self._lots.pop(scope.realm, None)

        async def work(db: Connection) -> Lot | None:
            async with db.transaction():
                if lot := await self._line(db, scope, "FOR UPDATE"):
                    await self._drop(db, lot)
                return lot

        lot = await self._pool.run(work)
        if lot and not lot.own:
            await self._vacuum(lot)

    async def _emptied(self, scope: Scope, extent: Extent) -> None:
        """Take away the rows of what was erased, and their bytes."""

        async def work(db: Connection) -> Lot | None:
            async with db.transaction():
                lot = await self._line(db, scope, "FOR UPDATE")
                if lot is None or not await self._fits(lot, scope) or lot.holes >= extent.holes:
                    return None  # what does not fit goes as a whole, when it is filled
                gone = await self._store.holes(scope, self._model, after=lot.holes)
                sql = f"DELETE FROM {lot.table} WHERE {lot.where} AND slot = ANY(%s)"
                done = await db.execute(sql.encode(), [gone])
                changed = await self._changed(db, lot, f"holes = {lot.holes + len(gone)}")
                if known := self._lots.get(scope.realm):
                    self._lots[scope.realm] = changed if known.lot == changed.lot else known
                self._matches.forget(extent.group)
                self._swept = False
                return changed if done.rowcount else None

        if lot := await self._pool.run(work):
            await self._vacuum(lot)

    async def _vacuum(self, lot: Lot) -> None:
        """Clear the bytes of rows that are gone: a deleted row lies in its page, and in the graph, until then."""
        await self._pool.run(lambda db: db.execute(f"VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) {lot.table}".encode()))

    async def check(self) -> list[str]:
        complaints = list[str]()
        for scope in await self._store.realms():
            extent = await self._store.extent(scope, self._model)
            if extent.slots > self._options.small:
                complaints += await self._check_group(scope)
        left = [lot.table for lot in await self._left_over()]
        return complaints + [f"the rows of {each} are left over from a model that is gone: {REMEDY}" for each in left]

    async def _check_group(self, scope: Scope) -> list[str]:
        """Compare every row with the store's vector."""
        lot = await self._pool.run(lambda db: self._line(db, scope))
        if lot is None:
            return []  # it is made when it is first needed
        name = f"{lot.table} ({lot.where})"
        if not await self._fits(lot, scope):
            return [f"{name} is not of this store as it is: {REMEDY}"]

        async def rows(span: range) -> dict[int, bytes]:
            return await self._pool.run(lambda db: self._rows(db, lot, span))

        try:
            wrong, left = await differing(self._store, self._model, scope, lot.filled, rows)
        except psycopg.errors.UndefinedTable:
            return [f"{name} is gone: {REMEDY}"]
        complaints = [f"{name}: {wrong} of {lot.filled} rows differ from the store's vectors"] if wrong else []
        complaints += [f"{name}: {left} rows of erased vectors are not taken away"] if left else []
        return [f"{complaint}: {REMEDY}" for complaint in complaints]

    async def rebuild(self) -> int:
        self._matches.clear()
        self._held.clear()
        count = await made_again(self._store, self._model, self._options.small, self._give_up, self.catch_up)
        await self._sweep()
        return count

    async def _sweep(self) -> None:
        """Take away the rows of models that the store no longer has."""
        left = await self._left_over()

        async def work(db: Connection) -> None:
            async with db.transaction():
                for lot in left:
                    if await self._one(db, f"SELECT {LOT} FROM lots WHERE lot = %s FOR UPDATE", [lot.lot]):
                        await self._drop(db, lot)

        if left:
            await self._pool.run(work)
            for lot in {lot.table: lot for lot in left if not lot.own}.values():
                await self._vacuum(lot)
        self._swept = True

    async def _left_over(self) -> list[Lot]:
        models = [*await self._store.models(), self._model]
        sql = f"SELECT {LOT} FROM lots WHERE store = %s AND model <> ALL(%s) ORDER BY lot"

        async def work(db: Connection) -> list[Lot]:
            found = await db.execute(sql.encode(), [self._store.identity, models])
            return [Lot(*row) for row in await found.fetchall()]

        return await self._pool.run(work)

    async def close(self) -> None:
        behind, self._behind = list(self._behind.values()), {}
        for task in behind:
            task.cancel()  # what was begun is rolled back; whoever comes next begins again
        await asyncio.gather(*behind, return_exceptions=True)
        await self._pool.close()
        self._lots.clear()
        self._held.clear()
        self._matches.clear()

    # -- lines ---------------------------------------------------------------------------------------------------

    def _whose(self, scope: Scope) -> list[Any]:
        return [self._store.identity, self._model, *scope.realm]

    async def _line(self, db: Connection, scope: Scope, lock: str = "") -> Lot | None:
        return await self._one(db, f"SELECT {LOT} FROM lots WHERE {WHOSE} {lock}", self._whose(scope))

    async def _one(self, db: Connection, sql: str, values: Sequence[Any]) -> Lot | None:
        row = await (await db.execute(sql.encode(), values)).fetchone()
        return Lot(*row) if row else None

    async def _drop(self, db: Connection, lot: Lot) -> None:
        """Take the rows of a line away, and the line, which is locked."""
        if lot.own:
            await db.execute(f"DROP TABLE IF EXISTS {lot.table}".encode())
        else:
            await _make_table(db, lot.dimension)  # of another dimension, it may never have been there
            await db.execute(f"DELETE FROM {lot.table} WHERE {lot.where}".encode())
        await db.execute(b"DELETE FROM lots WHERE lot = %s", [lot.lot])

    async def _prepare(self, db: Connection) -> None:
        """Make what is needed of a database that was never used so; tell what it lacks."""
        async with db.transaction():
            await db.execute(b"SELECT pg_advisory_xact_lock(hashtextextended('simonides_near', 0))")
            where = await self._extension(db)
            if await make_schema(db, self._place, "simonides_near"):
                await db.execute(resources.files(__package__).joinpath("pgvector.sql").read_bytes())
            await db.execute(f"SET LOCAL search_path TO {quoted(self._place.schema)}, {quoted(where)}".encode())
            row = await (await db.execute(b"SELECT version FROM simonides_near")).fetchone()
            if row is None or row[0] > VERSION:
                raise Damaged(f"the index in {self._place} was made by a newer Simonides: update this one")
            await _make_table(db, self._dimension)
        self._pool.path = f", {quoted(where)}"

    async def _extension(self, db: Connection) -> str:
        """Return the schema that pgvector is in; make it where this role may."""
        sql = b"SELECT extversion, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        found = await (await db.execute(sql + b" WHERE extname = 'vector'")).fetchone()
        if found is None:
            await self._create_extension(db)
            found = await (await db.execute(sql + b" WHERE extname = 'vector'")).fetchone()
            assert found is not None, "it was just made"
        version, where = found
        if tuple(int(part) for part in version.split(".")[:2]) < PGVECTOR:
            needs = ".".join(map(str, PGVECTOR))
            raise Unavailable(
                f"pgvector {version} in {self._place} is too old: install {needs} or newer on the server and, as the "
                "extension's owner or a superuser, run ALTER EXTENSION vector UPDATE"
            )
        return str(where)

    async def _create_extension(self, db: Connection) -> None:
        there = await db.execute(b"SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        if await there.fetchone() is None:
            raise Unavailable(
                f"PostgreSQL at {self._place} does not have pgvector: install it on the server (the package "
                "postgresql-<version>-pgvector), then run CREATE EXTENSION vector in this database as a superuser"
            )
        try:
            async with db.transaction():
                await db.execute(b"CREATE EXTENSION vector")
        except psycopg.errors.InsufficientPrivilege as error:
            [role] = await (await db.execute(b"SELECT current_user")).fetchone() or [""]
            raise Unavailable(
                f"the extension vector is not in the database {self._place.database}, and the role {role} may not make "
                "it: run CREATE EXTENSION vector there as a superuser"
            ) from error


class Rows:
    """The rows of a group, as one question is answered from them."""

    def __init__(self, pool: Pool, lot: Lot, vector: Floats, ef: int) -> None:
        self._pool, self._lot, self._half, self._ef = pool, lot, Half(vector), ef

    async def propose(self, count: int, among: Slots | None) -> Proposed:
        lot = self._lot
        if among is not None or not lot.graph or count > LARGE * (lot.filled - lot.holes):
            return await self._pool.run(lambda db: self._scanned(db, count, among))
        found = await self._pool.run(lambda db: self._walked(db, count))
        if found[2]:  # not every row can be walked to
            return await self._pool.run(lambda db: self._scanned(db, count, None))
        return found

    async def _walked(self, db: Connection, count: int) -> Proposed:
        await _set_ef(db, min(EF_MAX, max(self._ef, count)), self._ef)
        sql = f"SELECT slot, -(v <#> %s::halfvec) FROM {self._lot.table} ORDER BY v <#> %s::halfvec"
        return await self._asked(db, sql, [self._half, self._half], count)

    async def _scanned(self, db: Connection, count: int, among: Slots | None) -> Proposed:
        """Look at every row, or at every one of those: what is ordered by is no operator, which would ask the graph."""
        which = "" if among is None else " AND slot = ANY(%s)"
        sql = f"SELECT slot, -(v <#> %s::halfvec) AS score FROM {self._lot.table} WHERE {self._lot.where}{which}"
        values = [self._half] if among is None else [self._half, among.tolist()]
        return await self._asked(db, f"{sql} ORDER BY score DESC", values, count)

    async def _asked(self, db: Connection, sql: str, values: Sequence[Any], count: int) -> Proposed:
        """The limit is said in the statement, so that its plan, which is kept, is one for such a limit."""
        try:
            found = await db.execute(f"{sql} LIMIT {count}".encode(), values, prepare=True, binary=True)
        except psycopg.errors.UndefinedTable as error:
            raise _Moved from error
        rows = await found.fetchall()
        if not rows and self._lot.filled > self._lot.holes and not await self._is_there(db):
            raise _Moved
        slots = np.fromiter((slot for slot, _ in rows), np.int64, len(rows))
        return slots, np.fromiter((score for _, score in rows), np.float32, len(rows)), len(rows) < count

    async def _is_there(self, db: Connection) -> bool:
        found = await db.execute(b"SELECT 1 FROM lots WHERE lot = %s", [self._lot.lot])
        return await found.fetchone() is not None


async def _set_ef(db: Connection, ef: int, usual: int) -> None:
    """Have this connection walk so widely, unless it does already."""
    if getattr(db, "simonides_ef", usual) != ef:
        await db.execute(b"SELECT set_config('hnsw.ef_search', %s, false)", [str(ef)])
        db.simonides_ef = ef  # type: ignore[attr-defined]


def _slack(vector: Floats) -> float:
    """Return how far scores may be off: PostgreSQL is asked in half floats, and a unit vector's product with what they
    lack of the question is at most as large as that (Cauchy).
    """
    return float(np.linalg.norm(vector - vector.astype(np.float16).astype(np.float32))) + 1e-6


def _packed(found: Sequence[tuple[int, bytes]], dimension: int, lot: int | None) -> bytes:
    """Return the rows as COPY … (FORMAT binary) reads them."""
    halves = np.frombuffer(b"".join(half for _, half in found), "<f2")
    if halves.size != len(found) * dimension:
        decoded([half for _, half in found], dimension)  # says what is wrong
    number = [] if lot is None else [("lot_size", ">i4"), ("lot", ">i4")]
    vector = [("v_size", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("v", ">f2", (dimension,))]
    rows = np.zeros(len(found), [("fields", ">i2"), *number, ("slot_size", ">i4"), ("slot", ">i8"), *vector])
    rows["fields"], rows["slot_size"], rows["v_size"], rows["dimension"] = 2, 8, 4 + 2 * dimension, dimension
    rows["slot"] = [slot for slot, _ in found]
    rows["v"] = halves.reshape(-1, dimension)
    if lot is not None:
        rows["fields"], rows["lot_size"], rows["lot"] = 3, 4, lot
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + struct.pack(">h", -1)


def _received(sent: bytes) -> bytes:
    """Return a vector that PostgreSQL sent, as the store has it."""
    return np.frombuffer(sent, ">f2", offset=4).astype("<f2").tobytes()


async def _make_table(db: Connection, dimension: int) -> None:
    """Make the table of that dimension, for groups that are small."""
    table = f"vectors_{dimension}"
    found = await db.execute(b"SELECT to_regclass(%s) IS NOT NULL", [table])
    if await found.fetchone() == (True,):
        return
    columns = f"lot integer, slot bigint, v halfvec({dimension}), PRIMARY KEY (lot, slot)"
    await db.execute(f"CREATE TABLE {table} ({columns})".encode())
    await _keep_inline(db, table, dimension)


async def _keep_inline(db: Connection, table: str, dimension: int) -> None:
    """Keep vectors in their rows: to look at every one, each would have to be fetched from beside the table."""
    if dimension <= INLINE_DIMENSIONS:
        await db.execute(f"ALTER TABLE {table} ALTER v SET STORAGE PLAIN".encode())


def _options(url: str, given: Any) -> Options:
    numbers = {name: int(value) for name, value in given.items() if value.isdecimal()}
    if numbers.keys() != OPTIONS.keys():
        raise Invalid(f"the options {', '.join(OPTIONS)} of pgvector: are numbers")
    if not (1 <= numbers["ef"] <= EF_MAX and 2 <= numbers["m"] <= 100 and 4 <= numbers["ef_construction"] <= 1000):
        raise Invalid(f"pgvector takes ef from 1 to {EF_MAX}, m from 2 to 100, ef_construction from 4 to 1000")
    if numbers["ef_construction"] < 2 * numbers["m"]:
        raise Invalid("ef_construction is at least twice m")
    return Options(**numbers)


open = PgvectorIndex
