"""A new backup is made: of one moment of the store, and of what the log has gained since the backup before."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from .. import exports
from ..blob import every
from ..directory import Directory
from ..record import Ref, Scope, new_id, now
from ..store import Change, Store
from ..whole import MARK, Progress, embeddings, erasures, last_erased, stretches
from .beside import all_noted, noted
from .forgetting import forget
from .frames import Frame, Source, put
from .keys import all_keys
from .manifest import BESIDE, ERASED, FORMAT, KEYS, LOG, VECTORS, Backup, Part, counted
from .place import Place, check_whole, sweep


@dataclass(frozen=True, slots=True)
class Made:
    """What making a backup did: the backup, and how many older parts were written anew without what was erased."""

    backup: Backup
    rewritten: int


async def create(
    store: Store,
    place: Place,
    *,
    vectors: bool = True,
    full: bool = False,
    keys: Directory | None = None,
    progress: Progress | None = None,
) -> Made:
    """Make a backup of the store as it is now; writers go on meanwhile. `full` goes on from no backup before. `keys`
    are the keys to the memory, all of them, where they are to be in it, too.
    """
    async with store.snapshot() as frozen:
        base = None if full else await _base(frozen, place)
        work = _Making(frozen, place, base, await frozen.head(), progress)
        parts = await work.parts(vectors, keys)
        lines = await erasures(frozen, base.head if base else 0)
        lineage = await _lineage(frozen)
        rewritten = await forget(frozen, place, lineage, lines)
        kept = [rewritten.get(part.name, part) for part in base.parts] if base else []
        kept = [part for part in kept if part.kind not in (BESIDE, KEYS) and part.frames]
        backup = Backup(
            format=FORMAT,
            id=new_id(),
            at=now(),
            store=frozen.identity,
            lineage=lineage,
            head=work.head,
            mark=await _mark(frozen, work.head),
            base=base.id if base else None,
            counts=counted([*kept, *parts]) | {"records": (await frozen.counts())["records"]},
            added=sum(part.size for part in parts),
            vectors=vectors,
            key=place.key.about if place.key else None,
            parts=(*kept, *parts),
        )
    await place.keep(backup)
    await check_whole(place, backup)
    place.backups.append(backup)
    await sweep(place, base)
    return Made(backup, len(rewritten))


async def planned(store: Store, place: Place, *, full: bool = False) -> tuple[Backup | None, int, int]:
    """Return what a backup would go on from, and how many lines of the log and how many erases are new since."""
    base = None if full else await _base(store, place)
    after = base.head if base else 0
    return base, await store.head() - after, len(last_erased(await erasures(store, after)))


async def _base(store: Store, place: Place) -> Backup | None:
    """Return the last backup that this store has only grown since, and of which everything is there."""
    head, names = await store.head(), {blob.name async for blob in every(place.blobs, "parts")}
    for backup in reversed(place.backups):
        same = backup.store == store.identity and backup.head <= head
        if same and names.issuperset(part.name for part in backup.parts):
            return backup if backup.mark == await _mark(store, backup.head) else None
    return None


async def _mark(store: Store, number: int) -> str:
    lines = await store.changes(after=number - 1, limit=1) if number else []
    return hashlib.sha256(msgspec.json.encode(lines, order="deterministic")).hexdigest()


async def _lineage(store: Store) -> tuple[str, ...]:
    marks = (name.removeprefix(MARK) for name in await store.cursors(MARK))
    return tuple(sorted({mark.partition("/")[0] for mark in marks} - {store.identity}))


@dataclass(slots=True)
class _Making:
    frozen: Store
    place: Place
    base: Backup | None
    head: int
    progress: Progress | None

    async def parts(self, vectors: bool, keys: Directory | None = None) -> list[Part]:
        """Write what is new since the base."""
        after = self.base.head if self.base else 0
        lines = await erasures(self.frozen, after)
        found = await self._written(LOG, self._log(after, last_erased(lines)))
        found += await self._written(ERASED, _erases(lines))
        if vectors:
            before = await self._extents()
            for scope in await self.frozen.realms():
                for model in await self.frozen.models(scope):
                    extent = await self.frozen.extent(scope, model)
                    start = before.get((*scope.realm, model, extent.group), 0)
                    title = msgspec.msgpack.encode((*scope.realm, model))
                    found += await self._written(VECTORS, self._embeddings(scope, model, start), title, extent.group)
        found += await self._written(KEYS, all_keys(keys)) if keys else []
        return found + await self._written(BESIDE, all_noted(self.frozen))

    async def _extents(self) -> dict[tuple[str, str, str, int], int]:
        """Return how far the vectors of each realm, model and group are in the base."""
        if self.base is None or not self.base.vectors:
            return {}
        return (await noted(self.place, self.base)).extents

    async def _log(self, after: int, gone: Mapping[Ref, int]) -> AsyncIterator[Frame]:
        async for entries in stretches(self.frozen, after, gone):
            for line, record in entries:
                said = (line, exports.line(record) if record else None)
                yield Frame(line.seq, msgspec.msgpack.encode(said), int(record is not None))
            if self.progress:
                self.progress(len(entries))

    async def _embeddings(self, scope: Scope, model: str, start: int) -> AsyncIterator[Frame]:
        async for slot, each in embeddings(self.frozen, scope, model, start):
            vectors = each.vectors.astype("<f2")
            said = (slot, each.ref.id, each.version, vectors.shape[1], vectors.tobytes(), each.tokens)
            yield Frame(slot, msgspec.msgpack.encode(said), 1)

    async def _written(
        self, kind: str, frames: AsyncIterator[Frame], title: bytes | None = None, group: int = 0
    ) -> list[Part]:
        """Write frames in as many parts as it takes, each with the title in front."""
        found, source = list[Part](), Source(frames)
        while await source.more():
            found.append(await put(self.place, kind, source, title, group, self.head))
        return found


async def _erases(lines: Iterable[Change]) -> AsyncIterator[Frame]:
    for line in lines:
        yield Frame(line.seq, msgspec.msgpack.encode(line))
