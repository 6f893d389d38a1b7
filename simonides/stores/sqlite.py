"""The embedded default: one file, no server; full-text search and vectors are in the same transaction as the records.

`sqlite:///me.db` is a path relative to the working directory, `sqlite:////data/me.db` an absolute one,
`sqlite:///:memory:` keeps nothing. `?durability=normal` lets a power cut take the last commits (never damage the file);
the default, `full`, flushes the disk before a write is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

import apsw
import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import words as language
from ..errors import Conflict, Damaged, Invalid
from ..growth import Growth
from ..query import Query
from ..record import Record, Ref, Scope, Span, now
from ..sqlite_file import BUSY_MS, alone, check_known, is_anothers, translated, version, write_ahead
from ..sqlite_file import first as _first
from ..sqlite_file import one as _one
from ..sqlite_file import rows_of as _all
from ..store import Batch, Change, Cursor, Embedding, Extent, Health, Letter, Lines, Store, check_log
from . import bm25, rows, sqlite_rows
from .bm25 import Postings, best
from .sqlite_bytes import scrub
from .sqlite_letters import letters, put_aside
from .sqlite_migrations import SCHEMA, migrate
from .sqlite_upkeep import check, counts, make_words, rebuild
from .sqlite_vectors import drop
from .sqlite_versions import Version, delete, insert, prefixed, put, restore, runs
from .sqlite_watch import Watch
from .sqlite_words import INSTANCES, Sample, labelled, owned, said, said_lately, sizes
from .sqlite_writer import Refusing, Writer

APPLICATION = 0x53494D4F  # PRAGMA application_id: "SIMO"
HEADER = 100  # bytes that every SQLite file begins with
OURS = ("database", "restore a backup or an export; as long as it opens, `simonides doctor` says more")  # in errors
READERS = 3
LEADING, LEADING_MIN = 5, 500  # rows for each hit wanted, and at least, that are ranked by their length, too
FEW = 1_000  # rows up to which it is quicker to sort all that bear a label, or are in a folder
NARROW = 20_000  # rows up to which all of a label, a user or a session are read, before going by words or in order
FREQUENCIES_KEPT = 50_000
HEADS_KEPT = 10_000  # realms whose last line of the log is at hand
SAMPLED = 50_000  # versions of a realm from which its common words are counted in a sample
MANY = 1_000  # versions that one statement takes
LATEST = 2**62  # later than every time
WAL_PAGES = 4_000  # between checkpoints: 16 MB of log
LINES = "SELECT c.seq, c.at, c.id, c.version, c.kind, c.note, m.tenant, m.space, c.user, c.agent, c.session"
MAPPED = 1 << 28  # bytes of the file that each connection maps, from its beginning; the rest of a large one is read.
# A mapped page costs nothing to look at again, but three to five times as much as one that is read at the first time.
KEPT = 8192  # KB of pages that a reader keeps; the writer, which holds what it has not written yet, four times as many
EXTENTS = 1_000  # extents that are remembered

T = TypeVar("T")
Write = Callable[[apsw.Connection, int, Version, datetime], list[Change]]


class SqliteStore:
    def __init__(self, url: str = "sqlite:///:memory:") -> None:
        path, durability = _parsed(url)
        self._path = path
        self._synchronous = durability
        self.folder = None if path is None else f"{path}-files"
        connection = self._connect()
        try:
            self.identity = _prepare(connection, path)
            if path is None:
                connection.execute(INSTANCES)  # it is read from, too
        except BaseException as error:  # whatever it is, the connection must not stay open
            connection.close()
            raise translated(error, path, *OURS) from error
        self._realms: dict[tuple[str, str], int] = {}  # only ever grows; what was rolled back is taken out
        self._fresh: dict[tuple[str, str], int] = {}
        self._frequencies: dict[str, tuple[int, int]] = {}
        self._samples: dict[int, tuple[Sample, int]] = {}
        self._sizes: dict[int, tuple[int | None, int]] = {}  # what the watch saw, the versions of a realm then
        self._extents: dict[tuple[tuple[str, str], str], tuple[int | None, Extent]] = {}  # with what the watch saw
        self._writer = Writer(connection, lambda error: translated(error, path, *OURS), self._fresh.clear)
        self._watch = Watch(None if path is None else self._connect)
        self._heads: dict[tuple[str, str] | None, tuple[int | None, int]] = {}  # what the watch saw, the last line then
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="simonides-reader")
        self._mine = threading.local()
        self._open: list[apsw.Connection] = []
        self._asked = 0  # reads under way, or waiting for a reader
        self._growth = Growth()
        self._frozen = False  # a snapshot: its one reader stays in one transaction

    # -- writing -------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch, *, cursor: Cursor | None = None) -> Lines:
        lines: Lines = await self._writer.together(lambda db: self._commit(db, batch, cursor))
        if lines:
            self._growth.stir()
        return lines

    def _commit(self, db: apsw.Connection, batch: Batch, cursor: Cursor | None) -> Lines:
        at = now()
        known = Span(since=at)
        if cursor:
            _move(db, cursor)
        if batch.log:
            check_log(batch, _head(db))
        changes = self._write(db, [(record, known) for record in batch.put], at, put)
        restored, logged = [(record, rows.known(record, at)) for record in batch.restore], not batch.log
        changes += self._write(db, restored, at, partial(restore, logged=logged), logged)
        changes += [change for ref in batch.erase if (change := self._erase(db, ref, at, logged))]
        changes += self._copy_log(db, batch.log)
        for embedding in batch.embeddings:
            self._embed(db, embedding)
        if certificate := batch.certificate:
            line = Change(0, at, certificate.id, 0, "certificate", certificate.scope, msgspec.to_builtins(certificate))
            changes.append(self._log(db, line))
            self._certified(db, certificate.scope, certificate.ids)
        if batch.answered or batch.letters:
            put_aside(db, batch.answered, batch.letters)
        return Lines(changes, _went_on(db, batch.followed, changes))

    def _certified(self, db: apsw.Connection, scope: Scope, ids: Sequence[str]) -> None:
        realm = self._realm(db, scope.realm)
        db.executemany("DELETE FROM erasing WHERE realm = ? AND id = ?", [(realm, id) for id in ids])

    def _write(
        self, db: apsw.Connection, versions: Sequence[Version], at: datetime, one: Write, logged: bool = True
    ) -> list[Change]:
        """Write the versions in their order: those that are plainly new many at a time, every other one by `one`."""
        changes = list[Change]()
        for walls, group in groupby(versions, lambda version: version[0].scope.realm):
            realm = self._realm(db, walls)
            while some := list(islice(group, MANY)):
                for plain, run in runs(db, realm, some):
                    if plain:
                        changes += insert(db, realm, run, at, logged)
                    else:
                        for version in run:
                            changes += one(db, realm, version, at)
        return changes

    def _erase(self, db: apsw.Connection, ref: Ref, at: datetime, logged: bool) -> Change | None:
        scope = Scope(tenant=ref.tenant, space=ref.space)
        realm = _one(db, "SELECT realm FROM realms WHERE tenant = ? AND space = ?", scope.realm)
        sql = f"SELECT r.row, {rows.SELECT} FROM records r WHERE r.realm = ? AND r.id = ? ORDER BY r.version"
        found = [(row[0], rows.as_record(row[1:], scope)) for row in _all(db, sql, (realm, ref.id))]
        for row, record in found:
            delete(db, realm, row, record)
        if not found:
            return None
        db.execute("UPDATE realms SET versions = versions - ? WHERE realm = ?", (len(found), realm))
        db.execute("INSERT OR IGNORE INTO erasing VALUES (?, ?)", (realm, ref.id))
        db.execute("DELETE FROM letters WHERE realm = ? AND id = ?", (realm, ref.id))
        if not logged:
            return None
        last = found[-1][1]
        return self._log(db, Change(0, at, ref.id, 0, last.kind, last.scope))

    def _embed(self, db: apsw.Connection, embedding: Embedding) -> None:
        realm = self._realm(db, (embedding.ref.tenant, embedding.ref.space))
        row = _one(
            db,
            "SELECT row FROM records WHERE realm = ? AND id = ? AND version = ?",
            (realm, embedding.ref.id, embedding.version),
        )
        if row is None:
            return
        dimension = embedding.vectors.shape[1]
        group, slots = _group(db, realm, embedding.model, dimension)
        there = "SELECT 1 FROM vectors WHERE row = ? AND vector >= ? AND vector < ? LIMIT 1"
        if _one(db, there, (row, group << 32, group + 1 << 32)):
            return
        halves = embedding.vectors.astype("<f2")
        for place, half in enumerate(halves):
            db.execute("INSERT INTO vectors VALUES (?, ?, ?)", ((group << 32) + slots + place, row, half.tobytes()))
        db.execute("UPDATE groups SET slots = slots + ? WHERE grp = ?", (len(halves), group))
        if embedding.tokens:
            db.execute("INSERT INTO tokens VALUES (?, ?)", ((group << 40) + row, embedding.tokens))

    def _copy_log(self, db: apsw.Connection, lines: Sequence[Change]) -> list[Change]:
        """Write lines of another store's log as they are."""
        for line in lines:
            self._log(db, line)
            if line.kind == "certificate":
                self._certified(db, line.scope, (line.note or {})["ids"])
            elif not line.version:
                values = (self._realm(db, line.scope.realm), line.id)
                db.execute("INSERT OR IGNORE INTO erasing VALUES (?, ?)", values)
        return list(lines)

    def _log(self, db: apsw.Connection, change: Change) -> Change:
        scope, note = change.scope, change.note
        realm = self._realm(db, scope.realm)
        db.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(change.seq or None, rows.stamp(change.at), realm, change.id, change.version, change.kind),
                *(scope.user or "", scope.agent or "", scope.session or ""),
                msgspec.json.encode(note).decode() if note is not None else None,
            ),
        )
        seq = db.last_insert_rowid()
        db.execute("UPDATE realms SET head = ? WHERE realm = ?", (seq, realm))
        return dataclasses.replace(change, seq=seq)

    def _realm(self, db: apsw.Connection, realm: tuple[str, str]) -> int:
        """Return the number of the realm, which is made when it is new."""
        known = self._realms.get(realm) or self._fresh.get(realm)
        if known:
            return known
        found = _one(db, "SELECT realm FROM realms WHERE tenant = ? AND space = ?", realm)
        if found is None:
            db.execute("INSERT INTO realms (tenant, space) VALUES (?, ?)", realm)
            found = db.last_insert_rowid()
        self._fresh[realm] = found  # forgotten again if this is rolled back
        return int(found)

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, query: Query) -> list[Record]:
        return await self._read(lambda db: self._find(db, query))

    def _find(self, db: apsw.Connection, query: Query) -> list[Record]:
        realm = self._known_realm(db, query.scope)
        if realm is None:
            return []
        order = "r.at DESC, r.id DESC, r.version DESC" if query.newest else "r.id, r.version"
        before, sort, ways = _directed(db, query, realm)
        parts, values = list[str](), list[Any]()
        for way in ways:
            where, mine = sqlite_rows.where(query, realm, by=way)
            page, more = rows.page(query, query.after) if query.after is not None else ("true", [])
            parts.append(f"SELECT {rows.SELECT} FROM records r WHERE {before}{where} AND {page}")
            values += [*mine, *more]
        sql = f"{' UNION ALL '.join(parts)} ORDER BY {sort}{order} LIMIT ?"  # each is in this order: they are merged
        return [rows.as_record(row, query.scope) for row in _all(db, sql, (*values, query.limit))]

    async def count(self, query: Query) -> int:
        return await self._read(lambda db: self._count(db, query))

    def _count(self, db: apsw.Connection, query: Query) -> int:
        realm = self._known_realm(db, query.scope)
        if realm is None:
            return 0
        where, values = sqlite_rows.where(query, realm, by=rows.unless_narrower(query))
        return int(_one(db, f"SELECT count(*) FROM records r WHERE {where}", values))

    async def around(self, query: Query, records: Sequence[Record]) -> list[tuple[Record | None, Record | None]]:
        return await self._read(lambda db: self._around(db, query, records))

    def _around(
        self, db: apsw.Connection, query: Query, records: Sequence[Record]
    ) -> list[tuple[Record | None, Record | None]]:
        realm = self._known_realm(db, query.scope)
        if realm is None:
            return [(None, None)] * len(records)
        where, values = sqlite_rows.where(dataclasses.replace(query, ids=None), realm)
        sql = f"SELECT {rows.SELECT} FROM records r WHERE {where} AND r.part_of = ?"
        ways = [
            f"{sql} AND (r.at, r.id) {way} (?, ?) ORDER BY r.at {order}, r.id {order}, r.version DESC LIMIT 1"
            for way, order in (("<", "DESC"), (">", "ASC"))
        ]

        def beside(way: str, record: Record) -> Record | None:
            place = (*values, record.part_of, rows.stamp(record.at), record.id)
            found = _all(db, way, place) if record.part_of is not None else []
            return rows.as_record(found[0], query.scope) if found else None

        before, after = ways
        return [(beside(before, record), beside(after, record)) for record in records]

    async def words(self, query: Query, text: str) -> list[tuple[Record, float]]:
        return await self._read(lambda db: self._words(db, query, text))

    def _words(self, db: apsw.Connection, query: Query, text: str) -> list[tuple[Record, float]]:
        realm = self._known_realm(db, query.scope)
        terms = [] if realm is None else self._affordable(db, realm, language.asked(text))
        if realm is None or not terms or query.limit < 1:
            return []
        few = {label: labelled(db, realm, label, NARROW) for label in sorted(query.labels or ())}
        rest = dataclasses.replace(query, labels=frozenset(label for label, them in few.items() if them is None))
        best: dict[int, float] = {}
        for postings in self._postings(db, realm, terms):
            for them in few.values():
                postings = postings if them is None else postings.among(them)
            best |= self._best(db, rest, realm, postings, query.limit - len(best))
            if len(best) >= query.limit:
                break
        sql = f"SELECT r.row, {rows.SELECT} FROM json_each(?) j CROSS JOIN records r ON r.row = j.value"
        found = {row[0]: rows.as_record(row[1:], query.scope) for row in _all(db, sql, (_listed(best),))}
        return [(found[row], score) for row, score in best.items()]

    def _postings(self, db: apsw.Connection, realm: int, terms: Sequence[str]) -> Iterator[Postings]:
        """Yield where the terms are said: at once, or bit by bit, the newest first, where one alone is in very many."""
        versions, names = self._versions(db, realm), [prefixed(realm, term) for term in terms]
        if len(names) == 1 and self._frequency(db, realm, terms[0], versions) > bm25.DF_BUDGET:
            before = LATEST
            while len(lately := said_lately(db, names[0], before, bm25.DF_BUDGET)):
                yield Postings.of([lately], versions)
                before = int(lately.min())
        else:
            yield Postings.of([said(db, name) for name in names], versions)

    def _best(self, db: apsw.Connection, query: Query, realm: int, postings: Postings, limit: int) -> dict[int, float]:
        """Return the best matching rows with their scores, best first: of those that lead, as many as must be read."""
        where, values = sqlite_rows.where(query, realm, of_given=True)
        order, start, first = postings.leading(), 0, max(LEADING_MIN, LEADING * limit)
        found, long, mine, size = np.zeros(0, np.int64), np.zeros(0, np.int64), None, first
        while start < len(order) and len(found) < limit:
            leading = postings.rows[np.sort(order[start : start + size])]
            if start == first:  # few of them match: it is quicker to know whose they are than to ask of each
                mine = next((owned(db, realm, *one, NARROW) for one in rows.levels(query)[:1]), None)
            if mine is not None:
                leading = leading[np.isin(leading, mine)]
            more = sizes(db, leading, where, values)
            found, long = np.concatenate((found, more[0])), np.concatenate((long, more[1]))
            start, size = start + size, size * 8
        return best(postings, found, long, limit)

    def _affordable(self, db: apsw.Connection, realm: int, terms: Sequence[str]) -> list[str]:
        """Return the terms worth reading; where there is little to read, all, without counting them."""
        versions = self._versions(db, realm)
        if versions <= bm25.DF_ROWS:
            return list(terms)
        return bm25.affordable(((self._frequency(db, realm, term, versions), term) for term in terms), versions)

    def _versions(self, db: apsw.Connection, realm: int) -> int:
        return int(_one(db, "SELECT versions FROM realms WHERE realm = ?", (realm,)) or 0)

    def _frequency(self, db: apsw.Connection, realm: int, term: str, versions: int) -> int:
        """Return in about how many versions the term is; a count is trusted until the realm has grown by a quarter."""
        name = prefixed(realm, term)
        counted = self._known_frequency(name, versions)
        if counted is None:
            counted = self._counted(db, realm, name, versions)
            if len(self._frequencies) >= FREQUENCIES_KEPT:
                self._frequencies.clear()
            self._frequencies[name] = (counted, versions)
        return counted

    def _known_frequency(self, name: str, versions: int) -> int | None:
        counted, then = self._frequencies.get(name, (0, 0))
        return counted if then and then * 0.8 <= versions <= then * 1.25 else None

    def _counted(self, db: apsw.Connection, realm: int, name: str, versions: int) -> int:
        if versions >= SAMPLED:
            sample, then = self._samples.get(realm, (None, 0))
            if sample is None or not then * 0.8 <= versions <= then * 1.25:
                sample = Sample.of(db, realm)
                self._samples[realm] = sample, versions
            if (share := sample.share(db, name)) is not None:
                return round(share * versions)
        return int(_one(db, "SELECT doc FROM vocabulary WHERE term = ?", (name,)) or 0)

    async def spread(self, scope: Scope, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Ask the watch, as `head` does; only where it saw a commit, or a term is new, read."""
        seen, realm = self._watch.seen(), self._realms.get(scope.realm, 0)
        then, versions = self._sizes.get(realm, (None, 0))
        if seen is not None and seen == then:
            known = {term: self._known_frequency(prefixed(realm, term), versions) for term in terms}
            counted = {term: count for term, count in known.items() if count is not None}
            if len(counted) == len(known):
                return versions, counted
        return await self._read(lambda db: self._spread(db, scope, terms))

    def _spread(self, db: apsw.Connection, scope: Scope, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        seen, realm = self._watch.look(), self._known_realm(db, scope)
        if realm is None:
            return 0, dict.fromkeys(terms, 0)
        versions = self._versions(db, realm)
        if len(self._sizes) >= HEADS_KEPT:
            self._sizes.clear()
        self._sizes[realm] = seen, versions
        return versions, {term: self._frequency(db, realm, term, versions) for term in terms}

    async def changes(self, *, after: int = 0, limit: int = 100, erases: bool = False) -> list[Change]:
        which = " AND c.version = 0" if erases else ""
        sql = f"{LINES} FROM changes c JOIN realms m ON m.realm = c.realm WHERE c.seq > ?{which} ORDER BY c.seq LIMIT ?"
        return await self._read(lambda db: [rows.as_change(row) for row in _all(db, sql, (after, limit))])

    async def head(self, scope: Scope | None = None) -> int:
        """Ask the watch, in this thread and without touching the disk; only where it saw a commit, read the log."""
        seen, realm = self._watch.seen(), scope.realm if scope else None
        known = self._heads.get(realm)
        if seen is None or known is None or seen != known[0]:
            known = await self._read(lambda db: self._read_head(db, realm))
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            self._heads[realm] = known
        return known[1]

    def _read_head(self, db: apsw.Connection, realm: tuple[str, str] | None) -> tuple[int | None, int]:
        seen = self._watch.look()  # before it reads: a commit in between is seen the next time
        if realm is None:
            return seen, _head(db)
        return seen, int(_one(db, "SELECT head FROM realms WHERE tenant = ? AND space = ?", realm) or 0)

    async def grown(self, after: int, wait_s: float) -> int:
        return await self._growth.beyond(self.head, after, wait_s)

    async def cursor(self, name: str) -> int:
        return await self._read(lambda db: _place(db, name))

    async def cursors(self, prefix: str) -> dict[str, int]:
        sql = "SELECT name, seq FROM cursors WHERE name >= ? AND substr(name, 1, length(?)) = ? AND seq <> 0"
        return await self._read(lambda db: dict(_all(db, sql, (prefix, prefix, prefix))))

    async def letters(self, follower: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        def read(db: apsw.Connection) -> list[Letter]:
            found = letters(db, follower, after, limit)
            lines = self._lines(db, [seq for seq, *_ in found])
            return [Letter(name, lines[seq], tries, rows.moment(at), error) for seq, name, tries, at, error in found]

        return await self._read(read)

    def _lines(self, db: apsw.Connection, seqs: Sequence[int]) -> dict[int, Change]:
        sql = f"{LINES} FROM json_each(?) j CROSS JOIN changes c ON c.seq = j.value JOIN realms m ON m.realm = c.realm"
        return {row[0]: rows.as_change(row) for row in _all(db, sql, (_listed(set(seqs)),))}

    # -- vectors -------------------------------------------------------------------------------------------------

    async def extent(self, scope: Scope, model: str) -> Extent:
        """Ask the watch, as `head` does; only where it saw a commit, read."""
        name, seen = (scope.realm, model), self._watch.seen()
        kept = self._extents.get(name)
        if seen is None or kept is None or kept[0] != seen:
            kept = await self._read(lambda db: (self._watch.look(), self._extent(db, scope, model)))
            if len(self._extents) >= EXTENTS:
                self._extents.clear()
            self._extents[name] = kept
        return kept[1]

    def _extent(self, db: apsw.Connection, scope: Scope, model: str) -> Extent:
        sql = "SELECT grp, slots, holes FROM groups WHERE realm = ? AND model = ?"
        found = _first(db, sql, (self._known_realm(db, scope), model))
        return Extent(*found) if found else Extent(0, 0, 0)

    async def vectors(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, bytes]]:
        def read(db: apsw.Connection) -> list[tuple[int, bytes]]:
            group = self._extent(db, scope, model).group
            sql = "SELECT vector - ?, value FROM vectors WHERE vector >= ? AND vector < ? ORDER BY vector LIMIT ?"
            return _all(db, sql, (group << 32, (group << 32) + start, group + 1 << 32, limit))

        return await self._read(read)

    async def embedded(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, Embedding]]:
        def read(db: apsw.Connection) -> list[tuple[int, Embedding]]:
            base, tenant, space = self._extent(db, scope, model).group << 32, *scope.realm
            sql = (
                "SELECT v.vector - ?, v.value, v.row, r.id, r.version FROM vectors v CROSS JOIN records r"
                " ON r.row = v.row WHERE v.vector >= ? AND v.vector < ? ORDER BY v.vector"
            )
            found = list[tuple[int, Embedding]]()
            rows_of = groupby(db.execute(sql, (base, base + start, base + (1 << 32))), lambda row: row[2:])
            for (row, *name), some in islice(rows_of, limit):
                slots, values = zip(*((slot, value) for slot, value, *_ in some), strict=True)
                vectors = np.stack([np.frombuffer(value, "<f2") for value in values]).astype(np.float32)
                tokens = _one(db, "SELECT value FROM tokens WHERE row = ?", ((base << 8) + row,)) or b""
                found.append((slots[0], Embedding(Ref(tenant, space, name[0]), name[1], model, vectors, tokens)))
            return found

        return await self._read(read)

    async def holes(self, scope: Scope, model: str, *, after: int) -> list[int]:
        def read(db: apsw.Connection) -> list[int]:
            sql = "SELECT slot FROM holes WHERE grp = ? AND hole >= ? ORDER BY hole"
            return [slot for (slot,) in _all(db, sql, (self._extent(db, scope, model).group, after))]

        return await self._read(read)

    async def slots(self, query: Query, model: str, *, start: int = 0, limit: int | None = None) -> NDArray[np.int64]:
        def read(db: apsw.Connection) -> NDArray[np.int64]:
            realm, group = self._known_realm(db, query.scope), self._extent(db, query.scope, model).group
            if realm is None or not group:
                return np.zeros(0, np.int64)
            where, values = sqlite_rows.where(query, realm, by=rows.unless_narrower(query))
            if query.labels or query.linked:
                where = f"+{where}"  # by those who bear it; see `_directed`
            sql = (
                f"SELECT v.vector - ? FROM records r CROSS JOIN vectors v ON v.row = r.row WHERE {where}"
                " AND v.vector >= ? AND v.vector < ? ORDER BY v.vector LIMIT ?"
            )
            bounds = ((group << 32) + start, group + 1 << 32, -1 if limit is None else limit)
            found = db.execute(sql, (group << 32, *values, *bounds))
            return np.fromiter((row[0] for row in found), np.int64)

        return await self._read(read)

    async def owners(self, query: Query, model: str, slots: Sequence[int]) -> list[tuple[int, Record, bytes]]:
        def read(db: apsw.Connection) -> list[tuple[int, Record, bytes]]:
            realm, group = self._known_realm(db, query.scope), self._extent(db, query.scope, model).group
            if realm is None or not group:
                return []
            base = group << 32
            sql = (
                "SELECT v.vector - ?, v.row, v.value FROM json_each(?) j CROSS JOIN vectors v ON v.vector = ? + j.value"
            )
            placed = _all(db, sql, (base, _listed(int(slot) for slot in slots), base))
            where, values = sqlite_rows.where(query, realm, of_given=True)
            sql = (
                f"SELECT r.row, {rows.SELECT} FROM json_each(?) j CROSS JOIN records r ON r.row = j.value WHERE {where}"
            )
            found = _all(db, sql, (_listed({row for _, row, _ in placed}), *values))  # each once: it may be long
            owner = {row: rows.as_record(tuple(rest), query.scope) for row, *rest in found}
            return [(slot, owner[row], half) for slot, row, half in placed if row in owner]

        return await self._read(read)

    async def tokens(self, scope: Scope, model: str, which: Sequence[tuple[str, int]]) -> list[bytes]:
        def read(db: apsw.Connection) -> list[bytes]:
            realm, group = self._known_realm(db, scope), self._extent(db, scope, model).group
            sql = (
                "SELECT t.value FROM records r CROSS JOIN tokens t ON t.row = ? + r.row"
                " WHERE r.realm = ? AND r.id = ? AND r.version = ?"
            )
            found = (_all(db, sql, (group << 40, realm, id, version)) for id, version in which)
            return [row[0][0] if row else b"" for row in found]

        return await self._read(read)

    async def recalled(self, last: Mapping[Ref, datetime]) -> None:
        sql = (
            "INSERT INTO recalls SELECT r.row, ? FROM realms m CROSS JOIN records r ON r.realm = m.realm"
            " WHERE m.tenant = ? AND m.space = ? AND r.id = ? AND r.version = 1"
            " ON CONFLICT (row) DO UPDATE SET at = max(at, excluded.at)"
        )
        values = [(rows.stamp(at), ref.tenant, ref.space, ref.id) for ref, at in last.items()]
        await self._writer.together(lambda db: db.executemany(sql, values))

    async def recalls(self, scope: Scope, ids: Sequence[str]) -> dict[str, datetime]:
        def read(db: apsw.Connection) -> dict[str, datetime]:
            sql = (
                "SELECT r.id, c.at FROM json_each(?) j CROSS JOIN records r CROSS JOIN recalls c ON c.row = r.row"
                " WHERE r.realm = ? AND r.id = j.value AND r.version = 1"
            )
            asked = msgspec.json.encode(list(ids)).decode()
            return {id: rows.moment(at) for id, at in _all(db, sql, (asked, self._known_realm(db, scope)))}

        return await self._read(read)

    async def last_recalls(self, scope: Scope, *, after: str = "", limit: int = 1000) -> list[tuple[str, datetime]]:
        def read(db: apsw.Connection) -> list[tuple[str, datetime]]:
            sql = (
                "SELECT r.id, c.at FROM records r CROSS JOIN recalls c ON c.row = r.row"
                " WHERE r.realm = ? AND r.id > ? AND r.version = 1 ORDER BY r.id LIMIT ?"
            )
            return [(id, rows.moment(at)) for id, at in _all(db, sql, (self._known_realm(db, scope), after, limit))]

        return await self._read(read)

    async def models(self, scope: Scope | None = None) -> dict[str, int]:
        def read(db: apsw.Connection) -> dict[str, int]:
            sql = (
                "SELECT g.model, sum(g.slots - g.holes) FROM groups g"
                " JOIN realms m ON m.realm = g.realm WHERE ? IS NULL OR (m.tenant = ? AND m.space = ?) GROUP BY g.model"
            )
            tenant, space = scope.realm if scope else (None, None)
            return {model: count for model, count in _all(db, sql, (tenant, tenant, space)) if count}

        return await self._read(read)

    async def drop_model(self, model: str, *, limit: int | None = None) -> int:
        return int(await self._writer.together(lambda db: drop(db, model, limit)))

    async def realms(self) -> list[Scope]:
        sql = "SELECT tenant, space FROM realms ORDER BY tenant, space"
        return await self._read(lambda db: [Scope(tenant=tenant, space=space) for tenant, space in _all(db, sql)])

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def scrub(self, erased: Sequence[str] = ()) -> Mapping[str, Any]:
        result: Mapping[str, Any] = await self._writer.alone(lambda db: scrub(db, self._path, erased))
        return result

    async def unfinished(self) -> list[Ref]:
        sql = "SELECT m.tenant, m.space, e.id FROM erasing e JOIN realms m ON m.realm = e.realm ORDER BY 1, 2, 3"
        return await self._read(lambda db: [Ref(*row) for row in _all(db, sql)])

    async def rebuild(self) -> None:
        await self._writer.together(rebuild)
        self._frequencies.clear()

    async def counts(self) -> dict[str, int]:
        return await self._read(counts)

    async def check(self) -> Health:
        try:
            if self._path is None:
                return await self._read(check)
            return await asyncio.to_thread(self._checked)
        except Damaged as error:
            return Health((str(error),), {})

    def _checked(self) -> Health:
        """Look with a connection of its own: one that has read before may still hold what a rebuild replaced."""
        connection = self._connect()
        try:
            return check(connection)
        except apsw.Error as error:
            raise translated(error, self._path, *OURS) from error
        finally:
            connection.close()

    async def close(self) -> None:
        self._growth.close()
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._watch.close()
        for connection in self._open:
            connection.close()
        self._open.clear()

    # -- inside --------------------------------------------------------------------------------------------------

    def _connect(self) -> apsw.Connection:
        try:
            if self._path is None:
                connection = apsw.Connection(":memory:")
            else:
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
                _make_own(self._path)
                connection = apsw.Connection(self._path)
            connection.set_busy_timeout(BUSY_MS)
            connection.create_scalar_function("holds", sqlite_rows.holds, 2, deterministic=True)  # type: ignore[arg-type]
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA mmap_size = {MAPPED}")
            connection.execute(f"PRAGMA cache_size = -{4 * KEPT}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        except (apsw.Error, OSError) as error:
            raise translated(error, self._path, *OURS) from error
        return connection

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Store]:
        """Readers that the write-ahead log is not cut short for: it grows until the snapshot is left."""
        frozen = copy.copy(self)
        frozen._realms, frozen._fresh, frozen._frequencies, frozen._samples = {}, {}, {}, {}
        frozen._writer, frozen._watch, frozen._frozen = Refusing(), Watch(None), True
        frozen._heads, frozen._extents, frozen._sizes = {}, {}, {}
        frozen._readers = ThreadPoolExecutor(1, thread_name_prefix="simonides-snapshot")
        frozen._mine, frozen._open = threading.local(), []
        try:
            if self._path is None:
                copied = await self._writer.alone(lambda db: _copied(db, self._connect()))
                frozen._connect = lambda: copied  # type: ignore[method-assign]
            await frozen._read(_head)
            yield frozen
        finally:
            await asyncio.to_thread(frozen._readers.shutdown)
            for connection in frozen._open:
                connection.close()

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run the work in a reader's thread; a store in memory has one connection, which is the writer's."""
        if self._path is None and not self._frozen:
            found: T = await self._writer.alone(work)
            return found
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._reading, work)
        except RuntimeError:
            raise Invalid("this memory is closed") from None
        self._asked += 1
        try:
            return await reading
        finally:
            self._asked -= 1

    @property
    def connections(self) -> tuple[int, int]:
        active = min(self._asked, len(self._open))
        return active, len(self._open) - active

    def _reading(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            if not hasattr(self._mine, "connection"):
                self._mine.connection = self._connect()
                self._mine.connection.execute(INSTANCES)
                self._mine.connection.execute("PRAGMA query_only = ON")
                self._mine.connection.execute(f"PRAGMA cache_size = -{KEPT}")
                if self._frozen:
                    self._mine.connection.execute("BEGIN")
                self._open.append(self._mine.connection)
            connection: apsw.Connection = self._mine.connection
            with connection:  # one snapshot for all its statements
                return work(connection)
        except (apsw.Error, OSError) as error:
            raise translated(error, self._path, *OURS) from error
        raise AssertionError("the connection's `with` swallowed an error")

    def _known_realm(self, db: apsw.Connection, scope: Scope) -> int | None:
        known = self._realms.get(scope.realm)
        if known is None:
            known = _one(db, "SELECT realm FROM realms WHERE tenant = ? AND space = ?", scope.realm)
            if known is not None:
                self._realms[scope.realm] = known
        return known


# -- opening ---------------------------------------------------------------------------------------------------------


def _parsed(url: str) -> tuple[str | None, str]:
    path, _, options = url.removeprefix("sqlite:").partition("?")
    if not path.startswith("///"):
        raise Invalid(f"{url!r}: write sqlite:///me.db for a relative path, sqlite:////data/me.db for an absolute one")
    given = parse_qs(options, keep_blank_values=True)
    durability = given.pop("durability", ["full"])[0]
    if given or durability not in ("full", "normal"):
        raise Invalid(f"{url!r}: the one option is durability=full or durability=normal")
    path = path[3:]
    if not path:
        raise Invalid(f"{url!r} names no file")
    return (None if path == ":memory:" else str(Path(path).expanduser().absolute())), durability


def _prepare(db: apsw.Connection, path: str | None) -> str:
    """Make or migrate the schema, and return the store's identity."""
    db.execute("PRAGMA secure_delete = ON")
    _check_ours(db, path)
    if path is not None:
        write_ahead(db, path)
    if version(db) == 0:
        with alone(db):
            _create(db)
    migrate(db, path)
    if _one(db, "SELECT value FROM meta WHERE name = 'words'") != str(language.VERSION):
        with alone(db):
            make_words(db)
    return str(_one(db, "SELECT value FROM meta WHERE name = 'identity'"))


def _check_ours(db: apsw.Connection, path: str | None) -> None:
    if path is not None and 0 < os.path.getsize(path) < HEADER:
        raise Damaged(f"{path} is too short to be a database: name another file, or remove it")
    if is_anothers(db, APPLICATION):
        raise Invalid(f"{path} is a database of another program; name another file")
    check_known(db, path, SCHEMA)


def _create(db: apsw.Connection) -> None:
    if version(db):
        return  # another process was first
    db.execute(resources.files(__package__).joinpath("sqlite_schema.sql").read_text("utf-8"))
    db.execute("INSERT INTO meta VALUES ('identity', ?), ('words', ?)", (str(uuid.uuid4()), str(language.VERSION)))
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


# -- small steps -----------------------------------------------------------------------------------------------------


def _head(db: apsw.Connection) -> int:
    return int(_one(db, "SELECT max(seq) FROM changes") or 0)


def _copied(db: apsw.Connection, other: apsw.Connection) -> apsw.Connection:
    """Copy a database in memory into an empty one, and return that."""
    with other.backup("main", db, "main") as copying:
        while not copying.done:
            copying.step()
    return other


def _listed(numbers: Iterable[int]) -> str:
    return msgspec.json.encode(list(numbers)).decode()


def _move(db: apsw.Connection, cursor: Cursor) -> None:
    if _place(db, cursor.name) != cursor.was:
        raise Conflict(f"the follower {cursor.name} is no longer at {cursor.was}")
    if cursor.now:
        db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (cursor.name, cursor.now))
    else:
        db.execute("DELETE FROM cursors WHERE name = ?", (cursor.name,))


