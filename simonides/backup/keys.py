"""The keys to a memory in its backups: with the digests of their secrets, never a secret."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from ..access import Permit
from ..directory import Directory, Kept, Key
from ..errors import Damaged, NotFound, SimonidesError
from .frames import Frame
from .manifest import KEYS, Backup, Part
from .place import Place

PAGE = 1000  # keys that are read or written at a time


async def all_keys(directory: Directory) -> AsyncIterator[Frame]:
    """Yield every key there is."""
    after: str | None = None
    while page := await directory.kept(after=after, limit=PAGE):
        for key, own in page:
            said = {each.name: getattr(key, each.name) for each in dataclasses.fields(key)}
            said |= {"permits": list(key.permits.names), "spaces": key.spaces and sorted(key.spaces), "digest": own}
            yield Frame(0, msgspec.msgpack.encode(said), 1)
        after = page[-1][0].id


async def restore_keys(place: Place, backup: Backup, directory: Directory) -> int:
    """Write the keys of a backup into a directory; return how many were not there. What a later backup in the same
    place knows to be revoked is revoked. Raise NotFound where the backup has no keys.
    """
    if not backup.of(KEYS):
        raise NotFound(f"backup {backup.id} was made without the keys")
    revoked = dict[str, datetime]()
    for other in place.akin(backup.store, backup.lineage):
        if other.id >= backup.id:
            async for key, _ in _keys(place, other):
                if key.revoked:
                    revoked[key.id] = min(key.revoked, revoked.get(key.id, key.revoked))
    count, waiting = 0, list[Kept]()
    async for key, own in _keys(place, backup):
        waiting.append((dataclasses.replace(key, revoked=revoked.get(key.id)), own))
        if len(waiting) == PAGE:
            count, waiting = count + await directory.restore(waiting), []
    return count + await directory.restore(waiting)


async def _keys(place: Place, backup: Backup) -> AsyncIterator[Kept]:
    for part in backup.of(KEYS):
        async for frame in place.frames(part):
            yield key_of(frame, part)


def key_of(frame: bytes, part: Part) -> Kept:
    try:
        said = msgspec.msgpack.decode(frame, type=_Key)
        values = {name: getattr(said, name) for name in said.__struct_fields__ if name != "digest"}
        return Key(**{**values, "permits": Permit.of(said.permits)}), said.digest
    except (msgspec.MsgspecError, SimonidesError) as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None


class _Key(msgspec.Struct):
    id: str
    name: str
    tenant: str
    spaces: frozenset[str] | None
    user: str | None
    permits: list[str]
    rate: int | None
    made: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None
    digest: bytes
