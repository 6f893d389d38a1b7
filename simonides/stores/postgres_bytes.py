"""Removes the last bytes of what was erased, as far as a client can.

PostgreSQL leaves a deleted row where it was until VACUUM, and its bytes even longer, in the free space of the page. So
the tables that held what was erased, or the one partition of each, are written anew (VACUUM FULL, which locks them)
while they are small enough for that to take no time, and otherwise only vacuumed, which is said. What the server's
write-ahead log, its archive and base backups hold, no client reaches: that is said, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from psycopg import Connection
from psycopg import errors as pg
from psycopg.errors import Diagnostic

from .postgres_pool import ALL

SMALL = 256 * 1024 * 1024  # bytes of a table that is always written anew
HELD = ("records", "words", "labels", "links", "vectors", "tokens", "recalls")

# Of these tables, or of their partitions, those that may hold rows of the realms, with their sizes.
TOUCHED = """
    SELECT c.oid::regclass::text, pg_total_relation_size(c.oid) FROM pg_class p
    LEFT JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class c ON c.oid = coalesce(i.inhrelid, p.oid)
    WHERE p.relnamespace = current_schema()::regnamespace AND p.relname = ANY(%s::text[]) AND p.relkind IN ('r', 'p')
      AND (i.inhrelid IS NULL OR EXISTS (
          SELECT 1 FROM unnest(%s::int[]) realm
          WHERE satisfies_hash_partition(
              p.oid, (SELECT count(*)::int FROM pg_inherits s WHERE s.inhparent = p.oid),
              substring(c.relname from '[0-9]+$')::int, realm
          )
      ))
    ORDER BY 1
"""
SERVERS = "its write-ahead log and backups are the server's own"


def scrub(db: Connection[Any]) -> Mapping[str, Any]:
    """Leave no byte of the erased in the tables; return how ("method")."""
    erases = _erases(db)
    if not erases:
        return {"method": f"nothing was erased since the tables were last written anew; {SERVERS}"}
    tables = db.execute(TOUCHED, (list(HELD), list(erases))).fetchall()
    kept = [table for table, size in tables if not _write_anew(db, table, size)]
    for realm, count in erases.items():  # one at a time: to wait for another while it holds one is nothing
        with db.transaction():
            db.execute(ALL)
            db.execute("UPDATE realms SET scrubbed = greatest(scrubbed, %s) WHERE realm = %s", (count, realm))
    if not kept:
        return {"method": f"deleted, tables written anew; {SERVERS}"}
    bytes_stay = "until others overwrite them, or VACUUM FULL writes these tables anew"
    return {
        "method": f"deleted and vacuumed; bytes may stay in free space of {', '.join(kept)} {bytes_stay}; {SERVERS}"
    }


def _erases(db: Connection[Any]) -> dict[int, int]:
    """Return the realms in which something was erased since they were last scrubbed, with how often by now."""
    with db.transaction():
        db.execute(ALL)
        return dict(db.execute("SELECT realm, erases FROM realms WHERE erases <> scrubbed").fetchall())


def _write_anew(db: Connection[Any], table: str, size: int) -> bool:
    """Return whether no byte of a deleted row is left in the table's files: an older snapshot may still need some."""
    if size <= SMALL:
        try:
            return not _needed(db, f"VACUUM (FULL, VERBOSE) {table}")
        except (pg.LockNotAvailable, pg.DiskFull):
            pass
    db.execute(f"VACUUM {table}")
    return False


def _needed(db: Connection[Any], vacuum: str) -> int:
    """Run it, and return how many deleted rows it had to keep, as details say that begin with a number."""
    details = list[str]()

    def note(diagnostic: Diagnostic) -> None:
        details.append(diagnostic.message_detail or "")

    db.add_notice_handler(note)
    try:
        db.execute(vacuum)
    finally:
        db.remove_notice_handler(note)
    return sum(int(found[0]) for detail in details if (found := re.match("[0-9]+", detail)))
