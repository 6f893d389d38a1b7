"""A backup is written into an empty store, without what any later one knows to be erased."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from .. import exports
from ..errors import Conflict
from ..record import Record, Ref
from ..store import Change, Embedding, Store
from ..whole import (
    LINES,
    MARK,
    Entry,
    Progress,
    halves,
    last_erased,
    write,
    write_embeddings,
    write_letters,
    write_places,
)
from .beside import noted
from .forgetting import FOREVER
from .frames import embedding_of, entry_of
from .manifest import ERASED, LOG, VECTORS, Backup, Part
from .place import Place


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore wrote. `erased` is how many records it left out because a later backup knows them erased."""

    backup: Backup
    lines: int
    versions: int
    embeddings: int
    erased: int


async def restore(place: Place, backup: Backup, store: Store, progress: Progress | None = None) -> Restored:
    """Write a backup into an empty store, or go on with a restore of it that was cut off; raise Conflict otherwise."""
    mark = f"{MARK}{backup.store}/{backup.id}"
    begun, head = await store.cursor(mark), await store.head()
    if begun == 0 and (head or (await store.counts())["records"]):
        raise Conflict("the store is not empty: restore into a new one, and compare or move from there")
    if begun != head:
        raise Conflict("something else was written to the store since the restore began: restore into a new one")
    own, later = await _erased(place, backup)
    gone = own | dict.fromkeys(later, FOREVER)
    lines = versions = embedded = 0
    left_out = dict[Ref, Change]()
    for part in backup.of(LOG):
        if part.last <= begun and not later:
            continue
        async for entries in _entries(place, part, gone):
            for line, _ in entries:  # what was there when the backup was made, and was erased since
                if line.version and line.ref in later and own.get(line.ref, 0) < line.seq:
                    left_out[line.ref] = later[line.ref]
            waiting = [entry for entry in entries if entry[0].seq > begun]
            if waiting:
                await write(store, waiting, mark)
            lines += len(waiting)
            versions += sum(record is not None for _, record in waiting)
            if progress:
                progress(len(entries))
    if left_out and await store.head() == backup.head:
        await write(store, await _afterwards(place, backup, left_out), mark)
    extents = (await noted(place, backup)).extents
    for part in backup.of(VECTORS):
        embedded += await write_embeddings(store, _embeddings(place, part, gone, extents), progress)
    beside = await noted(place, backup, store)
    await write_letters(store, [letter for letter in beside.letters if letter.change.seq <= backup.head])
    await write_places(store, beside.followers)
    return Restored(backup, lines, versions, embedded, len(left_out))


async def _erased(place: Place, backup: Backup) -> tuple[dict[Ref, int], dict[Ref, Change]]:
    """Return the last erase of each record as the backup's log and later backups know it, and of the latter the
    lines.
    """
    own = [line async for line in _lines(place, backup.of(ERASED))]
    known = {(line.seq, line.ref) for line in own}
    later = dict[Ref, Change]()
    async for line in _said_later(place, backup):
        if line.kind != "certificate" and (line.seq, line.ref) not in known:
            later[line.ref] = line
    return last_erased(own), later


async def _said_later(place: Place, backup: Backup) -> AsyncIterator[Change]:
    """Yield the lines of erases and certificates that later backups have, and this one does not."""
    names = {part.name for part in backup.parts}
    for other in place.akin(backup.store, backup.lineage):
        if other.id > backup.id:
            fresh = [part for part in other.of(ERASED) if part.name not in names]
            names |= {part.name for part in fresh}
            async for line in _lines(place, fresh):
                yield line


async def _lines(place: Place, parts: Iterable[Part]) -> AsyncIterator[Change]:
    for part in parts:
        async for frame in place.frames(part):
            yield msgspec.msgpack.decode(frame, type=Change)


async def _entries(place: Place, part: Part, gone: Mapping[Ref, int]) -> AsyncIterator[list[Entry]]:
    waiting = list[Entry]()
    async for frame in place.frames(part):
        line, held = entry_of(frame, part)
        record: Record | None = None
        if held is not None and gone.get(line.ref, 0) < line.seq:
            record = exports.record(held)
        waiting.append((line, record))
        if len(waiting) == LINES:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


async def _afterwards(place: Place, backup: Backup, left_out: Mapping[Ref, Change]) -> list[Entry]:
    """Return the lines of the erases, and of their certificates, that came after the backup, numbered to follow it."""
    lines = list(left_out.values())
    async for line in _said_later(place, backup):
        ids = (line.note or {}).get("ids", ())
        if line.kind == "certificate" and any(Ref(*line.scope.realm, id) in left_out for id in ids):
            lines.append(line)
    return [(dataclasses.replace(line, seq=seq), None) for seq, line in enumerate(lines, backup.head + 1)]


async def _embeddings(
    place: Place, part: Part, gone: Mapping[Ref, int], extents: Mapping[tuple[str, str, str, int], int]
) -> AsyncIterator[Embedding]:
    title: tuple[str, str, str] | None = None
    async for frame in place.frames(part):
        if title is None:
            title = msgspec.msgpack.decode(frame, type=tuple[str, str, str])
            if (*title, part.group) not in extents:
                return  # the model was dropped since
            continue
        _, id, version, dimension, vectors, tokens = embedding_of(frame, part)
        ref = Ref(title[0], title[1], id)
        if gone.get(ref, 0) <= part.head:
            yield Embedding(ref, version, title[2], halves(vectors, dimension), tokens)
