"""Erases: finds what goes, takes it out of every place, and certifies what was done.

The erase itself is one transaction. What follows it (index files, exports, caches, the bytes of the database) is done
before the certificate is written. If the process dies in between, the store still knows what is not certified, and the
next opening does it all again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .embedder import Embedder
from .errors import Full
from .exports import FOLDER, without
from .index import Index
from .query import Query
from .record import Record, Ref, Scope, new_id, now
from .store import Batch, Certificate, Store

log = logging.getLogger("simonides")

SAMPLES = 256  # erased texts that the store looks for in its own bytes afterwards
EVERYTHING = 10**9
LINES = 5000  # of the log that are read at a time


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


def narrow(query: Query) -> bool:
    """Whether the query names anything besides the walls."""
    named = (query.kinds, query.labels, query.folder, query.sources, query.part_of, query.since, query.until)
    more = (query.pinned, query.importance_min, *(level for _, level in query.scope.levels))
    return bool(query.metadata) or any(name is not None for name in (*named, *more))


async def doomed(store: Store, query: Query) -> Preview:
    """Return what matches in its latest version, its parts, and what was made of nothing but those.

    Only what bears the very names of the scope is meant: what others share with it stays.
    """
    wide = dataclasses.replace(query, statuses=None, ended=True, shared=False, limit=EVERYTHING)
    found = {record.id: record for record in await store.find(wide)}
    named, frontier = set(found), set(found)
    mine = Query(scope=query.scope, shared=False, statuses=None, ended=True, limit=EVERYTHING)
    while frontier:
        follows = await _parts(store, mine, frontier) + await _derived(store, mine, set(found))
        fresh = {record.id: record for record in follows if record.id not in found}
        found |= fresh
        frontier = set(fresh)
    versions = await store.count(dataclasses.replace(_all(query.scope), ids=frozenset(found), any_time=True))
    return Preview(tuple(found.values()), frozenset(found) - named, versions)


async def _parts(store: Store, mine: Query, wholes: Iterable[str]) -> list[Record]:
    return await store.find(dataclasses.replace(mine, part_of=frozenset(wholes)))


async def _derived(store: Store, mine: Query, gone: set[str]) -> list[Record]:
    """Return what is linked `derived_from` the gone alone, and conversations all of whose messages are gone."""
    linked = dataclasses.replace(mine, linked=("derived_from", frozenset(gone)))
    derived = [record for record in await store.find(linked) if set(record.targets("derived_from")) <= gone]
    parts = await store.find(dataclasses.replace(mine, ids=frozenset(gone)))
    wholes = {part.part_of for part in parts if part.part_of} - gone
    left = await _parts(store, _all(mine.scope), wholes) if wholes else []
    empty = wholes - {record.part_of for record in left if record.id not in gone}
    talks = dataclasses.replace(mine, ids=frozenset(empty), kinds=frozenset({"conversation"}))
    return derived + (await store.find(talks) if empty else [])


def _all(scope: Scope) -> Query:
    """Return the query for the latest versions of everything between the walls."""
    walls = Scope(tenant=scope.tenant, space=scope.space)
    return Query(scope=walls, statuses=None, ended=True, limit=EVERYTHING)


Forgets = Callable[[Scope], Awaitable[int | None]]  # takes answers of a realm out of a cache; see `Answers.forget`


async def erase(
    preview: Preview,
    scope: Scope,
    store: Store,
    indexes: Sequence[Index],
    embedders: Sequence[Embedder],
    forgets: Forgets | None = None,
) -> Certificate:
    """Take everything of the preview out of every place, and return the certificate, which is also in the log."""
    refs = frozenset(record.ref for record in preview.records)
    samples = sorted({record.text for record in preview.records}, key=len, reverse=True)[:SAMPLES]
    gone = dataclasses.replace(_all(scope), ids=frozenset(preview.ids), any_time=True)
    vectors = [await store.slots(gone, model) for model in await store.models(scope)]
    await store.commit(Batch(erase=tuple(sorted(refs, key=lambda ref: ref.id))))
    counted = {
        "records": preview.count,
        "versions": preview.versions,
        "words": preview.versions,
        "vectors": sum(len(slots) for slots in vectors),
    }
    for embedder in embedders:
        embedder.clear_cache()
    try:
        return await _purge(refs, scope, preview.derived, counted, samples, store, indexes, forgets)
    except Full as error:
        raise Full(
            "what was named is erased, but the disk is full: its last bytes and its certificate are seen to when the"
            " store is opened with room to spare"
        ) from error


async def finish(store: Store, indexes: Sequence[Index], forgets: Forgets | None = None) -> None:
    """Finish the erases that were cut off before their certificate; on a full disk, the next opening tries again."""
    unfinished = await store.unfinished()
    for realm in sorted({(ref.tenant, ref.space) for ref in unfinished}):
        refs = frozenset(ref for ref in unfinished if (ref.tenant, ref.space) == realm)
        scope = Scope(tenant=realm[0], space=realm[1])
        try:
            await _purge(refs, scope, frozenset(), {"records": len(refs)}, [], store, indexes, forgets)
        except Full as error:
            log.warning("an erase that was cut off cannot be finished yet: %s", error)


async def _purge(
    refs: frozenset[Ref],
    scope: Scope,
    derived: frozenset[str],
    counted: Mapping[str, int],
    samples: Sequence[str],
    store: Store,
    indexes: Sequence[Index],
    forgets: Forgets | None,
) -> Certificate:
    """Take the erased out of the indexes, the exports, the cache and the store's own bytes, and certify it."""
    for index in indexes:
        await index.catch_up(scope)
    lines = await asyncio.to_thread(_purge_exports, store.folder, refs)
    answers = await forgets(scope) if forgets else None
    proof = await store.scrub(samples)
    certificate = Certificate(
        id=new_id(),
        at=now(),
        scope=scope,
        ids=tuple(sorted(ref.id for ref in refs)),
        derived=tuple(sorted(derived)),
        places={
            **counted,
            "exports": lines,
            "backups": int(proof.get("backups", 0)),
            **({} if answers is None else {"cached": answers}),
        },
        method=str(proof["method"]),
    )
    await store.commit(Batch(certificate=certificate))
    return certificate


def _purge_exports(folder: str | None, refs: frozenset[Ref]) -> int:
    if folder is None or not (Path(folder) / FOLDER).is_dir():
        return 0
    return sum(without(path, refs) for path in sorted((Path(folder) / FOLDER).rglob("*")) if path.is_file())


async def certificates(store: Store, scope: Scope) -> list[Certificate]:
    """Return the certificates of the erases that took nothing but what bears the very names of the scope.

    A certificate is about those whose memory went, not about who asked: a level that was left open then may have been
    everybody's, and an erase that was finished by the next opening was asked for by nobody. So what counts is the line
    that each erased record left in the log.
    """
    found, erased, place = list[Certificate](), dict[Ref, Scope](), 0
    while changes := await store.changes(after=place, limit=LINES, erases=True):
        place = changes[-1].seq
        for change in changes:
            if change.kind == "certificate":
                certificate = msgspec.convert(change.note, Certificate)
                whose = [erased.pop(Ref(*change.scope.realm, id), change.scope) for id in certificate.ids]
                if change.scope.realm == scope.realm and all(scope.sees(each, shared=False) for each in whose):
                    found.append(certificate)
            else:
                erased[change.ref] = change.scope
    return found
