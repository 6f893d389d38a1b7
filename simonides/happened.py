"""What happened, read off the log: for whoever is to see it, and how far the followers have read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .follow import Follower, followed
from .record import Scope
from .store import Change, Store

LINES = 1000  # of the log that are read at a time
CERTIFICATE = "certificate"


class Changes(list[Change]):
    """Lines of the log, in order. `next` is where to go on behind them, and behind what was passed over."""

    next: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """The last line of the log, and the last that every follower has read: what lies between cannot be found by
    meaning yet.
    """

    written: int
    indexed: int


async def changes(store: Store, scope: Scope, after: int, limit: int) -> Changes:
    """Return the next lines about what this scope sees; of certificates, only those of erases in this very scope."""
    found, place = Changes(), after
    while len(found) < limit and (lines := await store.changes(after=place, limit=LINES)):
        for line in lines:
            place = line.seq
            if _concerns(line, scope):
                found.append(line)
                if len(found) == limit:
                    break
    found.next = place
    return found


def _concerns(line: Change, scope: Scope) -> bool:
    return scope.sees(line.scope, shared=line.kind != CERTIFICATE)


async def position(store: Store, followers: Sequence[Follower]) -> Position:
    written = await store.head()
    places = [await followed(follower.name, store) for follower in followers]
    return Position(written, min(places, default=written))
