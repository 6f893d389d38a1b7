"""Which worker follows which shards: leases that are kept by a heartbeat and judged by watching it.

A lease is a cursor in the store, and its value is only ever compared for change: the holder moves it on, and whoever
has seen it stand still for long enough, by a monotonic clock of its own, takes it over. No two clocks are compared, so
a wrong one does no harm. Leases spread the work; what keeps it from being done twice is the shard's place in the log.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

from .errors import Conflict
from .follow import SHARDS
from .store import Batch, Cursor, Store

TAKEN_OVER_S = 10.0  # how long a lease stands still before another worker takes it
BEATS = 5  # heartbeats in that time
HOLDER = 32  # bits of a value that count; those above them say who
FORGOTTEN = 6  # times that long, and a worker that is not heard of is forgotten


def lease(follower: str, shard: int | str = "") -> str:
    return f"lease/{follower}#{shard}"


def member(follower: str, worker: int | str = "") -> str:
    return f"worker/{follower}#{worker}"


class Leases:
    """The shards of one follower that are this worker's. `beat` is called again and again, every `beat_s` seconds.

    Each worker takes its fair share, and gives back what it has beyond; a shard in `busy` is given back once it is
    not. `wanted` says which shards to begin nothing new in, because they are to be given back.
    """

    def __init__(
        self,
        store: Store,
        follower: str,
        *,
        taken_over_s: float = TAKEN_OVER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.follower, self.taken_over_s, self.beat_s = follower, taken_over_s, min(1.0, taken_over_s / BEATS)
        self.worker = secrets.randbits(30) | 1
        self.held: dict[int, int] = {}  # with the value that we gave the lease
        self.leaving: set[int] = set()  # ours still, and to be given back
        self.busy: set[int] = set()
        self._store, self._clock = store, clock
        self._count = 0
        self._announced = 0
        self._seen: dict[str, tuple[int, float]] = {}  # each value, and since when it stands there
        self._looked = clock()
        self._round = asyncio.Lock()

    async def beat(self) -> None:
        """Say that we are alive, see who else is, and take or give back what is due."""
        async with self._round:
            self._count += 1
            await self._announce()
            leases, workers = await self._look()
            for shard in [
                shard for shard, value in self.held.items() if leases.get(lease(self.follower, shard)) != value
            ]:
                self._lost(shard)
            await self._share(self._quota(workers))
            await asyncio.gather(*(self._move(shard, self.held[shard], self._value) for shard in list(self.held)))
            await self._take(self._quota(workers) - len(self.held), leases)
            await self._forget(workers)

    async def release(self, shards: Iterable[int]) -> None:
        """These are not busy any more; those that are to be given back are."""
        self.busy -= (done := set(shards))
        for shard in done & self.leaving:
            await self._give_back(shard)

    async def leave(self) -> None:
        """Give everything back, so that others need not wait."""
        async with self._round:
            await asyncio.gather(*(self._give_back(shard) for shard in list(self.held)))
            await self._commit(member(self.follower, self.worker), self._announced, 0)

    # -- one round ---------------------------------------------------------------------------------------------------

    @property
    def _value(self) -> int:
        return self.worker << HOLDER | self._count

    async def _announce(self) -> None:
        name = member(self.follower, self.worker)
        if not await self._commit(name, self._announced, self._value):  # we were taken for dead
            await self._commit(name, await self._store.cursor(name), self._value)
        self._announced = self._value

    async def _look(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the leases and the workers, and note since when each value stands where it does."""
        leases, workers = [await self._store.cursors(name(self.follower)) for name in (lease, member)]
        present = self._clock()
        blind = present - self._looked > self.taken_over_s / 2  # who did not look cannot say that nothing moved
        self._looked = present
        for name, value in (leases | workers).items():
            if blind or self._seen.get(name, (0, 0.0))[0] != value:
                self._seen[name] = value, present
        return leases, workers

    def _still(self, name: str) -> float:
        """Return the seconds for which the value has stood still."""
        return self._clock() - self._seen[name][1]

    def _quota(self, workers: Iterable[str]) -> int:
        """Return how many shards are our share among the workers that are alive."""
        alive = sorted(name for name in workers if self._still(name) < self.taken_over_s)
        mine = member(self.follower, self.worker)
        place = alive.index(mine) if mine in alive else 0
        share, rest = divmod(SHARDS, max(1, len(alive)))
        return share + (place < rest)

    async def _share(self, quota: int) -> None:
        """Give back what is beyond our share: at once where it is idle, and otherwise when it is done."""
        self.leaving &= self.held.keys()
        idle_first = sorted(self.held, key=lambda shard: (shard not in self.leaving, shard in self.busy))
        self.leaving = set(idle_first[: max(0, len(self.held) - quota)])
        for shard in self.leaving - self.busy:
            await self._give_back(shard)

    async def _take(self, count: int, leases: dict[str, int]) -> None:
        free: Sequence[int] = [
            shard for shard in range(SHARDS) if shard not in self.held and self._is_free(shard, leases)
        ]
        chosen = random.sample(free, min(max(count, 0), len(free)))
        await asyncio.gather(
            *(self._move(shard, leases.get(lease(self.follower, shard), 0), self._value) for shard in chosen)
        )

    def _is_free(self, shard: int, leases: dict[str, int]) -> bool:
        name = lease(self.follower, shard)
        return name not in leases or self._still(name) >= self.taken_over_s

    async def _move(self, shard: int, was: int, now: int) -> None:
        if await self._commit(lease(self.follower, shard), was, now):
            self.held[shard] = now
        else:
            self._lost(shard)

    async def _give_back(self, shard: int) -> None:
        value = self.held.get(shard)
        self._lost(shard)
        if value is not None:
            await self._commit(lease(self.follower, shard), value, 0)

    def _lost(self, shard: int) -> None:
        self.held.pop(shard, None)
        self.leaving.discard(shard)

    async def _forget(self, workers: Iterable[str]) -> None:
        """Remove the names of workers that have not been heard of for long."""
        for name in workers:
            if self._still(name) > FORGOTTEN * self.taken_over_s:
                await self._commit(name, self._seen[name][0], 0)

    async def _commit(self, name: str, was: int, now: int) -> bool:
        """Return whether the cursor stood where we believed, and is moved."""
        try:
            await self._store.commit(Batch(), cursor=Cursor(name, was, now))
        except Conflict:
            return False
        return True


def holders(follower: str, leases: dict[str, int]) -> dict[int, int]:
    """Return the worker that holds each shard, of the leases as they are in the store."""
    start = len(lease(follower))
    return {int(name[start:]): value >> HOLDER for name, value in leases.items() if value}
