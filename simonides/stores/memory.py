"""A store in plain dicts: for tests, for notebooks, and as the plain reading of what a store means.

`memory:` keeps nothing: what is closed is gone. It finds by asking `Query.matches` of every record, so where another
store disagrees with this one, the other is wrong. What the contract leaves open is decided here so:

- A batch is written in the order of its fields, and each field in the order given: `put`, `restore`, `erase`,
  `embeddings`, `certificate`.
- A key is taken by the record whose latest version bears it, as long as nobody has ended that version: neither its
  belief (a version restored with the end of its `known` is not the latest) nor, as of now, its validity. It is taken
  for one exact scope and kind.
- Beginning with version 1, versions have no gaps; a record that was erased begins anew.
- The vectors of one realm and model have one dimension; another one is Invalid.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .. import words as language
from ..errors import Conflict, Invalid
from ..growth import Growth
from ..query import Place, Query
from ..record import TICK, Record, Ref, Scope, Span, now
from ..store import Batch, Change, Cursor, Embedding, Extent, Health, Letter, Lines, Store, check_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

K1, B = 1.2, 0.75  # BM25 as Robertson and Zaragoza recommend it ("The Probabilistic Relevance Framework", 2009)

Name = tuple[Scope, str, str | None]  # a natural name: whose, of which kind, the key


class MemoryStore:
    def __init__(self, url: str = "memory:") -> None:
        if url not in ("memory:", "memory://"):
            raise Invalid(f"{url!r}: a store in memory has no name and no options; write memory:")
        self.identity = str(uuid.uuid4())
        self.folder: str | None = None
        self._records: dict[Ref, list[Record]] = {}  # every version, in order
        self._bearers: dict[Name, set[Ref]] = {}  # who bears the name in some version
        self._log: list[Change] = []
        self._heads: dict[tuple[str, str], int] = {}  # the last line about each realm
        self._erasing: set[Ref] = set()  # erased, and not certified yet
        self._recalls: dict[Ref, datetime] = {}
        self._cursors: dict[str, int] = {}
        self._letters: dict[tuple[int, str], Letter] = {}  # by line of the log and follower
        self._groups: dict[tuple[tuple[str, str], str], _Group] = {}  # by realm and model
        self._groups_made = 0
        self._terms: dict[tuple[Ref, int], Counter[str]] = {}  # of the versions that were searched
        self._growth = Growth()
        self._frozen = False  # a snapshot

    # -- writing -------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch, *, cursor: Cursor | None = None) -> Lines:
        """Nothing here is awaited, so no other task ever sees half a batch."""
        self._check_open()
        check_log(batch, len(self._log))
        if cursor and self._cursors.get(cursor.name, 0) != cursor.was:
            raise Conflict(f"the follower {cursor.name} is no longer at {cursor.was}")
        draft = _Draft(self._records, self._bearers, now())
        for record in batch.put:
            draft.put(record)
        for record in batch.restore:
            draft.restore(record)
        for ref in batch.erase:
            draft.erase(ref)
        embeddings = [one for one in batch.embeddings if draft.holds(one.ref, one.version)]
        self._check_dimensions(embeddings)
        if certificate := batch.certificate:
            draft.note(certificate.id, certificate.scope, msgspec.json.decode(msgspec.json.encode(certificate)))
            self._erasing -= {Ref(*certificate.scope.realm, id) for id in certificate.ids}
        self._keep(draft)
        for embedding in embeddings:
            self._group(embedding.ref, embedding.model).add(embedding)
        for follower, seq in batch.answered:
            self._letters.pop((seq, follower), None)
        for letter in batch.letters:
            if letter.change.ref in self._records:
                self._letters[letter.change.seq, letter.follower] = letter
        if cursor:
            self._cursors[cursor.name] = cursor.now
        before = len(self._log)
        lines = self._copy_log(batch.log) if batch.log else self._write_log(draft.lines)
        there = [name for name in batch.followed if lines and before and self._cursors.get(name) == before]
        self._cursors |= dict.fromkeys(there, len(self._log))
        if lines:
            self._growth.stir()
        return Lines(lines, there)

    def _copy_log(self, lines: Sequence[Change]) -> list[Change]:
        for line in lines:
            if line.kind == "certificate":
                self._erasing -= {Ref(*line.scope.realm, id) for id in (line.note or {})["ids"]}
            elif not line.version:
                self._erasing.add(line.ref)
        self._log += [_own_change(line) for line in lines]
        return [_own_change(line) for line in lines]

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Store]:
        frozen = copy.copy(self)
        frozen._frozen = True
        frozen._records, frozen._recalls, frozen._cursors = (
            dict(self._records),
            dict(self._recalls),
            dict(self._cursors),
        )
        frozen._letters = dict(self._letters)
        frozen._log, frozen._erasing, frozen._terms = list(self._log), set(self._erasing), {}
        frozen._groups = {name: group.copy() for name, group in self._groups.items()}
        yield frozen

    def _check_open(self) -> None:
        if self._frozen:
            raise Invalid("a snapshot is only read from")

    def _keep(self, draft: _Draft) -> None:
        for name, refs in draft.bearers.items():
            self._bearers.setdefault(name, set()).update(refs)
        for ref, versions in draft.changed.items():
            if versions:
                self._records[ref] = versions
            else:
                self._forget(ref)
                self._erasing.add(ref)

    def _forget(self, ref: Ref) -> None:
        self._recalls.pop(ref, None)
        self._letters = {name: letter for name, letter in self._letters.items() if letter.change.ref != ref}
        for record in self._records.pop(ref, ()):
            self._terms.pop((ref, record.version), None)
            self._bearers.get(_name(record), set()).discard(ref)
        for group in self._groups.values():
            group.empty(ref)

    def _write_log(self, lines: Iterable[Change]) -> list[Change]:
        written = [dataclasses.replace(line, seq=len(self._log) + place) for place, line in enumerate(lines, 1)]
        self._log += written
        self._heads |= {line.scope.realm: line.seq for line in written}
        return [_own_change(change) for change in written]

    def _check_dimensions(self, embeddings: Iterable[Embedding]) -> None:
        known = {name: group.dimension for name, group in self._groups.items()}
        for embedding in embeddings:
            ref, dimension = embedding.ref, embedding.vectors.shape[1]
            if known.setdefault(((ref.tenant, ref.space), embedding.model), dimension) != dimension:
                raise Invalid(f"{embedding.model} has other dimensions here than {dimension}: give it another name")

    def _group(self, ref: Ref, model: str) -> _Group:
        name = (ref.tenant, ref.space), model
        if name not in self._groups:
            self._groups_made += 1
            self._groups[name] = _Group(self._groups_made)
        return self._groups[name]

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, query: Query) -> list[Record]:
        found = self._matching(query)
        if query.newest:
            found.sort(key=Place.of, reverse=True)
        return [_own(record) for record in filter(query.comes_after, found)][: query.limit]

    def _matching(self, query: Query) -> list[Record]:
        """Return what is meant, by id and version."""
        present = now()
        return [
            record
            for ref in sorted(self._named(query), key=lambda ref: ref.id)
            for record in self._records[ref]
            if query.matches(record, present)
        ]

    def _named(self, query: Query) -> Iterator[Ref]:
        realm = query.scope.realm
        if query.ids is not None:
            return (ref for id in query.ids if (ref := Ref(*realm, id)) in self._records)
        return (ref for ref in self._records if (ref.tenant, ref.space) == realm)

    async def count(self, query: Query) -> int:
        return len(self._matching(query))

    async def around(self, query: Query, records: Sequence[Record]) -> list[tuple[Record | None, Record | None]]:
        found = sorted(self._matching(dataclasses.replace(query, ids=None)), key=Place.of)
        talks: dict[str | None, dict[Place, Record]] = {}  # each record in its latest version, in order
        for record in found:
            if record.part_of is not None:
                place = dataclasses.replace(Place.of(record), version=1)
                talks.setdefault(record.part_of, {})[place] = _own(record)

        def beside(record: Record) -> tuple[Record | None, Record | None]:
            talk, here = talks.get(record.part_of, {}), dataclasses.replace(Place.of(record), version=1)
            before, after = [p for p in talk if p < here], [p for p in talk if p > here]
            return (talk[before[-1]] if before else None), (talk[after[0]] if after else None)

        return [beside(record) for record in records]

    async def words(self, query: Query, text: str) -> list[tuple[Record, float]]:
        asked = set(language.asked(text))
        found = self._matching(query) if asked else []
        scored = zip(found, _bm25(asked, [self._terms_of(record) for record in found]), strict=True)
        best = sorted(((record, score) for record, score in scored if score > 0), key=lambda pair: -pair[1])
        return [(_own(record), score) for record, score in best[: query.limit]]

    def _terms_of(self, record: Record) -> Counter[str]:
        name = record.ref, record.version
        if name not in self._terms:
            self._terms[name] = Counter(language.terms(language.searched(record)))
        return self._terms[name]

    async def spread(self, scope: Scope, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        refs = self._named(Query(scope=scope))
        texts = [self._terms_of(record) for ref in refs for record in self._records[ref]]
        return len(texts), {term: sum(term in text for text in texts) for term in terms}

    async def changes(self, *, after: int = 0, limit: int = 100, erases: bool = False) -> list[Change]:
        if erases:
            lines = [change for change in self._log[after:] if not change.version][:limit]
        else:
            lines = self._log[after : after + limit]
        return [_own_change(change) for change in lines]

    async def head(self, scope: Scope | None = None) -> int:
        return len(self._log) if scope is None else self._heads.get(scope.realm, 0)

    async def grown(self, after: int, wait_s: float) -> int:
        return await self._growth.beyond(self.head, after, wait_s)

    async def cursor(self, name: str) -> int:
        return self._cursors.get(name, 0)

    async def cursors(self, prefix: str) -> dict[str, int]:
        return {name: place for name, place in sorted(self._cursors.items()) if place and name.startswith(prefix)}

    async def letters(self, follower: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        named = (letter for name, letter in sorted(self._letters.items()) if follower in (None, name[1]))
        return [letter for letter in named if letter.change.seq > after][:limit]

    # -- vectors -------------------------------------------------------------------------------------------------

    async def extent(self, scope: Scope, model: str) -> Extent:
        group = self._group_of(scope, model)
        return Extent(group.number, len(group.rows), len(group.holes))

    async def vectors(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, bytes]]:
        return [(slot, row.vector) for slot, row in self._group_of(scope, model).from_slot(start)][:limit]

    async def embedded(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, Embedding]]:
        group = self._group_of(scope, model)
        named = groupby(group.from_slot(start), lambda found: (found[1].ref, found[1].version))
        found = list[tuple[int, Embedding]]()
        for (ref, version), rows in islice(named, limit):
            slots, vectors = zip(*((slot, np.frombuffer(row.vector, "<f2")) for slot, row in rows), strict=True)
            tokens = group.tokens.get((ref, version), b"")
            found.append((slots[0], Embedding(ref, version, model, np.stack(vectors).astype(np.float32), tokens)))
        return found

    async def holes(self, scope: Scope, model: str, *, after: int) -> list[int]:
        return self._group_of(scope, model).holes[after:]

    async def slots(self, query: Query, model: str, *, start: int = 0, limit: int | None = None) -> NDArray[np.int64]:
        meant = {(record.ref, record.version) for record in self._matching(query)}
        rows = self._group_of(query.scope, model).from_slot(start)
        return np.array([slot for slot, row in rows if (row.ref, row.version) in meant][:limit], np.int64)

    async def owners(self, query: Query, model: str, slots: Sequence[int]) -> list[tuple[int, Record, bytes]]:
        wanted = {int(slot) for slot in slots}
        meant = {(record.ref, record.version): record for record in self._matching(query)}
        return [
            (slot, meant[row.ref, row.version], row.vector)
            for slot, row in self._group_of(query.scope, model).from_slot(0)
            if slot in wanted and (row.ref, row.version) in meant
        ]

    async def recalled(self, last: Mapping[Ref, datetime]) -> None:
        self._check_open()
        for ref, at in last.items():
            if ref in self._records:
                self._recalls[ref] = max(at, self._recalls.get(ref, at))

    async def recalls(self, scope: Scope, ids: Sequence[str]) -> dict[str, datetime]:
        refs = {id: Ref(*scope.realm, id) for id in ids}
        return {id: self._recalls[ref] for id, ref in refs.items() if ref in self._recalls}

    async def last_recalls(self, scope: Scope, *, after: str = "", limit: int = 1000) -> list[tuple[str, datetime]]:
        mine = sorted((ref.id, at) for ref, at in self._recalls.items() if (ref.tenant, ref.space) == scope.realm)
        return [(id, at) for id, at in mine if id > after][:limit]

    async def models(self, scope: Scope | None = None) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for (realm, model), group in self._groups.items():
            if scope is None or realm == scope.realm:
                counts[model] += group.count
        return {model: counts[model] for model in sorted(counts) if counts[model]}

    async def tokens(self, scope: Scope, model: str, which: Sequence[tuple[str, int]]) -> list[bytes]:
        tokens = self._group_of(scope, model).tokens
        return [tokens.get((Ref(*scope.realm, id), version), b"") for id, version in which]

    async def drop_model(self, model: str, *, limit: int | None = None) -> int:
        self._check_open()
        dropped = 0
        for name in [name for name in self._groups if name[1] == model]:
            group = self._groups[name]
            dropped += group.drop(group.count if limit is None else limit - dropped)
            if not group.count:
                del self._groups[name]
        return dropped

    def _group_of(self, scope: Scope, model: str) -> _Group:
        return self._groups.get((scope.realm, model)) or _Group(0)

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def realms(self) -> list[Scope]:
        realms = sorted({change.scope.realm for change in self._log})
        return [Scope(tenant=tenant, space=space) for tenant, space in realms]

    async def scrub(self, erased: Sequence[str] = ()) -> Mapping[str, Any]:
        return {"method": "memory"}

    async def unfinished(self) -> list[Ref]:
        return sorted(self._erasing, key=lambda ref: (ref.tenant, ref.space, ref.id))

    async def rebuild(self) -> None:
        self._terms.clear()

    async def counts(self) -> dict[str, int]:
        kinds = Counter(versions[-1].kind for versions in self._records.values())
        return {
            "records": len(self._records),
            "versions": sum(map(len, self._records.values())),
            "vectors": sum(group.count for group in self._groups.values()),
            "changes": len(self._log),
            "spaces": len({(ref.tenant, ref.space) for ref in self._records}),
            **dict(sorted(kinds.items())),
        }

    async def check(self) -> Health:
        return Health((), await self.counts())

    async def close(self) -> None:
        self._growth.close()


class _Draft:
    """What a batch would change, kept apart until all of it is known to be right."""

    def __init__(self, records: Mapping[Ref, list[Record]], bearers: Mapping[Name, set[Ref]], at: datetime) -> None:
        self._records, self._bearers, self._at = records, bearers, at
        self.changed: dict[Ref, list[Record]] = {}  # no versions: erased
        self.bearers: dict[Name, set[Ref]] = {}
        self.lines: list[Change] = []

    def versions(self, ref: Ref) -> list[Record]:
        return self.changed.get(ref, self._records.get(ref, []))

    def holds(self, ref: Ref, version: int) -> bool:
        return 0 < version <= len(self.versions(ref))

    def put(self, record: Record) -> None:
        if self._is_new(record):
            earlier = self.versions(record.ref)
            at = max(self._at, _believed(earlier[-1]) + TICK) if earlier else self._at
            self._check_key(record, at)
            ended = [*earlier[:-1], *(_until(last, at) for last in earlier[-1:])]
            self._write(ended, dataclasses.replace(record, known=Span(at)), at)

    def restore(self, record: Record) -> None:
        if self._is_new(record):
            since = record.known.since or self._at
            if record.known.until is None:
                self._check_key(record, self._at)
            earlier = self.versions(record.ref)
            ended = [*earlier[:-1], *(_until(last, last.known.until or since) for last in earlier[-1:])]
            self._write(ended, dataclasses.replace(record, known=Span(since, record.known.until)), self._at)

    def erase(self, ref: Ref) -> None:
        if versions := self.versions(ref):
            self.lines.append(Change(0, self._at, ref.id, 0, versions[-1].kind, versions[-1].scope))
            self.changed[ref] = []

    def note(self, id: str, scope: Scope, note: Mapping[str, Any]) -> None:
        self.lines.append(Change(0, self._at, id, 0, "certificate", scope, note))

    def _is_new(self, record: Record) -> bool:
        versions = self.versions(record.ref)
        if record.version == len(versions) + 1:
            if versions and versions[-1].scope != record.scope:
                raise Conflict(f"{record.id} is there already, and belongs elsewhere")
            return True
        if not self.holds(record.ref, record.version):
            raise Conflict(f"{record.id} is at version {len(versions)}; the next is not {record.version}")
        if not record.says_the_same(versions[record.version - 1]):
            raise Conflict(f"{record.id} has other content at version {record.version} already")
        return False

    def _check_key(self, record: Record, at: datetime) -> None:
        if not _keeps_its_name(record, at):
            return
        name = _name(record)
        for ref in self._bearers.get(name, set()) | self.bearers.get(name, set()):
            other = self.versions(ref)[-1:]
            if ref != record.ref and any(_name(last) == name and _keeps_its_name(last, at) for last in other):
                raise Conflict(f"the {record.kind} {record.body.key!r} is there already, as {ref.id}")

    def _write(self, earlier: list[Record], record: Record, at: datetime) -> None:
        self.changed[record.ref] = [*earlier, _own(record)]
        if record.body.key is not None:
            self.bearers.setdefault(_name(record), set()).add(record.ref)
        self.lines.append(Change(0, at, record.id, record.version, record.kind, record.scope))


def _name(record: Record) -> Name:
    return record.scope, record.kind, record.body.key


def _keeps_its_name(record: Record, at: datetime) -> bool:
    return record.body.key is not None and record.known.until is None and not record.valid.ended(at)


def _until(record: Record, at: datetime) -> Record:
    return dataclasses.replace(record, known=record.known.ending(at))


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    ref: Ref
    version: int
    vector: bytes


class _Group:
    """The vectors of one realm and model; a row that was emptied is None."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dimension = 0
        self.rows: list[_Row | None] = []
        self.holes: list[int] = []
        self.tokens: dict[tuple[Ref, int], bytes] = {}
        self._embedded: set[tuple[Ref, int]] = set()

    @property
    def count(self) -> int:
        return len(self.rows) - len(self.holes)

    def copy(self) -> _Group:
        made = copy.copy(self)
        made.rows, made.holes, made.tokens = list(self.rows), list(self.holes), dict(self.tokens)
        made._embedded = set(self._embedded)
        return made

    def add(self, embedding: Embedding) -> None:
        name = embedding.ref, embedding.version
        self.dimension = embedding.vectors.shape[1]
        if name not in self._embedded:
            self._embedded.add(name)
            self.tokens[name] = embedding.tokens
            self.rows += [_Row(*name, vector.tobytes()) for vector in embedding.vectors.astype("<f2")]

    def empty(self, ref: Ref) -> None:
        self._empty({name for name in self._embedded if name[0] == ref})

    def drop(self, limit: int) -> int:
        """Empty so many slots, and what is of the same version as the last of them; return how many."""
        named = [(row.ref, row.version) for _, row in self.from_slot(0)]
        return self._empty(set(named[: max(limit, 0)]))

    def _empty(self, names: set[tuple[Ref, int]]) -> int:
        self._embedded -= names
        self.tokens = {name: tokens for name, tokens in self.tokens.items() if name not in names}
        emptied = [slot for slot, row in self.from_slot(0) if (row.ref, row.version) in names]
        for slot in emptied:
            self.rows[slot] = None
        self.holes += emptied
        return len(emptied)

    def from_slot(self, start: int) -> Iterator[tuple[int, _Row]]:
        return ((slot, row) for slot, row in enumerate(self.rows[start:], start) if row)


def _bm25(asked: set[str], texts: Sequence[Counter[str]]) -> list[float]:
    """Return a score for each text, 0 where it shares no term; the plus one keeps common terms above 0 (as Lucene)."""
    lengths = [text.total() for text in texts]
    mean = sum(lengths) / len(texts) if texts else 0
    scores: defaultdict[int, float] = defaultdict(float)
    for term in sorted(asked):
        bearing = [place for place, text in enumerate(texts) if term in text]
        rarity = math.log(1 + (len(texts) - len(bearing) + 0.5) / (len(bearing) + 0.5))
        for place in bearing:
            often = texts[place][term]
            scores[place] += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * lengths[place] / mean))
    return [scores[place] for place in range(len(texts))]


def _believed(record: Record) -> datetime:
    assert record.known.since is not None, "a store keeps no version without the time it was written"
    return record.known.since


def _own(record: Record) -> Record:
    """Return the record with metadata of its own: what a caller does to theirs later must not reach ours."""
    return dataclasses.replace(record, metadata=copy.deepcopy(dict(record.metadata))) if record.metadata else record


def _own_change(change: Change) -> Change:
    return dataclasses.replace(change, note=copy.deepcopy(change.note)) if change.note else change


open = MemoryStore
