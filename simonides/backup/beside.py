"""What a backup notes beside the log: how far vectors reach, followers, what they put aside, last recalls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from ..follow import letters
from ..record import Ref
from ..store import Letter, Store
from ..whole import places, recalls
from .frames import Frame
from .manifest import BESIDE, Backup
from .place import Place


async def all_noted(store: Store) -> AsyncIterator[Frame]:
    """Yield all of it that the store has."""
    for scope in await store.realms():
        for model in await store.models(scope):
            extent = await store.extent(scope, model)
            yield _noting("extent", (*scope.realm, model, extent.group, extent.slots))
    for name, place in (await places(store)).items():
        yield _noting("follower", (name, place))
    for letter in await letters(store):
        yield _noting("letter", letter)
    for scope in await store.realms():
        async for page in recalls(store, scope):
            yield _noting("recalls", (*scope.realm, page))


def _noting(what: str, said: Any) -> Frame:
    return Frame(0, msgspec.msgpack.encode((what, said)))


@dataclass(slots=True)
class Noted:
    """What is noted beside the log: how far vectors reach, followers, last recalls."""

    extents: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    followers: dict[str, int] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)


async def noted(place: Place, backup: Backup, store: Store | None = None) -> Noted:
    """Read it of a backup; last recalls go right into the store."""
    found = Noted()
    for part in backup.of(BESIDE):
        async for frame in place.frames(part):
            what, said = msgspec.msgpack.decode(frame)
            if what == "extent":
                tenant, space, model, group, slots = said
                found.extents[tenant, space, model, group] = slots
            elif what == "follower":
                found.followers[said[0]] = said[1]
            elif what == "letter":
                found.letters.append(msgspec.convert(said, Letter))
            elif what == "recalls" and store:
                tenant, space, page = said
                last = msgspec.convert(page, list[tuple[str, datetime]])
                await store.recalled({Ref(tenant, space, id): at for id, at in last})
    return found
