"""The log carried to the workers by a broker: Redis Streams or Kafka instead of each worker reading it off the store.

What goes through the broker are parcels. A parcel says: of the shards of this partition, between this line of the log
and that one, these are all the changes. So whoever reads one knows whether anything is missing before it, whatever the
broker has lost, dropped, doubled or never been given; and what is missing is read from the store, which stays the
truth. The broker shares the partitions among the workers and brings the changes quickly; that no work is left out, nor
done twice to effect, does not depend on it.

To add a feed, write a Carrier in one file of `feeds/`, and run the suite in `testing/follow.py` against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import Conflict, Damaged, SimonidesError, Unavailable
from .follow import SHARDS, STEP, Portion, place_name, shard
from .plain import change_as_json, change_of
from .store import Batch, Change, Cursor, Store
from .turn import Turn

QUIET_S = 5.0  # without a parcel while there is something new, and a worker reads from the store itself
QUIET_LOOKS = 10  # at what is new, in that time
IDLE_S = 0.5  # between two times that the places of shards in which nothing happens are moved
LOOK_S = 0.02, 0.1  # between two looks at what is ours, and at what the broker brings
TURN_S = 1.0  # between two looks whether it is our turn to relay
WAIT_S = 0.5, 30.0  # of the relay after a failure: from, to
WINDOW, WINDOWS = 1024, 8  # lines of the log that are read from the store at a time, and how often in a row
TRUE_MAX = 1000  # lines that are remembered to be true
WAITING_MAX = 4 * STEP  # changes that a worker has at hand before it reads on

log = logging.getLogger("simonides.feed")


@dataclass(frozen=True, slots=True)
class Parcel:
    """All changes of the shards of one partition (`shard % partitions`) after line `since`, up to line `upto`.

    `mark` is what that last line says: where the store's own says something else, an older copy of the store was put
    back, and the parcel tells of what did not happen.
    """

    partition: int
    partitions: int
    since: int
    upto: int
    mark: str
    changes: tuple[Change, ...]

    def packed(self) -> bytes:
        changes = [change_as_json(change) for change in self.changes]
        said = {name: getattr(self, name) for name in ("partition", "partitions", "since", "upto", "mark")}
        return json.dumps({**said, "changes": changes}, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> Parcel:
        """Read what was packed; raise Damaged where it is something else."""
        try:
            said = json.loads(data)
            partition, partitions, since, upto = (
                int(said[name]) for name in ("partition", "partitions", "since", "upto")
            )
            changes = tuple(change_of(each) for each in said["changes"])
            return cls(partition, partitions, since, upto, str(said["mark"]), changes)
        except (KeyError, TypeError, ValueError, AssertionError):
            raise Damaged("not a parcel of ours") from None

    def shards(self) -> range:
        return range(self.partition, SHARDS, self.partitions)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A parcel as the broker brought it. `token` is for the carrier, to acknowledge it and all before it."""

    partition: int
    token: Any
    parcel: Parcel


class Carrier(Protocol):
    """What a broker does for a feed. All methods raise Unavailable where it does not answer."""

    name: str  # where it is, and of which store; without secrets
    count: int  # the partitions that there are, once joined

    async def partitions(self) -> int:
        """Return how many there are; make them where there are none."""
        ...

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        """Put each into its partition, behind those before it; return once they are acknowledged."""
        ...

    async def join(self, follower: str) -> None:
        """Share the partitions with those who joined for the same follower; what keeps ours runs in the background."""
        ...

    @property
    def held(self) -> Mapping[int, int]:
        """The partitions that are ours, each with a number that is another when it was not ours in between."""
        ...

    async def read(self, wait_s: float) -> Sequence[Arrival]:
        """Return what comes next in the partitions that are ours: at first, whatever was never acknowledged."""
        ...

    async def taken(self, arrivals: Iterable[Arrival]) -> None:
        """Acknowledge these: nobody needs them again. Those of one partition come in their order."""
        ...

    async def close(self) -> None:
        """Give the partitions back, so that others go on at once."""
        ...


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks until they end: clients of brokers swallow a cancellation now and then."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)


