"""A store as it was at one moment: one transaction on a connection of its own, in which everything is read.

Every reading ends with a way back to where it began, so that neither what it may see nor a lock on a table stays until
the next: an erase meanwhile can write its tables anew. The rows that it deletes stay there for the snapshot, though.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import Connection

from ..errors import Invalid
from ..postgresql import Place
from ..store import Batch, Cursor, Lines
from .postgres_errors import translated
from .postgres_plan import Walls
from .postgres_pool import Pool, fetch, see
from .postgres_trip import Db

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
LEISURE = "SET idle_in_transaction_session_timeout = 0"

ONLY_READ = "a snapshot is only read from"

T = TypeVar("T")


class Frozen:
    """Reads at that moment, one reader at a time."""

    def __init__(self, db: Db, place: Place, name: str) -> None:
        self._db, self._place, self._name = db, place, name
        self._turn = asyncio.Lock()

    async def read(self, tenants: Sequence[str] | None, work: Callable[[Db], Awaitable[T]]) -> T:
        """Do the work as `Pool.read` does; what is lost with its connection is lost."""
        try:
            async with self._turn, self._db.transaction(force_rollback=True), self._db.pipeline():
                await see(self._db, tenants)
                return await work(self._db)
        except psycopg.Error as error:
            raise translated(error, self._place) from error

    async def close(self) -> None:
        await self._db.close()

    def join(self, db: Connection[Any]) -> None:
        """Let another connection see what this one does, until its transaction ends."""
        db.execute(BEGIN)
        db.execute(f"SET TRANSACTION SNAPSHOT '{self._name}'")


class Refusing:
    """What stands in a writer's place where nothing is written."""

    def __init__(self) -> None:
        self.realms: dict[Walls, int] = {}

    async def commit(self, batch: Batch, cursor: Cursor | None) -> Lines:
        raise Invalid(ONLY_READ)

    async def alone(self, work: Callable[[Db], Awaitable[T]]) -> T:
        raise Invalid(ONLY_READ)

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def frozen(pool: Pool) -> AsyncIterator[Frozen]:
    place = pool.address.place
    try:
        db = await pool.open()
    except psycopg.Error as error:
        raise translated(error, place) from error
    try:
        try:
            await db.execute(LEISURE)
            await db.execute(BEGIN)
            [(name,)] = await fetch(db, "SELECT pg_export_snapshot()")
        except psycopg.Error as error:
            raise translated(error, place) from error
        yield Frozen(db, place, name)
    finally:
        await db.close()
