"""Everything that happens after a write: followers read the log of changes, each at its own pace.

Embedding, deriving facts, sending to Kafka and calling a webhook are all followers. What a follower wants written goes
in the same transaction as its new place in the log, so a crash repeats work but never loses or doubles it.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from .errors import Conflict, Damaged, Unavailable
from .query import Query
from .record import Record, Scope, now
from .store import Batch, Change, Cursor, Letter, Lines, Store

STEP = 256  # changes that one step reads
SHARDS = 64  # shares of the log that workers divide among themselves; a store that has followed by them keeps them

EVERY = 16  # changes of which each one failed, and no other went well: then it is not the changes
WAITS = (Unavailable, Damaged, OSError)  # not about one change: the whole follower waits

Progress = Callable[[int], None]  # told how many changes were just followed


class Follower(Protocol):
    name: str

    @property
    def kinds(self) -> frozenset[str] | None:
        """The kinds that it reads; None is every kind."""
        ...

    async def follow(self, changes: Sequence[Change], store: Store) -> Batch: ...

    async def ahead(self, records: Sequence[Record], store: Store) -> Batch | None:
        """Return what it will make of these records once they are written, none of which is in the store yet; None
        where that cannot be told, or takes longer than a write should wait.
        """
        ...

    async def tidy(self, store: Store) -> bool:
        """Do a little of what is left to do once everything is read; return whether there is more of it."""
        ...


class Following(Protocol):
    """Whoever writes, and sees to it that the followers read on. `waits`: callers wait until they have."""

    @property
    def waits(self) -> bool: ...

    async def ahead(self, records: Sequence[Record]) -> Batch:
        """Return what is to be written together with these new records, so that nobody has to follow them."""
        ...

    async def commit(self, batch: Batch) -> Lines: ...


@lru_cache(maxsize=65_536)
def shard(scope: Scope) -> int:
    """Return the shard of everything in that scope. A record keeps its scope for life: its changes are of one shard."""
    levels = (scope.tenant, scope.space, scope.user or "", scope.agent or "", scope.session or "")
    return int.from_bytes(blake2b("\0".join(levels).encode(), digest_size=8).digest(), "big") % SHARDS


@dataclass(frozen=True, slots=True)
class Portion:
    """What comes next in one shard, for one follower: every change of the shard up to line `upto`, in order.

    `was` is where the shard's cursor (`place_name`) stands in the store, 0 where it is not there yet. Whoever follows
    commits with `Cursor(place_name(follower, shard), was, upto)`. Without changes, nothing happened in the shard up to
    that line, and only its place moves.
    """

    shard: int
    was: int
    upto: int
    changes: tuple[Change, ...] = ()


class Source(Protocol):
    """Where a worker gets the changes for one follower: the log in the store, or what carries it (`feeds/`).

    It sees to it that no other worker is given the same shards meanwhile, as well as it can: the cursor in the store is
    what decides, and who comes second finds it moved. Redelivery is allowed; gaps and another order in a shard are not.
    """

    @property
    def held(self) -> frozenset[int]:
        """The shards that are ours now."""
        ...

    async def begin(self) -> None:
        """Join those who share the work. What keeps the shares ours (heartbeats) runs in the background from now on."""
        ...

    async def take(self, limit: int, wait_s: float) -> Sequence[Portion]:
        """Return the next portions, at most one a shard, with at most about `limit` changes in all.

        Where there is nothing it waits, at most that long, and then returns none. A shard that was given out is not
        given out again before `done` or `back`.
        """
        ...

    async def done(self, portions: Sequence[Portion]) -> None:
        """These are committed in the store: give what comes after them."""
        ...

    async def back(self, portions: Sequence[Portion]) -> None:
        """These were not committed: give them again, from where the shard's cursor stands in the store by then."""
        ...

    async def close(self) -> None:
        """Give the shards back, so that others go on at once."""
        ...


def place_name(follower: str, shard: int | str) -> str:
    return f"{follower}#{shard}"


def reached(follower: str, cursors: Mapping[str, int]) -> int:
    """Return the line up to which everything is followed, whoever follows: one for all, or workers by shards.

    Everything up to the follower's own place is followed in every shard. Workers begin their shards there, and move it
    on to the least of the shards' places; one who follows alone moves it himself. So both may work on one store.
    """
    return max(cursors.get(follower, 0), min(cursors.get(place_name(follower, k), 0) for k in range(SHARDS)))