# -- in -------------------------------------------------------------------------------------------------------------


class Relay:
    """Publishes the log, in one process at a time. Its place moves once the broker has acknowledged: after a crash
    what was sent is sent again.
    """

    def __init__(self, store: Store, carrier: Carrier) -> None:
        self.name = f"feed/{carrier.name}"
        self._store, self._carrier, self._turn = store, carrier, Turn(store, self.name)
        self._place = 0  # the line up to which all was published, as we last knew

    async def run(self) -> None:
        """Publish what is written, as it is written, for ever."""
        wait = WAIT_S[0]
        try:
            while True:
                try:
                    if not await self._turn.mine():
                        await asyncio.sleep(TURN_S)
                        continue
                    if not await self.step():
                        wait = WAIT_S[0]
                        await self._store.grown(self._place, TURN_S)
                except SimonidesError as error:
                    log.warning("the log is not carried to the workers, who read the store meanwhile: %s", error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, WAIT_S[1])
        finally:
            await self._turn.over()

    async def step(self) -> bool:
        """Publish the next lines; return whether there were any.

        It begins with what comes next: workers that are further behind read what came before from the store.
        """
        place = was = await self._store.cursor(self.name)
        if not place:
            place = max(await self._store.head() - STEP, 0)
        self._place = place
        changes = await self._store.changes(after=place, limit=STEP)
        if not changes:
            return False
        await self._carrier.publish(parcels(changes, place, await self._carrier.partitions()))
        with contextlib.suppress(Conflict):  # another has published them too
            await self._store.commit(Batch(), cursor=Cursor(self.name, was, changes[-1].seq))
        return True


def parcels(changes: Sequence[Change], since: int, count: int) -> list[Parcel]:
    """Return a parcel for each partition, of what happened in the log after that line."""
    parts: list[list[Change]] = [[] for _ in range(count)]
    for change in changes:
        parts[shard(change.scope) % count].append(change)
    upto, mark = changes[-1].seq, mark_of(changes[-1])
    return [Parcel(number, count, since, upto, mark, tuple(part)) for number, part in enumerate(parts)]


def mark_of(line: Change) -> str:
    return f"{line.at.isoformat()} {line.version} {line.id}"


# -- out ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shard:
    was: int  # where its cursor stands in the store
    known: int  # the line up to which everything was given out, or waits here
    waiting: deque[Change] = field(default_factory=deque)
    busy: bool = False

    @property
    def settled(self) -> int:
        """The line up to which nothing has to be followed any more."""
        return self.was if self.busy or self.waiting else self.known


