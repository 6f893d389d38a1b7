"""Looking a store over, and mending what can be made again from the records.

It takes its time, so it runs on a connection of its own, in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from ..record import Scope
from ..store import Health
from . import rows
from .postgres_pool import ALL
from .postgres_rows import as_record, given
from .postgres_written import WORDS, columns, terms

PAGE = 2_000  # records read at once
STRAY = "FROM vectors v WHERE NOT EXISTS (SELECT 1 FROM records r WHERE r.realm = v.realm AND r.row_id = v.row_id)"
ORPHANED = (
    "FROM tokens t WHERE NOT EXISTS ("
    "SELECT 1 FROM vectors v JOIN records r ON r.realm = v.realm AND r.row_id = v.row_id"
    " WHERE v.realm = t.realm AND v.row_id = t.row_id AND v.grp = t.grp)"
)
FORGOTTEN = (
    "FROM recalls c WHERE NOT EXISTS ("
    "SELECT 1 FROM records r WHERE r.realm = c.realm AND r.id = c.id AND r.version = 1)"
)
MISCOUNTED = "FROM realms m WHERE versions <> (SELECT count(*) FROM records r WHERE r.realm = m.realm)"
AGREEMENTS = (
    (
        "FROM (SELECT realm, row_id FROM words EXCEPT SELECT realm, row_id FROM records) gone",
        "words of {} versions that are gone are still there: run `simonides rebuild`",
    ),
    (
        "FROM (SELECT realm, id, version FROM records EXCEPT SELECT realm, id, version FROM changes) unlogged",
        "{} versions are not in the log: followers have not seen them; export and restore into a new store",
    ),
    (
        "FROM (SELECT realm, id FROM records GROUP BY realm, id"
        " HAVING count(*) FILTER (WHERE known_until IS NULL) <> 1 OR max(version) <> count(*)) odd",
        "{} records do not have exactly one latest version: export and restore into a new store",
    ),
    (
        "FROM log WHERE seq <> (SELECT count(*) FROM changes) OR seq <> (SELECT coalesce(max(seq), 0) FROM changes)",
        "the log has gaps: followers may have missed something; export and restore into a new store",
    ),
    (STRAY, "{} vectors belong to no record: run `simonides rebuild`"),
    (ORPHANED, "the tokens of {} versions belong to no record, or to none with vectors: run `simonides rebuild`"),
    (FORGOTTEN, "{} notes of a last recall belong to no record: run `simonides rebuild`"),
    (MISCOUNTED, "{} realms are miscounted: run `simonides rebuild`"),
)
COUNTS = """
    SELECT kind, count(*) FROM records WHERE known_until IS NULL GROUP BY kind
    UNION ALL SELECT ' versions', count(*) FROM records
    UNION ALL SELECT ' vectors', count(*) FROM vectors
    UNION ALL SELECT ' changes', count(*) FROM changes
    UNION ALL SELECT ' spaces', count(*) FROM realms WHERE versions > 0
"""
PASSES_WALLS = "SELECT rolname FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"

MEND = f"""
    WITH gone AS (DELETE {STRAY} RETURNING v.realm, v.grp, v.slot),
    counted AS (
        UPDATE groups g SET holes = g.holes + c.count
        FROM (SELECT grp, count(*) AS count FROM gone GROUP BY grp) c WHERE g.grp = c.grp
        RETURNING g.grp, g.holes - c.count AS first
    )
    INSERT INTO holes (realm, grp, hole, slot)
    SELECT realm, grp, first + row_number() OVER (PARTITION BY grp ORDER BY slot) - 1, slot
    FROM gone JOIN counted USING (grp)
"""


def check(db: Connection[Any]) -> Health:
    """Compare what is kept twice."""
    complaints = []
    with db.transaction():
        db.execute(ALL)
        for disagreeing, complaint in AGREEMENTS:
            if found := _one(db, f"SELECT count(*) {disagreeing}"):
                complaints.append(complaint.format(found))
        if unfound := _unfound(db):
            complaints.append(f"{unfound} versions cannot be found by their words: run `simonides rebuild`")
        if role := _one(db, PASSES_WALLS):
            complaints.append(
                f"the role {role} passes by row level security, the second wall between tenants: connect as a role that"
                " is neither superuser nor BYPASSRLS"
            )
        return Health(tuple(complaints), as_counts(db.execute(COUNTS).fetchall()))


def as_counts(found: Sequence[tuple[str, int]]) -> dict[str, int]:
    counted = dict(found)
    kinds = {kind: counted[kind] for kind in sorted(counted) if not kind.startswith(" ")}
    totals = {name: counted[f" {name}"] for name in ("versions", "vectors", "changes", "spaces")}
    return {"records": sum(kinds.values()), **totals, **kinds}


def rebuild(db: Connection[Any]) -> None:
    """Make the words again, and mend every other complaint of `check` that names a rebuild."""
    with db.transaction():
        db.execute(ALL)
        db.execute("SELECT 1 FROM realms ORDER BY realm FOR UPDATE")
        db.execute(MEND)
        db.execute(f"DELETE {ORPHANED}")
        db.execute(f"DELETE {FORGOTTEN}")
        db.execute("UPDATE realms m SET versions = (SELECT count(*) FROM records r WHERE r.realm = m.realm)")
        make_words(db)


def make_words(db: Connection[Any]) -> None:
    """Throw the words away and make them again from the records."""
    db.execute("DELETE FROM words")
    walls = db.execute("SELECT realm, tenant, space FROM realms").fetchall()
    scopes = {realm: Scope(tenant=given(tenant), space=given(space)) for realm, tenant, space in walls}
    sql = (
        f"SELECT r.row_id, {rows.SELECT} FROM records r WHERE (realm, row_id) > (%s, %s)"
        " ORDER BY realm, row_id LIMIT %s"
    )
    place = 0, 0
    while found := db.execute(sql, (*place, PAGE)).fetchall():
        place = found[-1][1], found[-1][0]
        records = [(row[1], row[0], as_record(row[1:], scopes[row[1]])) for row in found]
        words = [(realm, row, *each) for realm, row, record in records for each in terms(record.body, record.at)]
        if words:
            db.execute(WORDS, columns(words))


def _unfound(db: Connection[Any]) -> int:
    """Return how many versions have terms of which none is kept."""
    sql = (
        f"SELECT r.row_id, {rows.SELECT} FROM records r"
        " WHERE NOT EXISTS (SELECT 1 FROM words w WHERE w.realm = r.realm AND w.row_id = r.row_id)"
    )
    found = db.execute(sql).fetchall()
    anywhere = Scope()
    records = (as_record(row[1:], anywhere) for row in found)
    return sum(bool(terms(record.body, record.at)) for record in records)


def _one(db: Connection[Any], sql: str) -> Any:
    found = db.execute(sql).fetchone()
    return found[0] if found else None
