"""What happened, read off the log: for whoever is to see it, and how far the followers have read."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping, Sequence

from .follow import Follower, followed, reached
from .leases import holders, lease, member
from .record import Scope, now
from .store import Change, Store

LINES = 1000  # of the log that are read at a time
LOOKED_THROUGH = 20_000  # lines, for an erase
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


async def erased(store: Store, after: int | None) -> tuple[bool, int]:
    """Return whether anybody erased anything behind that line of the log, and the log's last line; None: it begins now.

    Where there is too much to look through, something was.
    """
    head = await store.head()
    if after is None or head - after > LOOKED_THROUGH:
        return after is not None, head
    lines = await store.changes(after=after, limit=1, erases=True)
    return bool(lines), max([head, *(line.seq for line in lines)])


async def position(store: Store, followers: Sequence[Follower]) -> Position:
    written = await store.head()
    places = [await followed(follower.name, store) for follower in followers]
    return Position(written, min(places, default=written))


# -- the followers and their workers ---------------------------------------------------------------------------------

WATCHED_S = 1.3  # between two looks at the workers' heartbeats, of which there is one a second
LETTERS_MAX = 1000  # that are counted
_OURS = re.compile(r"^(lease|worker)/")  # of the names of cursors, those that are no follower's


@dataclasses.dataclass(frozen=True, slots=True)
class Following:
    """How far one follower is. `workers` are those alive that share it, with the shards that each holds."""

    name: str
    place: int  # the line of the log up to which everything is followed
    lag: int  # lines behind it
    lag_s: float  # since the first of them was written
    letters: int  # at most LETTERS_MAX are counted
    shared: bool  # whether workers follow by shards
    workers: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    head: int  # the last line of the log
    followers: tuple[Following, ...]


async def status(store: Store, followers: Sequence[Follower] = ()) -> Status:
    """Return how far these followers are, and whatever else has a place in the store. Where workers announced
    themselves, this watches them for a second, to tell who is alive.
    """
    before = await store.cursors("")
    if any(name.startswith("worker/") for name in before):
        await asyncio.sleep(WATCHED_S)
    places, head = await store.cursors(""), await store.head()
    names = {_OURS.sub("", name).partition("#")[0] for name in places} | {each.name for each in followers}
    alive = {name for name, value in places.items() if before.get(name) != value}
    return Status(head, tuple([await _following(store, name, places, alive, head) for name in sorted(names)]))


async def _following(store: Store, name: str, places: Mapping[str, int], alive: set[str], head: int) -> Following:
    place, start = reached(name, places), member(name)
    waiting = await store.changes(after=place, limit=1)
    held = list(holders(name, {each: v for each, v in places.items() if each.startswith(lease(name))}).values())
    workers = {
        each.removeprefix(start): held.count(int(each.removeprefix(start))) for each in alive if each.startswith(start)
    }
    return Following(
        name=name,
        place=place,
        lag=max(0, head - place),
        lag_s=max(0.0, (now() - waiting[0].at).total_seconds()) if waiting else 0.0,
        letters=len(await store.letters(name, limit=LETTERS_MAX)),
        shared=any(each.startswith((f"{name}#", lease(name))) for each in places),
        workers=dict(sorted(workers.items())),
    )
