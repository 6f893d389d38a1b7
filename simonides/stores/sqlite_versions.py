"""Versions on their way into the tables: the record, its words, labels and links, and its line in the log.

Of those that are plainly new, every statement takes many rows at once: a statement of its own for every row costs more
than the row. Every other one is compared with what is there, and written by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

import apsw
import msgspec

from .. import words as language
from ..errors import Conflict
from ..record import TICK, Body, Record, Span, at_if_known
from ..sqlite_file import first, one
from ..store import Change
from . import rows, sqlite_rows
from .sqlite_vectors import empty

WORDS = "INSERT INTO words (rowid, terms) VALUES (?, ?)"
LABEL = "INSERT INTO labels VALUES (?, ?, ?)"
LINK = "INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)"
GROWN = "UPDATE realms SET versions = versions + ?, head = coalesce(?, head) WHERE realm = ?"
CHANGE = "INSERT INTO changes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
THERE = "SELECT DISTINCT r.id FROM json_each(?) j CROSS JOIN records r WHERE r.realm = ? AND r.id = j.value"

Version = tuple[Record, Span]  # a version, and the time for which it is known
Last = tuple[int, int, int, str, str, str]


def runs(db: apsw.Connection, realm: int, versions: Sequence[Version]) -> Iterator[tuple[bool, list[Version]]]:
    """Yield the versions in runs, and of each whether they are plainly new: first versions, without a key, whose id is
    in no version here. A single one is not worth the question.
    """
    if len(versions) == 1:
        yield False, list(versions)
        return
    seen = _there(db, realm, [record.id for record, _ in versions])

    def plain(version: Version) -> bool:
        record, _ = version
        new = record.version == 1 and record.id not in seen
        seen.add(record.id)
        return new and record.body.key is None

    for is_plain, run in groupby(versions, plain):
        yield is_plain, list(run)


def _there(db: apsw.Connection, realm: int, ids: Sequence[str]) -> set[str]:
    """Return those of the ids that the realm has in any version."""
    return {str(id) for (id,) in db.execute(THERE, (msgspec.json.encode(ids).decode(), realm))}


def put(db: apsw.Connection, realm: int, version: Version, at: datetime) -> list[Change]:
    """Write the next version of a record, and end the last one; one that is there already is no news."""
    record, known = version
    last = _last(db, realm, record.id)
    if last and record.version <= last[0]:
        _check_same(db, realm, record)
        return []
    if record.version != (last[0] if last else 0) + 1:
        raise Conflict(f"{record.id} is at version {last[0] if last else 0}; the next is not {record.version}")
    if last:
        _check_owner(record, last)
        at = max(at, rows.moment(last[1]) + TICK)
        known = Span(since=at)
        db.execute("UPDATE records SET known_until = ? WHERE row = ?", (rows.stamp(at), last[2]))
    _check_key(db, realm, record, at)
    return insert(db, realm, [(record, known)], at)


def restore(db: apsw.Connection, realm: int, version: Version, at: datetime, logged: bool) -> list[Change]:
    """The same with the clock that the version had."""
    record, known = version
    last = _last(db, realm, record.id)
    if last and record.version <= last[0]:
        _check_same(db, realm, record)
        return []
    if record.version != (last[0] if last else 0) + 1:
        raise Conflict(f"version {record.version} of {record.id} came before those it follows")
    if last:
        _check_owner(record, last)
        until = rows.stamp(known.since)
        db.execute("UPDATE records SET known_until = ifnull(known_until, ?) WHERE row = ?", (until, last[2]))
    if known.until is None:
        _check_key(db, realm, record, at)
    return insert(db, realm, [version], at, logged)


def _last(db: apsw.Connection, realm: int, id: str) -> Last | None:
    """Return (version, known_since, row, user, agent, session) of the latest version."""
    columns = "version, known_since, row, user, agent, session"
    sql = f"SELECT {columns} FROM records WHERE realm = ? AND id = ? ORDER BY version DESC LIMIT 1"
    found: Last | None = first(db, sql, (realm, id))
    return found


def _check_owner(record: Record, last: Last) -> None:
    """Whose a record is never changes: so nobody reaches another's by writing its next version."""
    if last[3:] != tuple(level or "" for _, level in record.scope.levels):
        raise Conflict(f"{record.id} is there already, and belongs elsewhere")


