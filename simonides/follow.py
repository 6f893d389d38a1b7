"""Everything that happens after a write: followers read the log of changes, each at its own pace.

Embedding, deriving facts, sending to Kafka and calling a webhook are all followers. What a follower wants written goes
in the same transaction as its new place in the log, so a crash repeats work but never loses or doubles it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import Conflict
from .query import Query
from .record import Record, Scope
from .store import Batch, Change, Cursor, Store

STEP = 256  # changes that one step reads

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
