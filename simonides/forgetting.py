"""Erases: finds what goes, takes it out of every place, and certifies what was done.

The erase itself is one transaction. What follows it (index files, exports, caches, the bytes of the database) is done
before the certificate is written, and done again at the next opening if the process dies in between.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .embedder import Embedder
from .exports import without
from .index import Index
from .query import Query
from .record import Record, Ref, Scope, new_id, now
from .store import Batch, Certificate, Change, Store

EXPORTS = "exports"  # the folder beside the store that exports go to, and that an erase looks through
SAMPLES = 256  # erased texts that the store looks for in its own bytes afterwards
EVERYTHING = 10**9


@dataclass(frozen=True, slots=True)
class Preview:
    """What an erase would take: the latest version of each record, and how many versions there are in all."""

    records: tuple[Record, ...]
    derived: frozenset[str]  # ids that go because they are parts of, or derived from, the others alone
    versions: int

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(record.id for record in self.records)

    @property
    def count(self) -> int:
        return len(self.records)


async def doomed(store: Store, query: Query) -> Preview:
    """Return what matches in its latest version, its parts, and what was made of nothing but those.

    Only what bears the very names of the scope is meant: what others share with it stays.
    """
    wide = dataclasses.replace(query, statuses=None, any_time=True, shared=False, limit=EVERYTHING)
    found = {record.id: record for record in _latest(await store.find(wide))}
    named, frontier = set(found), set(found)
    while frontier:
        follows = await _parts(store, query.scope, frontier) + await _derived(store, query.scope, set(found))
        fresh = {record.id: record for record in follows if record.id not in found}
        found |= fresh
        frontier = set(fresh)
    versions = await store.count(dataclasses.replace(_all(query.scope), ids=frozenset(found)))
    return Preview(tuple(found.values()), frozenset(found) - named, versions)


async def _parts(store: Store, scope: Scope, wholes: Iterable[str]) -> list[Record]:
    return _latest(await store.find(dataclasses.replace(_all(scope), part_of=frozenset(wholes))))


async def _derived(store: Store, scope: Scope, gone: set[str]) -> list[Record]:
    """Return what is linked `derived_from` the gone alone, and wholes all of whose parts are gone."""
    linked = dataclasses.replace(_all(scope), linked=("derived_from", frozenset(gone)))
    derived = [r for r in _latest(await store.find(linked)) if set(r.targets("derived_from")) <= gone]
    parts = _latest(await store.find(dataclasses.replace(_all(scope), ids=frozenset(gone))))
    wholes = {part.part_of for part in parts if part.part_of} - gone
    left = {record.part_of for record in await _parts(store, scope, wholes) if record.id not in gone}
    empty = frozenset(whole for whole in wholes if whole not in left)
    return derived + (_latest(await store.find(dataclasses.replace(_all(scope), ids=empty))) if empty else [])


def _all(scope: Scope) -> Query:
    walls = Scope(tenant=scope.tenant, space=scope.space)
    return Query(scope=walls, statuses=None, any_time=True, limit=EVERYTHING)


def _latest(versions: Sequence[Record]) -> list[Record]:
    return [record for record in versions if record.known.until is None]


async def erase(
    preview: Preview, scope: Scope, store: Store, index: Index | None, embedder: Embedder | None
) -> Certificate:
    """Take everything of the preview out of every place, and return the certificate, which is also in the log."""
    refs = tuple(record.ref for record in preview.records)
    samples = sorted({record.text for record in preview.records}, key=len, reverse=True)[:SAMPLES]
    gone = dataclasses.replace(_all(scope), ids=frozenset(preview.ids))
    vectors = [await store.slots(gone, model) for model in await store.models(scope)]
    await store.commit(Batch(erase=refs))
    if embedder:
        embedder.clear_cache()
    if index:
        await index.catch_up(scope)
    lines = await asyncio.to_thread(_purge_exports, store.folder, frozenset(refs))
    proof = await store.scrub(samples)
    certificate = Certificate(
        id=new_id(),
        at=now(),
        scope=scope,
        ids=preview.ids,
        derived=tuple(sorted(preview.derived)),
        places={
            "records": preview.count,
            "versions": preview.versions,
            "words": preview.versions,
            "vectors": sum(len(slots) for slots in vectors),
            "exports": lines,
            "backups": int(proof.get("backups", 0)),
        },
        method=str(proof["method"]),
    )
    await store.commit(Batch(certificate=certificate))
    return certificate


def _purge_exports(folder: str | None, refs: frozenset[Ref]) -> int:
    if folder is None or not (Path(folder) / EXPORTS).is_dir():
        return 0
    return sum(without(path, refs) for path in sorted((Path(folder) / EXPORTS).glob("*.jsonl*")))


def certified(change: Change) -> Certificate:
    return msgspec.convert(change.note, Certificate)
