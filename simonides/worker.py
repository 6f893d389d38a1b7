"""A worker: follows the log of a store that others write to, beside other workers.

It takes the next changes of its shards from a `Source`, has the follower make of them what is to be written, and
commits that shard by shard, each with the shard's place: where another was quicker the place has moved, and nothing is
done twice to effect. Whatever ends a worker, at the worst a batch is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from .config import OFF, Settings, open_backend, store_url
from .derivers.vectors import Vectors
from .errors import Conflict, Invalid, SimonidesError
from .follow import (
    STEP,
    WAITS,
    Follower,
    Patience,
    Portion,
    Source,
    attempt,
    place_name,
    reached,
    replay,
    shard,
    wanted,
)
from .leases import TAKEN_OVER_S, Leases
from .record import now
from .sending import senders
from .sink import Later, SwitchedOff
from .store import Batch, Change, Cursor, Store

log = logging.getLogger("simonides.worker")

WINDOW = 1024  # lines of the log that are read at a time
WINDOWS = 8  # at most so many for one portion a shard
PAUSE_S = 0.05  # where all that was written is others'
IDLE_S = 0.1  # between two moves of the places of shards in which nothing happens
BATCH_S, LEAST = 4.0, 16  # what a batch is to take at most, where the embedder is slow; and changes at least
WAIT_S = 1.0  # how long a source may wait for something
OWN_S = 1.0  # between two moves of a follower's own place
REPLAY_S = 5.0  # between two looks for letters to be tried again
LETTERS = 1000  # that are counted


class StoreSource:
    """The log in the store itself. `at_once` is how many batches of it are under way together."""

    def __init__(self, store: Store, follower: str, *, taken_over_s: float = TAKEN_OVER_S, at_once: int = 1) -> None:
        self.follower = follower
        self._store, self._at_once = store, at_once
        self._leases = Leases(store, follower, taken_over_s=taken_over_s)
        self._places: dict[int, tuple[int, int]] = {}  # where the shard's cursor stands, and from where it goes on
        self._idle = 0.0  # when the places of idle shards were last moved
        self._taking = asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @property
    def held(self) -> frozenset[int]:
        return frozenset(self._leases.held)

    @property
    def worker(self) -> int:
        return self._leases.worker

    async def begin(self) -> None:
        await self._leases.beat()
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._leases.beat_s)
                return
            try:
                await self._leases.beat()
            except Exception as error:  # whatever it is, the next one may go well; without any, others take over
                log.warning("no heartbeat: %s", error if isinstance(error, SimonidesError) else type(error).__name__)

    async def take(self, limit: int, wait_s: float) -> Sequence[Portion]:
        until = time.monotonic() + wait_s
        while True:
            async with self._taking:
                free = await self._free()
                place = min((self._places[k][1] for k in free), default=None)
            if place is not None and await self._store.grown(place, until - time.monotonic()) > place:
                async with self._taking:
                    portions = await self._next(limit)
                    self._leases.busy |= {portion.shard for portion in portions}
                if portions:
                    return portions
            if (left := until - time.monotonic()) <= 0:
                return []
            await asyncio.sleep(min(PAUSE_S, left))

    async def _free(self) -> set[int]:
        """Return the shards that are ours and of which nothing is under way; where they stand is known then."""
        free = self._leases.held.keys() - self._leases.leaving - self._leases.busy
        await self._know(free)
        return free

    async def _next(self, limit: int) -> list[Portion]:
        if not (free := await self._free()):
            return []
        behind = sorted(free, key=lambda k: self._places[k][1])[: ceil(len(self._leases.held) / self._at_once)]
        found, upto = await self._read(frozenset(behind), limit)
        portions = [
            Portion(k, self._places[k][0], upto, tuple(found.get(k, ()))) for k in behind if upto > self._places[k][1]
        ]
        if time.monotonic() - self._idle < IDLE_S:
            return [portion for portion in portions if portion.changes]
        self._idle = time.monotonic()
        return portions

    async def _know(self, shards: set[int]) -> None:
        """Ask where the cursors stand of the shards that are new here."""
        self._places = {k: place for k, place in self._places.items() if k in self._leases.held}
        if new := shards - self._places.keys():
            places = await self._store.cursors(self.follower)
            for k in new:
                was = places.get(place_name(self.follower, k), 0)
                self._places[k] = was, max(was, places.get(self.follower, 0))

    async def _read(self, shards: frozenset[int], limit: int) -> tuple[Mapping[int, list[Change]], int]:
        """Return what comes next in these shards, and the line up to which it is all of it."""
        found, count = defaultdict[int, list[Change]](list), 0
        upto = min(self._places[k][1] for k in shards)
        for _ in range(WINDOWS):
            changes = await self._store.changes(after=upto, limit=WINDOW)
            for change in changes:
                upto = change.seq
                k = shard(change.scope)
                if k in shards and change.seq > self._places[k][1]:
                    found[k].append(change)
                    count += 1
                    if count >= limit:
                        return found, upto
            if len(changes) < WINDOW:
                break
        return found, upto

    async def done(self, portions: Sequence[Portion]) -> None:
        for portion in portions:
            self._places[portion.shard] = portion.upto, portion.upto
        await self._leases.release(portion.shard for portion in portions)

    async def back(self, portions: Sequence[Portion]) -> None:
        for portion in portions:
            self._places.pop(portion.shard, None)
        await self._leases.release(portion.shard for portion in portions)

    async def close(self) -> None:
        if self._beating:
            self._ending.set()  # a heartbeat that is cut off would leave us not knowing what our leases say
            await self._beating
            self._beating = None
            await self._leases.leave()


@dataclass(slots=True)
class Figures:
    """What one follower of a worker has done since it began, and how it stands. Times are seconds."""

    followed: int = 0  # changes
    batches: int = 0
    retries: int = 0  # batches that had to wait, or came second
    letters: int = 0  # put aside by this worker
    rate: float = 0.0  # changes a second, lately
    held: int = 0  # shards
    behind: str | None = None  # why it waits

    def count(self, changes: int, seconds: float) -> None:
        self.followed, self.batches = self.followed + changes, self.batches + 1
        if changes and seconds > 0:
            self.rate = 0.8 * self.rate + 0.2 * changes / seconds if self.rate else changes / seconds


@dataclass(frozen=True, slots=True)
class Stand:
    """How a follower of this worker stands in the store."""

    place: int
    lag: int
    lag_s: float
    letters: int  # at most LETTERS are counted


class Worker:
    """Follows until it is told to `stop`. One source a follower; `at_once` batches of each are under way together."""

    def __init__(
        self,
        store: Store,
        followers: Sequence[Follower],
        source: Callable[[Follower], Source],
        *,
        at_once: int = 1,
        patience: Patience | None = None,
    ) -> None:
        self.figures = {follower.name: Figures() for follower in followers}
        self._store, self._followers, self._at_once = store, followers, at_once
        self._sources = {follower.name: source(follower) for follower in followers}
        self._patience = patience or Patience()
        self._stopping = asyncio.Event()
        self._tidied: set[str] = set()

    def stop(self) -> None:
        """Finish the batches under way, and no more."""
        self._stopping.set()

    async def run(self, drain_s: float | None = None) -> None:
        """Work until `stop`; then what is under way has `drain_s` seconds to end. The shards are given back."""
        for source in self._sources.values():
            await source.begin()
        tasks = [
            asyncio.create_task(self._loop(follower)) for follower in self._followers for _ in range(self._at_once)
        ]
        tasks += [asyncio.create_task(self._replay(follower)) for follower in self._followers]
        tasks += [asyncio.create_task(self._move_own(follower)) for follower in self._followers]
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await asyncio.wait(tasks, timeout=drain_s)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for source in self._sources.values():
                with contextlib.suppress(SimonidesError):
                    await source.close()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def stands(self) -> dict[str, Stand]:
        """Return how each follower stands, whichever worker followed."""
        head, found = await self._store.head(), dict[str, Stand]()
        for name in self.figures:
            place = reached(name, await self._store.cursors(name))
            waiting = await self._store.changes(after=place, limit=1)
            since = (now() - waiting[0].at).total_seconds() if waiting else 0.0
            found[name] = Stand(place, max(0, head - place), since, len(await self._store.letters(name, limit=LETTERS)))
        return found

    async def _loop(self, follower: Follower) -> None:
        """Follow one batch after another; where the whole follower cannot go on, wait longer each time."""
        source, figures, failures = self._sources[follower.name], self.figures[follower.name], 0
        while not self._stopping.is_set():
            try:
                some = await self._batch(follower, source, figures)
                failures, figures.behind, figures.held = 0, None, len(source.held)
                if not some:
                    await self._tidy(follower, source)
            except SwitchedOff as off:
                figures.behind = str(off)
                log.warning("%s; it is asked again by the next worker that starts", off)
                await self._stopping.wait()
            except WAITS as error:
                failures += 1
                figures.retries, figures.behind = figures.retries + 1, str(error)
                pause = error.after_s if isinstance(error, Later) else self._patience.pause(failures)
                log.warning("%s waits %.1f s: %s", follower.name, pause, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def _batch(self, follower: Follower, source: Source, figures: Figures) -> int:
        """Follow what comes next; return how many portions there were."""
        limit = min(STEP, max(LEAST, int(figures.rate * BATCH_S))) if figures.rate else STEP
        portions = await source.take(limit, WAIT_S)
        left, begun = list(portions), time.monotonic()
        try:
            idle = [portion for portion in portions if not portion.changes]
            await self._commit(follower, source, figures, idle, {}, left)
            busy = [portion for portion in portions if portion.changes]
            batches = await self._made(follower, busy)
            await self._commit(follower, source, figures, busy, batches, left)
        finally:
            if left:
                await source.back(left)
        if busy:
            figures.count(sum(len(portion.changes) for portion in busy), time.monotonic() - begun)
            figures.letters += sum(len(batch.letters) for batch in batches.values())
        return len(portions)

    async def _made(self, follower: Follower, portions: Sequence[Portion]) -> dict[int, Batch]:
        """Return what the follower makes of the portions, by shard: of all at once, where that can be told apart."""
        if not getattr(follower, "joins", False):
            return {
                each.shard: await attempt(follower, wanted(follower, each.changes), self._store, self._patience)
                for each in portions
            }
        changes = sorted((change for each in portions for change in each.changes), key=lambda change: change.seq)
        mine = wanted(follower, changes)
        return apart(await attempt(follower, mine, self._store, self._patience), mine)

    async def _commit(
        self,
        follower: Follower,
        source: Source,
        figures: Figures,
        portions: Sequence[Portion],
        batches: Mapping[int, Batch],
        left: list[Portion],
    ) -> None:
        """Write what was made; take out of `left` what is done. What another has done meanwhile stays there."""

        async def one(portion: Portion) -> bool:
            cursor = Cursor(place_name(follower.name, portion.shard), portion.was, portion.upto)
            try:
                await self._store.commit(batches.get(portion.shard, Batch()), cursor=cursor)
            except Conflict:
                if await self._store.cursor(cursor.name) == portion.was:
                    raise
                return False
            return True

        fine = await asyncio.gather(*map(one, portions), return_exceptions=True)
        done = [portion for portion, was in zip(portions, fine, strict=True) if was is True]
        for portion in done:
            left.remove(portion)
        if done:
            await source.done(done)
        figures.retries += sum(was is False for was in fine)
        for error in fine:
            if isinstance(error, BaseException):
                raise error

    async def _tidy(self, follower: Follower, source: Source) -> None:
        """Once everything is followed, one of the workers does what is left to do."""
        if follower.name in self._tidied or 0 not in source.held:
            return
        if reached(follower.name, await self._store.cursors(follower.name)) < await self._store.head():
            return
        while not self._stopping.is_set() and await follower.tidy(self._store):
            pass
        self._tidied.add(follower.name)

    async def _move_own(self, follower: Follower) -> None:
        """Move the follower's own place to the least of its shards', so that who follows alone sees it as done."""
        while True:
            with contextlib.suppress(*WAITS, Conflict):
                places = await self._store.cursors(follower.name)
                own, least = places.get(follower.name, 0), reached(follower.name, places)
                if least > own:
                    await self._store.commit(Batch(), cursor=Cursor(follower.name, own, least))
            if self._stopping.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), OWN_S)

    async def _replay(self, follower: Follower) -> None:
        """Look now and then for letters that somebody wants tried again."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), REPLAY_S)
            with contextlib.suppress(*WAITS):
                await replay(follower, self._store, self._sources[follower.name].held, self._patience)


