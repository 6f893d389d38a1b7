"""Reading from a replica, as long as it has what this process wrote or was told of.

How far it must be is a place in the write-ahead log of the primary. Where the replica is not there within some
milliseconds, or does not answer, the primary is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..errors import Unavailable
from .postgres_pool import Pool, fetch
from .postgres_trip import Db
from .postgres_url import Address

BEHIND_S = 0.05  # how long a replica is waited for
LOOK_S = 0.002  # between two looks
SHUNNED_S = 5.0  # how long one that did not answer, or is no replica, is left alone

HERE = "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
PLACE = "SELECT pg_current_wal_insert_lsn()::text"
START = "0/0"

T = TypeVar("T")


class Behind(Exception):
    """The replica does not have everything yet."""


class Replica:
    def __init__(self, primary: Pool, address: Address) -> None:
        self._primary, self._pool = primary, Pool(address)
        self._shunned_until = 0.0
        self.wanted = START  # the place that a reader must find replayed

    async def read(self, tenants: Sequence[str] | None, work: Callable[[Db], Awaitable[T]]) -> T:
        """Do the work, which only reads, on the replica, or else on the primary."""
        deadline = time.monotonic() + BEHIND_S
        while time.monotonic() < deadline and time.monotonic() > self._shunned_until:
            try:
                return await self._pool.read(tenants, lambda db: self._checked(db, work))
            except Behind:
                await asyncio.sleep(LOOK_S)
            except Unavailable:
                self._shunned_until = time.monotonic() + SHUNNED_S
        return await self._primary.read(tenants, work)

    async def _checked(self, db: Db, work: Callable[[Db], Awaitable[T]]) -> T:
        [(replica, there)] = await fetch(db, HERE, (self.wanted,))
        if not replica:  # it was promoted, perhaps of another line of history: its places mean nothing here
            raise Unavailable("what read_url names is no replica")
        if not there:
            raise Behind
        return await work(db)

    @property
    def connections(self) -> tuple[int, int]:
        return self._pool.connections

    async def close(self) -> None:
        await self._pool.close()


async def place(db: Db) -> str:
    """Return where the primary's log is by now: whatever was committed before is replayed where this place is."""
    [(lsn,)] = await fetch(db, PLACE)
    return str(lsn)
