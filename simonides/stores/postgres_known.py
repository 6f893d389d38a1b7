"""What is there of all that some commits name, read under locks: the realms' rows first, then the followers' places.

Everybody locks in this order, and the head of the log last, so nobody waits in a circle. Who copies another store's log
locks the head at once, so that its last line stays the last.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from ..record import Record, Ref, Scope, began
from ..store import Batch, Cursor
from . import rows
from .postgres_plan import NOTHING, Group, Known, Last, Name, Walls
from .postgres_pool import PLANNED_ANEW, TENANTS
from .postgres_rows import about, array, as_record, bound, kept, unbound
from .postgres_trip import Answer, Db, Trip

BLOCK = 1000  # numbers of rows that the sequence gives at once; see the schema

FRESH_MS = 60_000  # how old an id is at most that is taken for new: it was made by us, so nobody else has it
# Where a statement is told which realms it is about, beside joining them, it is planned for their partitions alone.
LOCK = "SELECT (SELECT seq FROM log) FROM realms WHERE realm = ANY(%s::int[]) ORDER BY realm FOR UPDATE"
PLACES = "SELECT name, seq FROM cursors WHERE name = ANY(%s::text[]) ORDER BY name FOR UPDATE"
FIRST_PLACES = (
    "INSERT INTO cursors SELECT name, 0 FROM unnest(%s::text[]) n (name) ORDER BY name ON CONFLICT DO NOTHING"
)
LAST = """
    SELECT j.n, r.version, r.row_id, r.user, r.agent, r.session, r.kind, r.key, r.known_since, r.known_until,
           r.valid_until
    FROM unnest(%s::int[], %s::text[]) WITH ORDINALITY j (realm, id, n)
    CROSS JOIN LATERAL (
        SELECT * FROM records o WHERE o.realm = j.realm AND o.id = j.id AND o.realm {among}
        ORDER BY o.version DESC LIMIT 1
    ) r
"""
BEARERS = """
    SELECT j.n, r.id, r.version, r.row_id, r.user, r.agent, r.session, r.kind, r.key, r.known_since, r.known_until,
           r.valid_until
    FROM unnest(%s::int[], %s::text[], %s::text[]) WITH ORDINALITY j (realm, kind, key, n)
    JOIN records r ON r.realm = j.realm AND r.kind = j.kind AND r.key = j.key AND r.key IS NOT NULL
        AND r.known_until IS NULL AND r.realm {among}
"""
CONTENTS = f"""
    SELECT j.n, {rows.SELECT} FROM unnest(%s::int[], %s::text[], %s::int[]) WITH ORDINALITY j (realm, id, version, n)
    JOIN records r ON r.realm = j.realm AND r.id = j.id AND r.version = j.version AND r.realm {{among}}
"""
STORED = f"""
    SELECT j.n, r.row_id, {rows.SELECT} FROM unnest(%s::int[], %s::text[]) WITH ORDINALITY j (realm, id, n)
    JOIN records r ON r.realm = j.realm AND r.id = j.id AND r.realm {{among}} ORDER BY j.n, r.version
"""
ROWS = """
    SELECT j.n, r.row_id FROM unnest(%s::int[], %s::text[], %s::int[]) WITH ORDINALITY j (realm, id, version, n)
    JOIN records r ON r.realm = j.realm AND r.id = j.id AND r.version = j.version AND r.realm {among}
"""
EMBEDDED = """
    SELECT DISTINCT v.grp, v.row_id FROM unnest(%s::int[], %s::bigint[]) j (realm, row_id)
    JOIN vectors v ON v.realm = j.realm AND v.row_id = j.row_id AND v.realm {among}
"""
GROUPS = """
    SELECT j.n, g.grp, g.dimension, g.slots FROM unnest(%s::int[], %s::text[]) WITH ORDINALITY j (realm, model, n)
    JOIN groups g ON g.realm = j.realm AND g.model = j.model
"""
REALMS = """
    SELECT m.tenant, m.space, m.realm FROM unnest(%s::text[], %s::text[]) j (tenant, space)
    JOIN realms m ON m.tenant = j.tenant AND m.space = j.space
