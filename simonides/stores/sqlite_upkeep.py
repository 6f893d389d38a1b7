"""Looking a database over, and mending what can be made again from the records, or has lost its record."""

from __future__ import annotations

import apsw

from .. import words as language
from ..record import Scope
from ..sqlite_file import one, rows_of
from ..store import Health
from . import rows
from .sqlite_vectors import empty
from .sqlite_versions import WORDS, terms

STRAY = "FROM vectors WHERE row NOT IN (SELECT row FROM records)"
ORPHANED = (  # of a row without a record, or without vectors of the same model; see tokens.row in the schema
    "FROM tokens WHERE NOT EXISTS (SELECT 1 FROM vectors v JOIN records r ON r.row = v.row"
    " WHERE v.row = tokens.row - (tokens.row >> 40 << 40) AND v.vector >> 32 = tokens.row >> 40)"
)
FORGOTTEN = "FROM recalls WHERE row NOT IN (SELECT row FROM records WHERE version = 1)"
MISCOUNTED = "FROM realms WHERE versions <> (SELECT count(*) FROM records r WHERE r.realm = realms.realm)"
HEADLESS = (
    "FROM realms m LEFT JOIN (SELECT realm, max(seq) AS seq FROM changes GROUP BY realm) c ON c.realm = m.realm"
    " WHERE m.head <> ifnull(c.seq, 0)"
)
AGREEMENTS = (
    (
        "FROM (SELECT row FROM records EXCEPT SELECT id FROM words_docsize)",
        "{} versions cannot be found by their words: run `simonides rebuild`",
    ),
    (
        "FROM (SELECT id FROM words_docsize EXCEPT SELECT row FROM records)",
        "words of {} versions that are gone are still there: run `simonides rebuild`",
    ),
    (
        "FROM (SELECT realm, id, version FROM records EXCEPT SELECT realm, id, version FROM changes)",
        "{} versions are not in the log: followers have not seen them; export and restore into a new store",
    ),
    (
        "FROM (SELECT realm, id FROM records GROUP BY realm, id"
        " HAVING sum(known_until IS NULL) <> 1 OR max(version) <> count(*))",
        "{} records do not have exactly one latest version: export and restore into a new store",
    ),
    (STRAY, "{} vectors belong to no record: run `simonides rebuild`"),
    (ORPHANED, "the tokens of {} versions belong to no record, or to none with vectors: run `simonides rebuild`"),
    (FORGOTTEN, "{} notes of a last recall belong to no record: run `simonides rebuild`"),
    (MISCOUNTED, "{} realms are miscounted: run `simonides rebuild`"),
    (HEADLESS, "the last line of the log of {} realms is not the one that is noted: run `simonides rebuild`"),
)


def check(db: apsw.Connection) -> Health:
    """Ask SQLite about the file, and compare what is kept twice."""
    complaints = [
        f"the database file is damaged: {line}; export what can be read, and restore it into a new store"
        for (line,) in rows_of(db, "PRAGMA integrity_check(20)")
        if line != "ok"
    ]
    for disagreeing, complaint in AGREEMENTS:
        if found := one(db, f"SELECT count(*) {disagreeing}"):
            complaints.append(complaint.format(found))
    return Health(tuple(complaints), counts(db))


def counts(db: apsw.Connection) -> dict[str, int]:
    sql = "SELECT kind, count(*) FROM records WHERE known_until IS NULL GROUP BY kind ORDER BY kind"
    kinds: dict[str, int] = dict(rows_of(db, sql))
    return {
        "records": sum(kinds.values()),
        "versions": one(db, "SELECT count(*) FROM records"),
        "vectors": one(db, "SELECT count(*) FROM vectors"),
        "changes": one(db, "SELECT count(*) FROM changes"),
        "spaces": one(db, "SELECT count(*) FROM realms WHERE versions > 0"),
        **kinds,
    }


def rebuild(db: apsw.Connection) -> None:
    """Make the words again, and mend every other complaint of `check` that names a rebuild."""
    for (row,) in rows_of(db, f"SELECT DISTINCT row {STRAY}"):
        empty(db, row)
    db.execute(f"DELETE {ORPHANED}")
    db.execute(f"DELETE {FORGOTTEN}")
    db.execute("UPDATE realms SET versions = (SELECT count(*) FROM records r WHERE r.realm = realms.realm)")
    for realm, seq in rows_of(db, "SELECT realm, max(seq) FROM changes GROUP BY realm"):
        db.execute("UPDATE realms SET head = ? WHERE realm = ?", (seq, realm))
    make_words(db)


def make_words(db: apsw.Connection) -> None:
    """Throw the words away and make them again from the records."""
    db.execute("INSERT INTO words (words) VALUES ('delete-all')")
    walls = rows_of(db, "SELECT realm, tenant, space FROM realms")
    scopes = {realm: Scope(tenant=tenant, space=space) for realm, tenant, space in walls}
    last = 0
    sql = f"SELECT r.row, {rows.SELECT} FROM records r WHERE r.row > ? ORDER BY r.row LIMIT 2000"
    while found := rows_of(db, sql, (last,)):
        last = found[-1][0]
        records = ((row[0], row[1], rows.as_record(row[1:], scopes[row[1]])) for row in found)
        db.executemany(WORDS, [(row, terms(realm, record.body, record.at)) for row, realm, record in records])
    db.execute("INSERT OR REPLACE INTO meta VALUES ('words', ?)", (str(language.VERSION),))
