"""Everything that happens after a write: followers read the log of changes, each at its own pace.

Embedding, deriving facts, sending to Kafka and calling a webhook are all followers. What a follower wants written goes
in the same transaction as its new place in the log, so a crash repeats work but never loses or doubles it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from .errors import Conflict
from .query import Query
from .record import Record, Scope
from .store import Batch, Change, Cursor, Store

STEP = 256  # changes that one step reads
SHARDS = 64  # shares of the log that workers divide among themselves; a store that has followed by them keeps them

Progress = Callable[[int], None]  # told how many changes were just followed


class Follower(Protocol):
    name: str

    @property
    def kinds(self) -> frozenset[str] | None:
        """The kinds that it reads; None is every kind."""
        ...

    async def follow(self, changes: Sequence[Change], store: Store) -> Batch: ...

    async def tidy(self, store: Store) -> bool:
        """Do a little of what is left to do once everything is read; return whether there is more of it."""
        ...


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


def place_name(follower: str, shard: int) -> str:
    return f"{follower}#{shard}"


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
    place = await store.cursor(follower.name)
    changes = await store.changes(after=place, limit=limit)
    if not changes:
        return Step(place, 0, True)
    wanted = [change for change in changes if follower.kinds is None or change.kind in follower.kinds]
    batch = await follower.follow(wanted, store) if wanted else Batch()
    try:
        await store.commit(batch, cursor=Cursor(follower.name, place, changes[-1].seq))
    except Conflict:
        if (moved := await store.cursor(follower.name)) == place:
            raise
        return Step(moved, len(changes), False)
    return Step(changes[-1].seq, len(changes), len(changes) < limit)


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
        follower.name for follower in followers if await store.changes(after=await store.cursor(follower.name), limit=1)
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
