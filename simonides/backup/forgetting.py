"""What is erased leaves the backups, too: the parts that hold it are written anew without it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import msgspec

from ..record import Ref
from ..store import Change, Store
from ..whole import LINES, last_erased
from .frames import Frame, Source, embedding_of, entry_of, put
from .manifest import LOG, VECTORS, Backup, Part, counted
from .place import Place

FOREVER = 2**62  # later than every line


async def forget(store: Store, place: Place, lineage: Collection[str], lines: Sequence[Change]) -> dict[str, Part]:
    """Write the parts of earlier backups anew that hold what these lines erase; return the new ones by the old names.

    Every manifest that names an old part names the new one before the old is removed.
    """
    gone = last_erased(lines)
    earlier = place.akin(store.identity, lineage)
    if not gone or not earlier:
        return {}
    suspects = await _suspects(store, earlier, gone)
    anew = dict[str, Part]()
    for part, own in suspects.values():
        which = gone if own else dict.fromkeys(gone, FOREVER)
        if await _holds(place, part, which):
            anew[part.name] = await _rewritten(place, part, which)
    for number, backup in enumerate(place.backups):
        if any(part.name in anew for part in backup.parts):
            parts = tuple(anew.get(part.name, part) for part in backup.parts)
            place.backups[number] = changed = dataclasses.replace(
                backup, parts=parts, counts=dict(backup.counts) | counted(parts)
            )
            await place.keep(changed)
    for name in anew:
        await place.blobs.delete(name)
    return anew


async def _suspects(store: Store, earlier: Sequence[Backup], gone: Mapping[Ref, int]) -> dict[str, tuple[Part, bool]]:
    """Return the parts that may hold the erased, and whether they are this store's own: of those, the ones with a line
    or a slot of theirs, of others all.
    """
    numbers, after = set[int](), 0
    while lines := await store.changes(after=after, limit=LINES * 10):
        after = lines[-1].seq
        numbers |= {line.seq for line in lines if line.ref in gone}
    slots = dict[int, set[int]]()
    for scope in await store.realms():
        for model in await store.models(scope):
            group = (await store.extent(scope, model)).group
            slots[group] = set(await store.holes(scope, model, after=0))
    found = dict[str, tuple[Part, bool]]()
    for backup in earlier:
        own = backup.store == store.identity
        for part in backup.parts:
            places = numbers if part.kind == LOG else slots.get(part.group)
            mine = own and places is not None
            held = part.kind in (LOG, VECTORS) and part.held
            if held and (not mine or any(part.first <= place <= part.last for place in places or ())):
                found[part.name] = part, own
    return found


async def _holds(place: Place, part: Part, gone: Mapping[Ref, int]) -> bool:
    async for _, held in _kept(place, part, gone):
        if held is None:
            return True
    return False


async def _kept(place: Place, part: Part, gone: Mapping[Ref, int]) -> AsyncIterator[tuple[bytes, Frame | None]]:
    """Yield each frame of a part, and as it is without the erased: None where it changes."""
    walls: tuple[str, str] | None = None
    async for frame in place.frames(part):
        if part.kind == LOG:
            line, record = entry_of(frame, part)
            if record is not None and gone.get(line.ref, 0) > line.seq:
                yield frame, None
            else:
                yield frame, Frame(line.seq, frame, int(record is not None))
        elif walls is None:
            walls = msgspec.msgpack.decode(frame, type=tuple[str, str, str])[:2]
            yield frame, Frame(-1, frame)
        else:
            slot, id, *_ = embedding_of(frame, part)
            yield frame, None if gone.get(Ref(*walls, id), 0) > part.head else Frame(slot, frame, 1)


async def _rewritten(place: Place, part: Part, gone: Mapping[Ref, int]) -> Part:
    title: list[bytes] = []

    async def frames() -> AsyncIterator[Frame]:
        async for old, kept in _kept(place, part, gone):
            if kept is not None and kept.place >= 0:
                yield kept
            elif kept is not None:
                title.append(old)
            elif part.kind == LOG:
                line, _ = entry_of(old, part)
                yield Frame(line.seq, msgspec.msgpack.encode((line, None)))

    source = Source(frames())
    await source.more()
    new = await put(place, part.kind, source, title[0] if title else None, part.group, part.head)
    return dataclasses.replace(new, first=part.first, last=part.last)
