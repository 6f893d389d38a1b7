"""Vectors and tokens on their way out of the tables."""

from __future__ import annotations

import uuid
from typing import Any

import apsw


def empty(db: apsw.Connection, row: int) -> None:
    """Remove the vectors and tokens of that row of the records; of each vector's slot a hole is left."""
    emptied: list[Any] = db.execute("DELETE FROM vectors WHERE row = ? RETURNING vector", (row,)).fetchall()
    for (vector,) in emptied:
        group = vector >> 32
        db.execute("DELETE FROM tokens WHERE row = ?", ((group << 40) + row,))
        db.execute("INSERT INTO holes SELECT grp, holes, ? FROM groups WHERE grp = ?", (vector - (group << 32), group))
        db.execute("UPDATE groups SET holes = holes + 1 WHERE grp = ?", (group,))


def drop(db: apsw.Connection, model: str, limit: int | None) -> int:
    """Remove the vectors and tokens of a model; see `Store.drop_model`."""
    dropped = 0
    groups: list[Any] = db.execute("SELECT grp FROM groups WHERE model = ?", (model,)).fetchall()
    for (group,) in groups:
        rest = None if limit is None else _after(db, group, limit - dropped)
        if rest is not None:
            return dropped + _empty_until(db, group, rest)
        dropped += _drop(db, group)
    return dropped


def _after(db: apsw.Connection, group: int, count: int) -> int | None:
    """Return the group's first vector behind so many others and what is of the same row as the last of them."""
    first, end = group << 32, group + 1 << 32
    sql = "SELECT vector, row FROM vectors WHERE vector >= ? AND vector < ? ORDER BY vector LIMIT 1 OFFSET ?"
    last: Any = db.execute(sql, (first, end, count - 1)).fetchone() if count > 0 else (first - 1, None)
    sql = "SELECT vector FROM vectors WHERE vector > ? AND vector < ? AND row IS NOT ? ORDER BY vector LIMIT 1"
    found: Any = db.execute(sql, (last[0], end, last[1])).fetchone() if last else None
    return found[0] if found else None


def _empty_until(db: apsw.Connection, group: int, end: int) -> int:
    """Make holes of the group's vectors before that one."""
    span = (group << 32, end)
    holes = (
        "INSERT INTO holes SELECT grp, holes + row_number() OVER (ORDER BY vector) - 1, vector - (grp << 32)"
        " FROM groups JOIN vectors ON vector >= ? AND vector < ? WHERE grp = ?"
    )
    tokens = "DELETE FROM tokens WHERE row IN (SELECT (? << 40) + row FROM vectors WHERE vector >= ? AND vector < ?)"
    db.execute(holes, (*span, group))
    db.execute(tokens, (group, *span))
    db.execute("DELETE FROM vectors WHERE vector >= ? AND vector < ?", span)
    emptied = db.changes()
    db.execute("UPDATE groups SET holes = holes + ? WHERE grp = ?", (emptied, group))
    return emptied


def _drop(db: apsw.Connection, group: int) -> int:
    db.execute("DELETE FROM vectors WHERE vector >= ? AND vector < ?", (group << 32, group + 1 << 32))
    dropped = db.changes()
    db.execute("DELETE FROM holes WHERE grp = ?", (group,))
    db.execute("DELETE FROM tokens WHERE row >= ? AND row < ?", (group << 40, group + 1 << 40))
    # The number stays taken, so that files named after it are never another group's.
    sql = "UPDATE groups SET model = ?, slots = 0, holes = 0 WHERE grp = ?"
    db.execute(sql, (f"{uuid.uuid4()} dropped", group))
    return dropped
