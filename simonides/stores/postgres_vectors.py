"""The vectors of a model on their way out of the tables."""

from __future__ import annotations

import uuid

from .postgres_pool import fetch
from .postgres_trip import Db

LOCKED = "SELECT realm FROM realms WHERE realm IN (SELECT realm FROM groups WHERE model = %s) ORDER BY realm FOR UPDATE"
GROUPS = "SELECT realm, grp FROM groups WHERE model = %s ORDER BY grp"
# The first slot behind so many vectors and what is of the same row as the last of them; NULL where nothing is.
REST = """
    WITH last AS (SELECT slot, row_id FROM vectors WHERE realm = %s AND grp = %s ORDER BY slot OFFSET %s LIMIT 1)
    SELECT min(v.slot) FROM last, vectors v
    WHERE v.realm = %s AND v.grp = %s AND v.slot > last.slot AND v.row_id <> last.row_id
"""
EMPTIED = """
    WITH gone AS (DELETE FROM vectors WHERE realm = %s AND grp = %s AND slot < %s RETURNING realm, grp, slot, row_id),
    untold AS (
        DELETE FROM tokens t USING (SELECT DISTINCT realm, grp, row_id FROM gone) g
        WHERE t.realm = g.realm AND t.grp = g.grp AND t.row_id = g.row_id
    ), counted AS (
        UPDATE groups SET holes = holes + (SELECT count(*) FROM gone) WHERE grp = %s
        RETURNING grp, holes - (SELECT count(*) FROM gone) AS first
    ), noted AS (
        INSERT INTO holes (realm, grp, hole, slot)
        SELECT realm, grp, first + row_number() OVER (ORDER BY slot) - 1, slot FROM gone JOIN counted USING (grp)
    )
    SELECT count(*) FROM gone
"""
DROPPED = "WITH gone AS (DELETE FROM vectors WHERE realm = %s AND grp = %s RETURNING 1) SELECT count(*) FROM gone"


async def drop(db: Db, model: str, limit: int | None) -> int:
    """Remove the vectors and tokens of a model; see `Store.drop_model`."""
    await db.execute(LOCKED, (model,))
    dropped = 0
    for realm, group in await fetch(db, GROUPS, (model,)):
        if limit is not None:
            if dropped >= limit:
                return dropped
            place = realm, group, limit - dropped - 1, realm, group
            [(rest,)] = await fetch(db, REST, place)
            if rest is not None:
                [(emptied,)] = await fetch(db, EMPTIED, (realm, group, rest, group))
                return dropped + int(emptied)
        dropped += await _drop(db, realm, group)
    return dropped


async def _drop(db: Db, realm: int, group: int) -> int:
    [(dropped,)] = await fetch(db, DROPPED, (realm, group))
    for table in ("holes", "tokens"):
        await db.execute(f"DELETE FROM {table} WHERE realm = %s AND grp = %s", (realm, group))
    # The number stays taken, so that files named after it are never another group's.
    sql = "UPDATE groups SET model = %s, slots = 0, holes = 0 WHERE grp = %s"
    await db.execute(sql, (f"{uuid.uuid4()} dropped", group))
    return int(dropped)
