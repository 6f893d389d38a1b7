"""Letters in their table: what a follower could not follow, by the line of the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from ..store import Letter
from . import rows

Row = tuple[int, str, int, int, str]  # line, follower, tries, when, error


def put_aside(db: apsw.Connection, answered: Sequence[tuple[str, int]], new: Sequence[Letter]) -> None:
    """Remove those that were answered, and write the new ones; one about a record that is gone is left out."""
    db.executemany("DELETE FROM letters WHERE follower = ? AND seq = ?", answered)
    sql = (
        "INSERT OR REPLACE INTO letters SELECT ?, ?, r.realm, r.id, ?, ?, ? FROM realms m"
        " CROSS JOIN records r ON r.realm = m.realm WHERE m.tenant = ? AND m.space = ? AND r.id = ? AND r.version = 1"
    )
    for letter in new:
        ref, said = letter.change.ref, (letter.tries, rows.stamp(letter.at), letter.error)
        db.execute(sql, (letter.change.seq, letter.follower, *said, ref.tenant, ref.space, ref.id))


def letters(db: apsw.Connection, follower: str | None, after: int, limit: int) -> list[Row]:
    sql = (
        "SELECT seq, follower, tries, at, error FROM letters WHERE seq > ? AND (? IS NULL OR follower = ?)"
        " ORDER BY seq, follower LIMIT ?"
    )
    found: list[Any] = db.execute(sql, (after, follower, follower, limit)).fetchall()
    return found
