"""Vectors and tokens on their way out of the tables."""

from __future__ import annotations

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