"""
NEW_REALMS = "SELECT nextval(pg_get_serial_sequence('realms', 'realm')) FROM generate_series(1, %s)"
NEW_GROUPS = "SELECT nextval(pg_get_serial_sequence('groups', 'grp')) FROM generate_series(1, %s)"
NEW_ROWS = "SELECT nextval('rows') FROM generate_series(1, %s)"


class Numbers:
    """Numbers for rows that only ever grow, taken from the sequence a block at a time."""

    def __init__(self) -> None:
        self._blocks: list[range] = []

    def missing(self, count: int) -> int:
        """Return how many blocks must be fetched before so many numbers can be taken."""
        return -(-max(0, count - sum(map(len, self._blocks))) // BLOCK)

    def add(self, ends: Iterable[int]) -> None:
        self._blocks += [range(end, end + BLOCK) for end in ends]

    def take(self) -> int:
        block = self._blocks[0]
        self._blocks[:1] = [block[1:]] if len(block) > 1 else []
        return block[0]


async def numbers_of(db: Db, walls: Collection[Walls]) -> dict[Walls, int]:
    """Return the numbers of those of the realms that are there."""
    tenants, spaces = ([kept(wall[place]) for wall in walls] for place in (0, 1))
    async with Trip(db) as trip:
        trip.ask("BEGIN")
        trip.ask(TENANTS, (_tenants(walls),))
        found = trip.ask(REALMS, (tenants, spaces))
        trip.ask("COMMIT")
    return {(tenant, space): realm for tenant, space, realm in _all(found)}


def _tenants(walls: Collection[Walls]) -> str:
    return str(array([kept(tenant) for tenant in sorted({tenant for tenant, _ in walls})]))


async def load(
    db: Db,
    batches: Sequence[Batch],
    cursors: Sequence[Cursor],
    realms: dict[Walls, int],
    walls: Collection[Walls],
    numbers: Numbers,
    *,
    sure: bool,
) -> Known:
    """Begin a transaction that sees what the commits name; lock, and return what is there.

    Unless it is to be `sure`, what bears an id of a moment ago is not looked for: if it is there, writing it fails.
    """
    known = Known(realms=dict(realms))
    here = sorted(realms.values())
    written = [record for batch in batches for record in (*batch.put, *batch.restore)]
    erased = [ref for batch in batches for ref in batch.erase if (ref.tenant, ref.space) in realms]
    embeddings = [one for batch in batches for one in batch.embeddings]
    keyed = list({(r.scope.realm, r.kind, r.body.key) for r in written if r.body.key and r.scope.realm in realms})
    looked_for = written if sure else [record for record in written if not _is_fresh(record)]
    known.guessed = len(looked_for) < len(written)
    refs = list({*(r.ref for r in looked_for if r.scope.realm in realms), *erased})
    mine = {(r.ref, r.version) for r in written}
    embedded = {(e.ref, e.version) for e in embeddings if (e.ref.tenant, e.ref.space) in realms}
    named = list(embedded - mine)
    models = list({((e.ref.tenant, e.ref.space), e.model) for e in embeddings})
    names = sorted({cursor.name for cursor in cursors})
    new = [wall for wall in walls if wall not in realms]
    copies = any(batch.log for batch in batches)

    trip = Trip(db)

    def ask(sql: str, *values: Any, when: bool = True) -> Answer | None:
        return trip.ask(sql, bound(values)) if when else None

    def among(sql: str, which: list[int], *values: Any) -> Answer | None:
        told, given = about(sql, which, (which, *values))
        return ask(told, *given, when=bool(which))

    def of(realm: Walls) -> int:
        return realms.get(realm, 0)

    async with trip:
        trip.ask("BEGIN")
        if walls:
            trip.ask(TENANTS, (_tenants(walls),))
        if refs or keyed or named or copies:
            trip.ask(PLANNED_ANEW)
        head = ask(LOCK, here, when=bool(here))
        ask(FIRST_PLACES, names, when=bool(names))
        places = ask(PLACES, names, when=bool(names))
        if copies or not here:
            head = ask(f"SELECT seq FROM log{' FOR UPDATE' if copies else ''}")
        last = among(LAST, *_ids(refs, of))
        bearers = among(BEARERS, [of(n[0]) for n in keyed], [n[1] for n in keyed], [n[2] for n in keyed])
        stored = among(STORED, *_ids(erased, of))
        its_rows = among(ROWS, *_ids([r for r, _ in named], of), [v for _, v in named])
        groups = ask(GROUPS, [of(w) for w, _ in models], [m for _, m in models], when=bool(models))
        new_realms = ask(NEW_REALMS, len(new), when=bool(new))
        blocks = numbers.missing(len(written))
        new_rows = ask(NEW_ROWS, blocks, when=bool(blocks))

    known.cursors = dict(_all(places))
    known.new_realms = dict(zip(new, [n for (n,) in _all(new_realms)], strict=True))
    numbers.add([n for (n,) in _all(new_rows)])
    for n, *columns in _all(last):
        known.last[refs[n - 1]] = _last(columns)
    for n, id, *columns in _all(bearers):
        one = _last(columns)
        name: Name = (keyed[n - 1][0], one.kind, one.key or "", one.owner)
        known.bearers.setdefault(name, {})[id] = one
    for n, row, *columns in _all(stored):
        known.stored.setdefault(erased[n - 1], []).append((row, as_record(columns, _walls(erased[n - 1]))))
    known.rows = {named[n - 1]: row for n, row in _all(its_rows)}
    known.groups = {models[n - 1]: Group(*columns) for n, *columns in _all(groups)}
    known.head = next(_all(head))[0]
    there = list({each for each in mine if each[1] <= known.last.get(each[0], NOTHING).version})
    await _load_more(db, known, there, embedded, [model for model in models if model not in known.groups], of)
    return known


async def _load_more(
    db: Db,
    known: Known,
    there: list[tuple[Ref, int]],
    embedded: set[tuple[Ref, int]],
    unnumbered: list[tuple[Walls, str]],
    of: Any,
) -> None:
    """Read what only some commits need: the content of versions that are there already, and what is embedded; and take
    numbers for groups that are new.
    """
    if there:
        values = (*_ids([ref for ref, _ in there], of), [version for _, version in there])
        async with Trip(db) as trip:
            contents = trip.ask(*_about(CONTENTS, values[0], values))
            its_rows = None if embedded.isdisjoint(there) else trip.ask(*_about(ROWS, values[0], values))
        for n, *columns in contents.rows:
            known.contents[there[n - 1]] = as_record(columns, _walls(there[n - 1][0]))
        known.rows |= {there[n - 1]: row for n, row in _all(its_rows) if there[n - 1] in embedded}
    if known.rows:
        realms = [of((ref.tenant, ref.space)) for ref, _ in known.rows]
        async with Trip(db) as trip:
            found = trip.ask(*about(EMBEDDED, realms, (realms, list(known.rows.values()))))
        known.embedded = {(grp, row) for grp, row in found.rows}
    if unnumbered:
        async with Trip(db) as trip:
            found = trip.ask(NEW_GROUPS, (len(unnumbered),))
        known.new_groups = dict(zip(unnumbered, [n for (n,) in found.rows], strict=True))


def _is_fresh(record: Record) -> bool:
    made = began(record.id) if record.version == 1 else None
    return made is not None and abs(made - time.time() * 1000) < FRESH_MS


def _ids(refs: Sequence[Ref], of: Any) -> tuple[list[int], list[str]]:
    return [of((ref.tenant, ref.space)) for ref in refs], [ref.id for ref in refs]


def _about(sql: str, realms: Sequence[int], values: Sequence[Any]) -> tuple[str, list[Any]]:
    told, given = about(sql, realms, values)
    return told, bound(given)


def _walls(ref: Ref) -> Scope:
    return Scope(tenant=ref.tenant, space=ref.space)


def _all(answer: Answer | None) -> Iterator[tuple[Any, ...]]:
    return map(unbound, answer.rows) if answer else iter(())


def _last(columns: Sequence[Any]) -> Last:
    version, row, user, agent, session, kind, key, since, until, valid_until = columns
    return Last(version, row, (user, agent, session), kind, key, since, until, valid_until)