def _went_on(db: apsw.Connection, names: Sequence[str], lines: Sequence[Change]) -> list[str]:
    """Take the followers on that stand just before these lines; return their names."""
    there = [name for name in names if lines and _place(db, name) == lines[0].seq - 1 > 0]
    db.executemany("UPDATE cursors SET seq = ? WHERE name = ?", [(lines[-1].seq, name) for name in there])
    return there


def _place(db: apsw.Connection, name: str) -> int:
    return int(_one(db, "SELECT seq FROM cursors WHERE name = ?", (name,)) or 0)


def _group(db: apsw.Connection, realm: int, model: str, dimension: int) -> tuple[int, int]:
    sql = "SELECT grp, slots, dimension FROM groups WHERE realm = ? AND model = ?"
    found = _first(db, sql, (realm, model))
    if found is None:
        db.execute("INSERT INTO groups (realm, model, dimension) VALUES (?, ?, ?)", (realm, model, dimension))
        return db.last_insert_rowid(), 0
    if found[2] != dimension:
        raise Invalid(f"{model} has {found[2]} dimensions here, not {dimension}: give another model another name")
    return found[0], found[1]


def _directed(db: apsw.Connection, query: Query, realm: int) -> tuple[str, str, Sequence[rows.By]]:
    """Tell SQLite to go by what the query names where few records have it, and to sort those; left alone, it goes
    through the whole realm in the order asked for. A + before a column keeps it from using an index for it.

    Return what stands before the condition, what before the order, and the parts to find and merge.
    """
    if any(named is not None for named in (query.ids, query.keys, query.part_of)):
        return "", "+", [{}]
    sql = "SELECT count(*) FROM (SELECT 1 FROM labels WHERE realm = ? AND label = ? LIMIT ?)"
    few = (_one(db, sql, (realm, label, FEW + 1)) <= FEW for label in query.labels or ())
    if query.linked is not None or any(few):
        return "+", "+", [{}]
    sql = "SELECT count(*) FROM (SELECT 1 FROM records WHERE realm = ? AND folder >= ? AND folder < ? LIMIT ?)"
    if query.folder is not None and _one(db, sql, (realm, query.folder, f"{query.folder}0", FEW + 1)) <= FEW:
        return "", "+", [{}]
    if query.newest:
        return "", "", _by_time(db, query, realm)
    for level, names in rows.levels(query):
        if _few(db, realm, level, names, NARROW):
            return "", "+", [{level: names}]
    return "", "", [{}]


