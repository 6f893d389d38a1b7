"""New versions on their way into the tables: the record, its words, labels and links, and its line in the log.

Every statement takes many rows at once: a statement of its own for every row costs more than the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import apsw
import msgspec

from .. import words as language
from ..record import Body, Record, Span, at_if_known
from ..store import Change
from . import rows, sqlite_rows

WORDS = "INSERT INTO words (rowid, terms) VALUES (?, ?)"
LABEL = "INSERT INTO labels VALUES (?, ?, ?)"
LINK = "INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)"
GROWN = "UPDATE realms SET versions = versions + ?, head = coalesce(?, head) WHERE realm = ?"
CHANGE = "INSERT INTO changes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
THERE = "SELECT DISTINCT r.id FROM json_each(?) j CROSS JOIN records r WHERE r.realm = ? AND r.id = j.value"

Version = tuple[Record, Span]  # a version, and the time for which it is known


def insert(
    db: apsw.Connection, realm: int, versions: Sequence[Version], at: datetime, logged: bool = True
) -> list[Change]:
    """Write versions that are known to fit, all of one realm; return their lines of the log, written at that time.

    Where they are not `logged`, whoever calls writes the lines.
    """
    db.executemany(sqlite_rows.INSERT, [rows.as_row(record, realm, known) for record, known in versions])
    first = db.last_insert_rowid() - len(versions) + 1  # the transaction is the only one that writes
    numbered = list(enumerate(versions, first))
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
    first = db.last_insert_rowid() - len(records) + 1
    return [Change(seq, at, r.id, r.version, r.kind, r.scope) for seq, r in enumerate(records, first)]


def there(db: apsw.Connection, realm: int, ids: Sequence[str]) -> set[str]:
    """Return those of the ids that the realm has in any version."""
    return {str(id) for (id,) in db.execute(THERE, (msgspec.json.encode(ids).decode(), realm))}


def terms(realm: int, body: Body, at: datetime | None) -> str:
    """Return the terms by which full-text search finds a record with this body, said then."""
    prefix = prefixed(realm, "")
    found = language.searched_terms(body, at)
    return prefix + f" {prefix}".join(found) if found else ""


def prefixed(realm: int, term: str) -> str:
    return f"{realm:x}·{term}"  # the dot is no ASCII, so FTS5's ascii tokenizer keeps it inside the term