VECTORS, SINKS = "vectors", "sinks"  # the follower that every store has, and those into the sinks of the settings


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    *,
    followers: Sequence[str] = (VECTORS, SINKS),
    at_once: int = 1,
    taken_over_s: float = TAKEN_OVER_S,
    patience: Patience | None = None,
    around: Callable[[str, Any], Any] = lambda part, what: what,
) -> AsyncIterator[Worker]:
    """Open the store and the followers named: `vectors`, `sinks` (all in the settings). `around` is put around each
    part.
    """
    async with contextlib.AsyncExitStack() as parts:
        made = list[Follower]()
        for name in followers:
            if name not in (VECTORS, SINKS):
                raise Invalid(f"there is no follower {name!r}; there are: {VECTORS}, {SINKS}")
            if name == SINKS:
                continue
            if settings.embedder == OFF:
                raise Invalid("there is nothing to embed with: name an embedder, or other --followers than vectors")
            for embedder_url in filter(None, (settings.embedder, settings.embedder_next)):
                embedder = around("embedder", open_backend("embedders", embedder_url))
                parts.push_async_callback(embedder.close)
                await asyncio.to_thread(embedder.tokens, "ready")  # says now what is missing
                if embedder.name not in [each.model.rpartition("/")[0] for each in made if isinstance(each, Vectors)]:
                    made.append(Vectors(embedder))
        url = store_url(settings.store_url)
        store: Store = around("store", await asyncio.to_thread(open_backend, "stores", url))
        parts.push_async_callback(store.close)
        for each in await senders(settings.sinks, store) if SINKS in followers else ():
            parts.push_async_callback(each.sink.close)
            made.append(each)

        def source(follower: Follower) -> Source:
            if settings.feed:
                found: Source = open_backend("feeds", settings.feed, store, follower.name)
                return found
            return StoreSource(store, follower.name, taken_over_s=taken_over_s, at_once=at_once)

        yield Worker(store, made, source, at_once=at_once, patience=patience)


def apart(batch: Batch, changes: Sequence[Change]) -> dict[int, Batch]:
    """Return what was made of the changes by the shards that they are of: embeddings and letters."""
    shards = {change.ref: shard(change.scope) for change in changes}
    found = dict[int, Batch]()
    for k in set(shards.values()):
        mine = tuple(each for each in batch.embeddings if shards[each.ref] == k)
        letters = tuple(letter for letter in batch.letters if shards[letter.change.ref] == k)
        found[k] = Batch(embeddings=mine, letters=letters)
    return found