def _check_same(db: apsw.Connection, realm: int, record: Record) -> None:
    """A version that is there already: the same content is no news, other content a conflict."""
    sql = f"SELECT {rows.SELECT} FROM records r WHERE r.realm = ? AND r.id = ? AND r.version = ?"
    found = first(db, sql, (realm, record.id, record.version))
    if found is None or not record.says_the_same(rows.as_record(found, record.scope)):
        raise Conflict(f"{record.id} has other content at version {record.version} already")


def _check_key(db: apsw.Connection, realm: int, record: Record, at: datetime) -> None:
    if record.body.key is None or record.valid.ended(at):
        return
    scope = record.scope
    sql = (
        "SELECT id FROM records r WHERE realm = ? AND kind = ? AND key = ? AND known_until IS NULL AND id <> ?"
        " AND +user = ? AND agent = ? AND +session = ? AND (valid_until IS NULL OR valid_until > ?)"
    )
    names = (scope.user or "", scope.agent or "", scope.session or "")
    if taken := one(db, sql, (realm, record.kind, record.body.key, record.id, *names, rows.stamp(at))):
        raise Conflict(f"the {record.kind} {record.body.key!r} is there already, as {taken}")


def insert(
    db: apsw.Connection, realm: int, versions: Sequence[Version], at: datetime, logged: bool = True
) -> list[Change]:
    """Write versions that are known to fit, all of one realm; return their lines of the log, written at that time.

    Where they are not `logged`, whoever calls writes the lines.
    """
    db.executemany(sqlite_rows.INSERT, [rows.as_row(record, realm, known) for record, known in versions])
    lowest = db.last_insert_rowid() - len(versions) + 1  # the transaction is the only one that writes
    numbered = list(enumerate(versions, lowest))
    db.executemany(
        WORDS, [(row, terms(realm, record.body, at_if_known(record, known.since))) for row, (record, known) in numbered]
    )
    if labels := [(realm, label, row) for row, (record, _) in numbered for label in record.labels]:
        db.executemany(LABEL, labels)
    if links := [(realm, link.target, link.role, row) for row, (record, _) in numbered for link in record.links]:
        db.executemany(LINK, links)
    lines = _log(db, realm, [record for record, _ in versions], at) if logged else []
    db.execute(GROWN, (len(versions), lines[-1].seq if lines else None, realm))
    return lines


def _log(db: apsw.Connection, realm: int, records: Sequence[Record], at: datetime) -> list[Change]:
    stamp = rows.stamp(at)
    db.executemany(
        CHANGE,
        [
            (stamp, realm, r.id, r.version, r.kind, r.scope.user or "", r.scope.agent or "", r.scope.session or "")
            for r in records
        ],
    )
    lowest = db.last_insert_rowid() - len(records) + 1
    return [Change(seq, at, r.id, r.version, r.kind, r.scope) for seq, r in enumerate(records, lowest)]


def delete(db: apsw.Connection, realm: int, row: int, record: Record) -> None:
    """Remove the version in that row, with everything that was kept of it."""
    db.execute(
        "INSERT INTO words (words, rowid, terms) VALUES ('delete', ?, ?)", (row, terms(realm, record.body, record.at))
    )
    for label in record.labels:
        db.execute("DELETE FROM labels WHERE realm = ? AND label = ? AND row = ?", (realm, label, row))
    for link in record.links:
        db.execute("DELETE FROM links WHERE realm = ? AND target = ? AND row = ?", (realm, link.target, row))
    empty(db, row)
    db.execute("DELETE FROM recalls WHERE row = ?", (row,))
    db.execute("DELETE FROM records WHERE row = ?", (row,))


def terms(realm: int, body: Body, at: datetime | None) -> str:
    """Return the terms by which full-text search finds a record with this body, said then."""
    prefix = prefixed(realm, "")
    found = language.searched_terms(body, at)
    return prefix + f" {prefix}".join(found) if found else ""


def prefixed(realm: int, term: str) -> str:
    return f"{realm:x}·{term}"  # the dot is no ASCII, so FTS5's ascii tokenizer keeps it inside the term
