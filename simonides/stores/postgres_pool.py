"""Connections to PostgreSQL that are lent out one at a time, and what each transaction may see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncCursor, Connection
from psycopg.pq import TransactionStatus

from ..errors import Invalid, Unavailable
from ..postgresql import quoted
from .postgres_errors import lost, translated
from .postgres_rows import array, kept
from .postgres_trip import Db
from .postgres_url import Address

WAIT_S = 30.0  # how long a connection is waited for when all are lent

T = TypeVar("T")
Sent = AsyncCursor[Any]  # a statement that was sent, and then its rows

# What a transaction may see, until it ends: the realms of these tenants, or all of them.
TENANTS = "SELECT set_config('simonides.tenant', %s, true)"
ALL = "SELECT set_config('simonides.all', 'on', true)"

SESSION = (
    "SELECT set_config('search_path', %s, false), set_config('synchronous_commit', %s, false),"
    " set_config('plan_cache_mode', 'force_custom_plan', false), set_config('jit', 'off', false),"
    " set_config('idle_in_transaction_session_timeout', '60s', false), set_config('lock_timeout', '30s', false)"
)

# To plan what is only written takes longer than to write it: whoever writes has a plan for all values, which goes by
# indexes however small the tables were when it was made. What looks things up in the same transaction needs its own.
PLANNED_ONCE = (
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false)"
)
PLANNED_ANEW = (
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true)"
)


def session(address: Address) -> tuple[str, tuple[str, str]]:
    """Return the statement, and its values, that a new connection begins with.

    Statements are planned for the values they have: how many records a user or a word has differs too much.
    """
    return SESSION, (quoted(address.schema), "on" if address.durability == "full" else "off")


def connect(address: Address) -> Connection[Any]:
    """Return a connection for upkeep, in a thread of its own; each statement is a transaction."""
    try:
        connection = psycopg.connect(address.conninfo, autocommit=True)
        connection.execute(*session(address))
    except psycopg.Error as error:
        raise translated(error, address.place) from error
    return connection


class Pool:
    """It belongs to the event loop that uses it first. `size` connections at most are open at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Db] = []
        self._free = asyncio.Semaphore(address.pool)
        self._lent = 0
        self._closed = False

    @property
    def connections(self) -> tuple[int, int]:
        """Return how many are lent, and how many are open and wait for work."""
        return self._lent, len(self._idle)

    async def read(self, tenants: Sequence[str] | None, work: Callable[[Db], Awaitable[T]]) -> T:
        """Do the work in one transaction, which sees the realms of these tenants (None: of all), and only reads.

        Where the connection was lost it is done once more. A cursor that the work returns has its rows when this
        returns: what waits for none of its rows itself takes one trip to the server, however many statements it is.
        """
        try:
            try:
                return await self._once(tenants, work)
            except psycopg.Error as error:
                if not lost(error):
                    raise
            await self.forget()
            return await self._once(tenants, work)
        except psycopg.Error as error:
            raise translated(error, self.address.place) from error

    async def _once(self, tenants: Sequence[str] | None, work: Callable[[Db], Awaitable[T]]) -> T:
        async with self.lent() as db, db.pipeline():
            await see(db, tenants)
            return await work(db)

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[Db]:
        if self._closed:
            raise Invalid("this memory is closed")
        try:
            await (asyncio.wait_for(self._free.acquire(), WAIT_S) if self._free.locked() else self._free.acquire())
        except TimeoutError:
            raise Unavailable(
                f"all {self.address.pool} connections to PostgreSQL were busy for {WAIT_S:.0f} seconds: raise pool="
            ) from None
        db: Db | None = None
        self._lent += 1
        try:
            db = self._idle.pop() if self._idle else await self.open()
            yield db
        except psycopg.errors.InvalidSqlStatementName:
            assert db is not None
            await db.close()
            raise
        finally:
            try:
                if db is not None:
                    await self._take_back(db)
            finally:
                self._lent -= 1
                self._free.release()

    async def open(self) -> Db:
        """Return a new connection, which the caller closes."""
        db = await Db.connect(self.address.conninfo, autocommit=True)
        try:
            await db.execute(*session(self.address))
        except BaseException:
            await db.close()
            raise
        return db

    async def _take_back(self, db: Db) -> None:
        sound = not db.closed and db.pgconn.transaction_status == TransactionStatus.IDLE
        if sound and not self._closed:
            self._idle.append(db)
        else:
            await db.close()

    async def forget(self) -> None:
        """Close what is idle: the server that it led to is gone."""
        idle, self._idle = self._idle, []
        for db in idle:
            await db.close()

    async def close(self) -> None:
        self._closed = True
        await self.forget()


async def see(db: Db, tenants: Iterable[str] | None) -> None:
    if tenants is None:
        await db.execute(ALL)
    elif named := tuple(tenants):
        await db.execute(TENANTS, (array([kept(tenant) for tenant in named]),))


async def fetch(db: Db, sql: str, values: Sequence[Any] = (), *, binary: bool = False) -> list[tuple[Any, ...]]:
    return await (await db.execute(sql, values, binary=binary)).fetchall()


async def fetched(cursor: Sent | None) -> list[tuple[Any, ...]]:
    """Return the rows of what was sent; None: nothing was."""
    return await cursor.fetchall() if cursor else []
