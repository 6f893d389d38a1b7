"""A whole store, read in the order of its log, and written into another one so that both answer the same.

Everything that a store is follows from its log and the versions it speaks of, except what is noted beside it: vectors,
last recalls, the places of followers, and what they put aside. What was erased is in the log as lines without versions.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from .follow import letters, live
from .query import Place, Query
from .record import Record, Ref, Scope, Span
from .store import Batch, Change, Cursor, Embedding, Letter, Store

LINES = 500  # of the log that are read, and written, together
EMBEDDINGS = 200
RECALLS = 1000
MARK = "copied/"  # how the names of cursors begin that say how far a copy has come
PASSING = (MARK, "lease/", "worker/")  # and of all that are not copied: who is at work on the store just now
MODULUS = 1 << 128

Progress = Callable[[int], object]


Entry = tuple[Change, Record | None]  # a line of the log, and the version it speaks of where that is still there


# -- read ---------------------------------------------------------------------------------------------------------


async def erasures(store: Store, after: int = 0) -> list[Change]:
    """Return the lines of erases and certificates behind that line."""
    found = list[Change]()
    while lines := await store.changes(after=after, limit=LINES, erases=True):
        after = lines[-1].seq
        found += lines
    return found


def last_erased(erasures: Iterable[Change]) -> dict[Ref, int]:
    """Return the number of the last erase of each record: what was written of it before is gone."""
    return {line.ref: line.seq for line in erasures if _erases(line)}


async def stretches(store: Store, after: int, gone: Mapping[Ref, int]) -> AsyncIterator[list[Entry]]:
    """Yield the log of a snapshot behind that line, some lines at a time. `gone` is what `last_erased` says of it."""
    while lines := await store.changes(after=after, limit=LINES):
        after = lines[-1].seq
        living = [line for line in lines if line.version and line.seq > gone.get(line.ref, 0)]
        found = {(record.ref, record.version): record for record in await live(living, store)}
        alive = {line.seq for line in living}
        yield [(line, found.get((line.ref, line.version)) if line.seq in alive else None) for line in lines]


async def embeddings(store: Store, scope: Scope, model: str, start: int = 0) -> AsyncIterator[tuple[int, Embedding]]:
    """Yield (first slot, embedding) of everything that has vectors from that slot on, in the order of slots."""
    while page := await store.embedded(scope, model, start=start, limit=EMBEDDINGS):
        for slot, embedding in page:
            yield slot, embedding
        start = page[-1][0] + len(page[-1][1].vectors)


async def recalls(store: Store, scope: Scope) -> AsyncIterator[list[tuple[str, datetime]]]:
    """Yield the last recalls of a realm, page by page."""
    after = ""
    while page := await store.last_recalls(scope, after=after, limit=RECALLS):
        yield page
        after = page[-1][0]


async def places(store: Store) -> dict[str, int]:
    """Return how far its followers have read."""
    return {name: place for name, place in (await store.cursors("")).items() if not name.startswith(PASSING)}


# -- write --------------------------------------------------------------------------------------------------------


async def write(store: Store, entries: Sequence[Entry], mark: str) -> bool:
    """Write entries into the copy, and with them how far it has come; return whether they erase something."""
    place = await store.cursor(mark)
    for batch in _batches(entries):
        await store.commit(batch, cursor=Cursor(mark, place, place := batch.log[-1].seq))
    return any(_erases(line) for line, _ in entries)


def _batches(entries: Iterable[Entry]) -> Iterator[Batch]:
    """Cut where a record begins anew that was erased shortly before: a batch erases after it has restored."""
    lines, erased, restored = list[Change](), dict[Ref, None](), list[Record]()
    for line, record in entries:
        if record and record.ref in erased:
            yield Batch(restore=tuple(restored), erase=tuple(erased), log=tuple(lines))
            lines, erased, restored = [], {}, []
        lines.append(line)
        if record:
            restored.append(record)
        elif _erases(line):
            erased[line.ref] = None
    if lines:
        yield Batch(restore=tuple(restored), erase=tuple(erased), log=tuple(lines))


def _erases(line: Change) -> bool:
    return not line.version and line.kind != "certificate"


async def write_embeddings(store: Store, found: AsyncIterator[Embedding], progress: Progress | None = None) -> int:
    """Write embeddings, those that are not there yet; return how many were read."""
    waiting, count = list[Embedding](), 0
    async for embedding in found:
        waiting.append(embedding)
        count += 1
        if len(waiting) == EMBEDDINGS:
            await store.commit(Batch(embeddings=tuple(waiting)))
            waiting = []
            if progress:
                progress(EMBEDDINGS)
    if waiting:
        await store.commit(Batch(embeddings=tuple(waiting)))
        if progress:
            progress(len(waiting))
    return count


async def write_places(store: Store, wanted: Mapping[str, int]) -> None:
    """Let the followers go on in the copy where they are in what it is a copy of."""
    there = await places(store)
    for name in {**there, **wanted}:
        if there.get(name, 0) != wanted.get(name, 0):
            await store.commit(Batch(), cursor=Cursor(name, there.get(name, 0), wanted.get(name, 0)))


async def write_letters(store: Store, wanted: Sequence[Letter]) -> None:
    """Put aside in the copy what is put aside in what it is a copy of, and nothing else."""
    named = {(letter.follower, letter.change.seq) for letter in wanted}
    there = [(letter.follower, letter.change.seq) for letter in await letters(store)]
    answered = tuple(name for name in there if name not in named)
    await store.commit(Batch(letters=tuple(wanted), answered=answered))


# -- compare ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sum:
    """How much a realm holds, and a digest of all of it that does not depend on the order it is read in."""

    tenant: str
    space: str
    counts: Mapping[str, int]
    digest: str


@dataclass(frozen=True, slots=True)
class Sums:
    """What a whole store answers, summed up; two stores with equal sums hold the same."""

    realms: tuple[Sum, ...]
    head: int
    followers: Mapping[str, int]

    @property
    def digest(self) -> str:
        plain = [[realm.tenant, realm.space, realm.digest] for realm in self.realms]
        return _digest([plain, self.head, dict(self.followers)]).hex()


async def summed(store: Store, progress: Progress | None = None) -> Sums:
    """Read everything that a snapshot answers: every version, the log, vectors with tokens, recalls, and the rest."""
    sums = {scope.realm: _Adding() for scope in await store.realms()}
    after = 0
    while lines := await store.changes(after=after, limit=LINES * 10):
        after = lines[-1].seq
        for line in lines:
            sums.setdefault(line.scope.realm, _Adding()).add("changes", _of_line(line))
    for ref in await store.unfinished():
        sums.setdefault((ref.tenant, ref.space), _Adding()).add("not certified", ref.id)
    for letter in await letters(store):
        said = [letter.follower, letter.change.seq, letter.tries, _micros(letter.at), letter.error]
        sums.setdefault(letter.change.scope.realm, _Adding()).add("letters", said)
    for realm, adding in sums.items():
        await _add_realm(store, Scope(tenant=realm[0], space=realm[1]), adding, progress)
    realms = (Sum(*realm, dict(adding.counts), f"{adding.total:032x}") for realm, adding in sorted(sums.items()))
    return Sums(tuple(realms), await store.head(), await places(store))


async def _add_realm(store: Store, scope: Scope, adding: _Adding, progress: Progress | None) -> None:
    query = Query(scope=scope, statuses=None, any_time=True, newest=False, limit=LINES)
    while page := await store.find(query):
        for record in page:
            adding.add("versions", _of_record(record))
        query = dataclasses.replace(query, after=Place.of(page[-1]))
        if progress:
            progress(len(page))
    for model in await store.models(scope):
        async for _, embedding in embeddings(store, scope, model):
            halves = embedding.vectors.astype("<f2").tobytes()
            adding.add("embeddings", [model, embedding.ref.id, embedding.version, halves, embedding.tokens])
    async for recalled in recalls(store, scope):
        for id, at in recalled:
            adding.add("recalls", [id, _micros(at)])


class _Adding:
    """Adds up the digests of what a realm holds, so that order does not matter and nothing is kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.total = 0

    def add(self, what: str, said: Any) -> None:
        self.counts[what] += 1
        self.total = (self.total + int.from_bytes(_digest([what, said]))) % MODULUS


def _digest(said: Any) -> bytes:
    encoded = msgspec.msgpack.encode(said, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=16, person=b"simonides").digest()


def _of_record(record: Record) -> Sequence[Any]:
    spans = [_span(record.valid), _span(record.known), _micros(record.begun)]
    parts = [getattr(record, field.name) for field in dataclasses.fields(record) if field.name not in _TIMES]
    return [record.kind, *spans, *parts]


_TIMES = frozenset({"valid", "known", "begun"})


def _of_line(line: Change) -> Sequence[Any]:
    return [line.seq, _micros(line.at), line.id, line.version, line.kind, line.scope, line.note]


def _span(span: Span) -> Sequence[int | None]:
    return [_micros(span.since), _micros(span.until)]


def _micros(at: datetime | None) -> int | None:
    if at is None:
        return None
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def halves(vectors: bytes, dimension: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vectors that were kept as little-endian half floats, one a row."""
    return np.frombuffer(vectors, "<f2").reshape(-1, dimension).astype(np.float32)