def _by_time(db: apsw.Connection, query: Query, realm: int) -> list[rows.By]:
    """Return the parts, each of one user, agent or session, that the index has in the order of time."""
    owners, nothing = rows.owners(query), list[rows.By]([{}])
    level = next((level for level in ("user", "agent") if level in owners), None)
    whose: list[rows.By] = [{level: (name,)} for name in owners[level]] if level else []
    if query.kinds == rows.TALKS and not (level and _few(db, realm, level, owners[level], NARROW)):
        return nothing
    if query.pinned:
        return whose if level == "user" else nothing
    sessions = owners.get("session", ())
    if not sessions:
        return whose or nothing
    if not whose or not query.shared or _few(db, realm, "session", ("",), FEW):
        return [{"session": (session,)} for session in sessions]
    mine, nobodys = sessions
    return [{"session": (mine,)}, *({**one, "session": (nobodys,)} for one in whose)]


def _few(db: apsw.Connection, realm: int, level: str, names: Sequence[str], limit: int) -> bool:
    """Return whether so many records at most bear one of the names."""
    marks = ", ".join("?" * len(names))
    sql = f"SELECT count(*) FROM (SELECT 1 FROM records WHERE realm = ? AND {level} IN ({marks}) LIMIT ?)"
    return bool(_one(db, sql, (realm, *names, limit + 1)) <= limit)


def _make_own(path: str) -> None:
    """Make the file, where there is none, so that only its owner reads what is remembered; what SQLite puts beside it
    takes over its mode.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


open = SqliteStore