class FeedSource:
    """A worker's changes, off a broker. `relay` says whether this process may also be the one that publishes them."""

    def __init__(
        self, store: Store, follower: str, carrier: Carrier, *, relay: bool = True, quiet_s: float = QUIET_S
    ) -> None:
        self._store, self._follower, self._carrier, self._quiet_s = store, follower, carrier, quiet_s
        self._relay = Relay(store, carrier) if relay else None
        self._count = 0  # partitions
        self._numbers: dict[int, int] = {}  # of the partitions that are known here
        self._shards: dict[int, _Shard] = {}
        self._arrived = defaultdict[int, deque[Arrival]](deque)  # by partition: to be read
        self._read = defaultdict[int, deque[Arrival]](deque)  # and read, but not acknowledged
        self._missed: dict[int, float] = {}  # since when a partition has no parcel of what is new
        self._true: dict[tuple[int, str], None] = {}  # lines of parcels that are in the store's log too
        self._looked = 0.0  # when the store was last asked what is new
        self._out: set[int] = set()  # shards that were given out
        self._moved = 0.0  # when the places of idle shards were last given out
        self._taking = asyncio.Lock()
        self._tasks = list[asyncio.Task[None]]()
        self._well = True

    @property
    def held(self) -> frozenset[int]:
        return frozenset(k for p in self._carrier.held for k in range(p, SHARDS, self._carrier.count))

    async def begin(self) -> None:
        """Join, or go on trying to in the background where the broker is not there: until then nothing is ours."""
        try:
            await self._join()
        except Unavailable as error:
            log.warning("the broker is waited for: %s", error)
            self._tasks.append(asyncio.create_task(self._join_later()))
        if self._relay:
            self._tasks.append(asyncio.create_task(self._relay.run()))

    async def _join(self) -> None:
        await self._carrier.join(self._follower)

    async def _join_later(self) -> None:
        while True:
            await asyncio.sleep(WAIT_S[0])
            with contextlib.suppress(Unavailable):
                return await self._join()

    async def take(self, limit: int, wait_s: float) -> Sequence[Portion]:
        end = time.monotonic() + wait_s
        while True:
            async with self._taking:
                await self._know()
                if not (portions := self._given(limit)):
                    await self._fill(min(max(end - time.monotonic(), 0.0), LOOK_S[1]))
                    await self._know()
                    portions = self._given(limit)
            if portions or time.monotonic() >= end:
                return portions
            if not self._carrier.held:
                await asyncio.sleep(LOOK_S[0])

    async def done(self, portions: Sequence[Portion]) -> None:
        for portion in portions:
            self._out.discard(portion.shard)
            if (mine := self._shards.get(portion.shard)) and mine.busy:
                mine.was, mine.busy = portion.upto, False
        await self._acknowledge()

    async def back(self, portions: Sequence[Portion]) -> None:
        for portion in portions:  # the store says where they stand; what comes after that is read from it
            self._out.discard(portion.shard)
            self._shards.pop(portion.shard, None)

    async def close(self) -> None:
        await ended(*self._tasks)
        self._tasks.clear()
        await self._carrier.close()

    # -- what is ours ----------------------------------------------------------------------------------------------

    async def _know(self) -> None:
        """Take up the partitions that have become ours, and forget those that are others'."""
        if self._count != self._carrier.count:
            self._forget()
        numbers = dict(self._carrier.held)
        for p in self._numbers.keys() | numbers.keys():
            if self._numbers.get(p) != numbers.get(p):
                self._arrived.pop(p, None)
                self._read.pop(p, None)
                self._missed.pop(p, None)
                for k in range(p, SHARDS, self._count):
                    self._shards.pop(k, None)
        self._numbers = numbers
        new = [k for k in self.held if k not in self._shards and k not in self._out]
        if new:
            places = await self._store.cursors(self._follower)
            for k in new:
                was = places.get(place_name(self._follower, k), 0)
                self._shards[k] = _Shard(was, max(was, places.get(self._follower, 0)))

    def _forget(self) -> None:
        """Begin anew: there are more partitions now, or fewer."""
        self._count, self._numbers = self._carrier.count, {}
        for each in (self._shards, self._arrived, self._read, self._missed):
            each.clear()

    def _given(self, limit: int) -> list[Portion]:
        """Return a portion of each shard that has changes; now and then of those too that only have another place."""
        portions, room = list[Portion](), limit
        idle = time.monotonic() - self._moved >= IDLE_S
        for k, mine in sorted(self._shards.items(), key=lambda each: each[1].was):
            if mine.busy or room <= 0 or not (mine.waiting or (idle and mine.known > mine.was)):
                continue
            changes = tuple(mine.waiting.popleft() for _ in range(min(room, len(mine.waiting))))
            upto = changes[-1].seq if mine.waiting else mine.known
            portions.append(Portion(k, mine.was, upto, changes))
            mine.busy, room = True, room - len(changes)
            self._out.add(k)
        if idle:
            self._moved = time.monotonic()
        return portions

    # -- what comes ------------------------------------------------------------------------------------------------

    async def _fill(self, wait_s: float) -> None:
        """See to it that there is something to give out, where there is something at all."""
        found: Sequence[Arrival] = ()
        try:
            if self._waiting() < WAITING_MAX:
                found = await self._carrier.read(wait_s)
            self._well = True
        except Unavailable as error:
            if self._well:
                log.warning("the broker brings nothing; the store is read meanwhile: %s", error)
            self._well = False
            await asyncio.sleep(wait_s)
        await self._know()
        for arrival in found:
            if arrival.partition in self._numbers:
                self._arrived[arrival.partition].append(arrival)
        for p in self._numbers:
            while self._arrived[p] and self._waiting() < WAITING_MAX and await self._unpack(p):
                pass
        await self._sweep()
        await self._acknowledge()

    def _waiting(self) -> int:
        return sum(len(mine.waiting) for mine in self._shards.values())

    async def _unpack(self, p: int) -> bool:
        """Read the next parcel of a partition, and first what is missing before it; return whether it was read."""
        arrival = self._arrived[p][0]
        parcel, mine = arrival.parcel, self._of(p)
        self._missed.pop(p, None)
        behind = {k for k, each in mine.items() if each.known < parcel.since}
        if behind and parcel.upto > min(mine[k].known for k in behind):
            await self._look_up(behind, parcel.since)
            if any(mine[k].known < parcel.since for k in behind):
                return False  # there is more than one look takes in
        covered = {k: mine[k] for k in parcel.shards() if k in mine}  # all of them, unless the partitions were others
        if any(one.known < parcel.upto for one in covered.values()) and not await self._happened(parcel):
            covered = {}  # what is missing by that is read from the store
        for change in parcel.changes:
            if (one := covered.get(shard(change.scope))) and change.seq > one.known:
                one.waiting.append(change)
        for one in covered.values():
            one.known = max(one.known, parcel.upto)
        self._read[p].append(self._arrived[p].popleft())
        return True

    async def _sweep(self) -> None:
        """Read from the store what no parcel has brought for too long."""
        if (present := time.monotonic()) - self._looked < self._quiet_s / QUIET_LOOKS:
            return
        self._looked, head = present, await self._store.head()
        for p in self._numbers:
            behind = {k for k, each in self._of(p).items() if each.known < head}
            if not behind or self._arrived[p]:
                self._missed.pop(p, None)
            elif present - self._missed.setdefault(p, present) >= self._quiet_s and self._waiting() < WAITING_MAX:
                await self._look_up(behind, head)

    async def _look_up(self, shards: Collection[int], upto: int) -> None:
        """Read the changes of these shards from the store, up to that line or as far as some looks take."""
        place = min(self._shards[k].known for k in shards)
        for _ in range(WINDOWS):
            changes = await self._store.changes(after=place, limit=WINDOW)
            changes = [change for change in changes if change.seq <= upto]
            for change in changes:
                k = shard(change.scope)
                if k in shards and change.seq > self._shards[k].known:
                    self._shards[k].waiting.append(change)
            place = changes[-1].seq if len(changes) == WINDOW else upto
            for k in shards:
                self._shards[k].known = max(self._shards[k].known, place)
            if place >= upto or self._waiting() >= WAITING_MAX:
                return

    async def _happened(self, parcel: Parcel) -> bool:
        """Whether the store's log says what the parcel says; it is asked once for all parcels of a batch."""
        if (parcel.upto, parcel.mark) not in self._true:
            lines = await self._store.changes(after=parcel.upto - 1, limit=1)
            if not lines or (lines[0].seq, mark_of(lines[0])) != (parcel.upto, parcel.mark):
                return False
            self._true[parcel.upto, parcel.mark] = None
            while len(self._true) > TRUE_MAX:
                del self._true[next(iter(self._true))]
        return True

    def _of(self, p: int) -> dict[int, _Shard]:
        return {k: self._shards[k] for k in range(p, SHARDS, self._count) if k in self._shards}

    async def _acknowledge(self) -> None:
        """Tell the broker what has been followed, so that it brings it to nobody again."""
        for p in list(self._numbers):
            mine = self._of(p)
            settled = min((each.settled for each in mine.values()), default=0)
            whole = len(mine) == len(range(p, SHARDS, self._count))
            ready = list[Arrival]()
            while whole and self._read[p] and self._read[p][0].parcel.upto <= settled:
                ready.append(self._read[p].popleft())
            if ready:
                with contextlib.suppress(Unavailable):  # then it brings them again, and they are left out
                    await self._carrier.taken(ready)