async def followed(follower: str, store: Store) -> int:
    """The same, as it is in the store now."""
    return reached(follower, await store.cursors(follower))


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a change is tried, and how long is waited before the next time: at random up to a bound that doubles
    with each, so that many who failed together do not come again together ("full jitter").
    """

    tries: int = 5
    first_s: float = 0.2
    most_s: float = 30.0

    def pause(self, tried: int) -> float:
        """Return the seconds to wait after so many failures."""
        return random.uniform(0, min(self.most_s, self.first_s * 2 ** min(tried - 1, 30)))


HASTE = Patience(tries=3, first_s=0.05, most_s=0.2)  # where somebody waits for the call that it happens in


async def attempt(follower: Follower, changes: Sequence[Change], store: Store, patience: Patience = HASTE) -> Batch:
    """Return what the follower makes of the changes; of those that it cannot follow however often, letters.

    Where it raises, halves are tried, and halves of these, until what fails stands alone; that is tried again. What
    concerns everything (WAITS) is raised as it is. So is, as Unavailable, what looks like it: every one of many failed.
    """
    done, failed = await _apart(follower, changes, store)
    tried = 1
    while failed and tried < patience.tries:
        await asyncio.sleep(patience.pause(tried))
        tried, again = tried + 1, list[Failed]()
        for change, _ in failed:
            more, still = await _apart(follower, [change], store)
            done, again = done + more, again + still
        failed = again
    if len(failed) == len(changes) >= EVERY:
        raise Unavailable(f"{follower.name} fails with every change: {_told(failed[0][1])}")
    return done + Batch(letters=tuple(Letter(follower.name, change, tried, now(), _told(e)) for change, e in failed))


Failed = tuple[Change, Exception]


async def _apart(follower: Follower, changes: Sequence[Change], store: Store) -> tuple[Batch, list[Failed]]:
    """Return what comes of the changes, and those of them that fail by themselves."""
    try:
        return await follower.follow(changes, store) if changes else Batch(), []
    except WAITS:
        raise
    except Exception as error:
        if len(changes) == 1:
            return Batch(), [(changes[0], error)]
    middle = len(changes) // 2
    (left, bad), (right, more) = [await _apart(follower, half, store) for half in (changes[:middle], changes[middle:])]
    return left + right, bad + more


def _told(error: Exception) -> str:
    """Return what kind of error it is and where it was raised: its message may hold what was remembered."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__qualname__} in {frame.name} ({frame.filename.rpartition('simonides/')[2]}:{frame.lineno})"


async def replay(
    follower: Follower, store: Store, shards: frozenset[int] | None = None, patience: Patience = HASTE
) -> int:
    """Try those letters again that somebody asked for, in these shards or in all; return how many were answered."""
    answered, after = 0, 0
    while page := await store.letters(follower.name, after=after, limit=STEP):
        after = page[-1].change.seq
        asked = [letter.change for letter in page if not letter.tries]
        asked = [change for change in asked if shards is None or shard(change.scope) in shards]
        if asked:
            batch = await attempt(follower, asked, store, patience)
            again = {letter.change.seq for letter in batch.letters}
            fine = tuple((follower.name, change.seq) for change in asked if change.seq not in again)
            await store.commit(batch + Batch(answered=fine))
            answered += len(fine)
    return answered


async def letters(store: Store, follower: str | None = None) -> list[Letter]:
    """Return everything that the followers of the store, or that one, have put aside."""
    found, after = list[Letter](), 0
    while page := await store.letters(follower, after=after, limit=STEP):
        last = page[-1].change.seq
        if len(page) == STEP and page[0].change.seq < last:  # more of the last line's may stand on the next page
            page, last = [letter for letter in page if letter.change.seq < last], last - 1
        found += page
        after = last
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """How far a follower has read, how many changes the step read, and whether those were the last."""

    place: int
    count: int
    done: bool


async def step(follower: Follower, store: Store, limit: int = STEP) -> Step:
    """Let the follower read the next changes.

    Another process may be the same follower: whoever comes second finds the place moved, and its work undone.
    """
    places = await store.cursors(follower.name)
    own, place = places.get(follower.name, 0), reached(follower.name, places)
    changes = await store.changes(after=place, limit=limit)
    if not changes:
        return Step(place, 0, True)
    batch = await attempt(follower, wanted(follower, changes), store)
    try:
        await store.commit(batch, cursor=Cursor(follower.name, own, changes[-1].seq))
    except Conflict:
        if await store.cursor(follower.name) == own:
            raise
        return Step(await followed(follower.name, store), len(changes), False)
    return Step(changes[-1].seq, len(changes), len(changes) < limit)


def wanted(follower: Follower, changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if follower.kinds is None or change.kind in follower.kinds]


async def settle(followers: Sequence[Follower], store: Store, progress: Progress | None = None) -> int:
    """Run until no follower has anything left to read; return the line of the log that all of them have read."""
    busy, places = list(followers), dict[str, int]()
    while busy:
        steps = [(follower, await step(follower, store)) for follower in busy]
        places |= {follower.name: step.place for follower, step in steps}
        busy = [follower for follower, step in steps if not step.done]
        if progress and any(step.count for _, step in steps):
            progress(max(step.count for _, step in steps))
    return min(places.values(), default=0)


async def lagging(followers: Sequence[Follower], store: Store) -> list[str]:
    """Return the names of those that have not read everything."""
    return [
        follower.name
        for follower in followers
        if await store.changes(after=await followed(follower.name, store), limit=1)
    ]


async def live(changes: Sequence[Change], store: Store) -> list[Record]:
    """Return each version that the changes speak of; the erased are not there."""
    found: list[Record] = []
    for realm in sorted({change.scope.realm for change in changes}):
        named = {(change.id, change.version) for change in changes if change.scope.realm == realm and change.version}
        ids = frozenset(id for id, _ in named)
        query = Query(scope=Scope(tenant=realm[0], space=realm[1]), ids=ids, statuses=None, any_time=True, limit=10**9)
        found += [record for record in await store.find(query) if (record.id, record.version) in named]
    return found
