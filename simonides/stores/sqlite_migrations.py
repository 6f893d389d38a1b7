"""Brings a store of an older release up to date, one step after another, with a copy of the file made before.

A step is SQL that leads from the schema before it to its number. `sqlite_schema.sql` is the newest; a new schema means
a new number here, a step to it, and a database of the old release in `tests/released/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import apsw

from ..sqlite_file import alone, version

SCHEMA = 4
STEPS: Mapping[int, str] = {
    2: """
        CREATE TABLE tokens (row INTEGER PRIMARY KEY, value BLOB NOT NULL);
        DROP INDEX records_part;
        DROP INDEX records_user;
        DROP INDEX records_session;
        CREATE INDEX records_part ON records (realm, part_of, at, id) WHERE part_of IS NOT NULL;
        CREATE INDEX records_user ON records (realm, user, at, id);
        CREATE INDEX records_session ON records (realm, session, at, id);
        CREATE INDEX records_talk ON records (realm, at, id) WHERE kind = 'conversation';
        CREATE INDEX records_user_pinned ON records (realm, user, at, id) WHERE pinned = 1 AND known_until IS NULL;
    """,
    3: """
        CREATE TABLE IF NOT EXISTS recalls (row INTEGER PRIMARY KEY, at INTEGER NOT NULL);
        CREATE INDEX IF NOT EXISTS records_agent ON records (realm, agent, at, id);
    """,
    4: """
        CREATE TABLE letters (
            seq INTEGER, follower TEXT, realm INTEGER NOT NULL, id TEXT NOT NULL, tries INTEGER NOT NULL,
            at INTEGER NOT NULL, error TEXT NOT NULL, PRIMARY KEY (seq, follower)
        ) WITHOUT ROWID;
        CREATE INDEX letters_id ON letters (realm, id);
        ALTER TABLE realms ADD COLUMN head INTEGER NOT NULL DEFAULT 0;
        UPDATE realms SET head = c.seq FROM (SELECT realm, max(seq) AS seq FROM changes GROUP BY realm) c
            WHERE c.realm = realms.realm;
    """,
}


def migrate(db: apsw.Connection, path: str | None, steps: Mapping[int, str] = STEPS, newest: int = SCHEMA) -> None:
    """Bring the open database to the newest schema; all steps, or none. The copy is `<path>.before-<newest>`."""
    if version(db) == newest:
        return
    with alone(db):  # whoever comes second finds it done
        if (found := version(db)) < newest:
            if path is not None:
                copy_beside(path, newest)
            for step in range(found + 1, newest + 1):
                db.execute(steps[step])
            db.execute(f"PRAGMA user_version = {newest}")


def copy_beside(path: str, newest: int) -> Path:
    """Copy what is committed, through a connection of its own, and flush it to the disk."""
    target = Path(f"{path}.before-{newest}")
    target.unlink(missing_ok=True)
    reader = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        reader.execute("VACUUM INTO ?", (str(target),))
    finally:
        reader.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return target
