"""Writes what a plan says, a statement for many rows at once, and the log's lines last."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from .. import words as language
from ..record import Body, at_if_known
from . import rows
from .postgres_plan import Plan, Version
from .postgres_pool import ALL
from .postgres_rows import QUOTED, TYPES, about, array, as_row, bound, facets, given, kept, term_number
from .postgres_trip import Answer, Db, Trip

MANY = 1_000  # rows that one statement takes
MANY_WORDS = 50_000
AT_ONCE = 50  # versions up to which their words are made in the event loop's own thread
OFTEN_MAX = 15  # times that a term is counted in one version: BM25 makes no difference beyond

_ARRAYS = ", ".join(f"%s::{TYPES[column]}[]" for column in TYPES)
INSERT = (
    f"INSERT INTO records (row_id, facets, {QUOTED}) SELECT j.row_id, j.facets::bigint[], {QUOTED}"
    f" FROM unnest(%s::bigint[], %s::text[], {_ARRAYS}) j (row_id, facets, {QUOTED})"
)
REALMS = """
    INSERT INTO realms (realm, tenant, space) SELECT * FROM unnest(%s::int[], %s::text[], %s::text[]) ORDER BY 2, 3
"""
ENDED = """
    UPDATE records r SET known_until = j.until
    FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) j (realm, row_id, until)
    WHERE r.realm = j.realm AND r.row_id = j.row_id AND r.realm {among}
"""
WORDS = """
    INSERT INTO words (realm, row_id, term, often)
    SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::smallint[]) ORDER BY 1, 3, 2
"""
LABELS = """
    INSERT INTO labels (realm, label, row_id) SELECT * FROM unnest(%s::int[], %s::text[], %s::bigint[])
    ON CONFLICT DO NOTHING
"""
LINKS = """
    INSERT INTO links (realm, target, role, row_id)
    SELECT * FROM unnest(%s::int[], %s::text[], %s::text[], %s::bigint[]) ON CONFLICT DO NOTHING
"""
GROUPS = """
    INSERT INTO groups (realm, model, grp, dimension, slots)
    SELECT * FROM unnest(%s::int[], %s::text[], %s::int[], %s::int[], %s::int[])
    ON CONFLICT (realm, model) DO UPDATE SET slots = excluded.slots
"""
VECTORS = """
    INSERT INTO vectors (realm, grp, row_id, slot, value)
    SELECT * FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::int[], %s::bytea[])
"""
TOKENS = """
    INSERT INTO tokens (realm, grp, row_id, value)
    SELECT * FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bytea[])
"""
CURSORS = "UPDATE cursors c SET seq = j.seq FROM unnest(%s::text[], %s::bigint[]) j (name, seq) WHERE c.name = j.name"
ANSWERED = """
    DELETE FROM letters t USING unnest(%s::text[], %s::bigint[]) j (follower, seq)
    WHERE t.follower = j.follower AND t.seq = j.seq
"""
ALL_NO_MORE = "SELECT set_config('simonides.all', '', true)"
LETTERS = """
    INSERT INTO letters (seq, follower, tries, at, error, realm, id)
    SELECT j.seq, j.follower, j.tries, j.at, j.error, m.realm, j.id
    FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
        j (seq, follower, tries, at, error, tenant, space, id)
    JOIN realms m ON m.tenant = j.tenant AND m.space = j.space
    JOIN records r ON r.realm = m.realm AND r.id = j.id AND r.version = 1
"""
CERTIFIED = """
    DELETE FROM erasing e USING unnest(%s::int[], %s::text[]) j (realm, id) WHERE e.realm = j.realm AND e.id = j.id
"""

EMPTIED = """
    WITH gone AS (
        DELETE FROM vectors v USING unnest(%s::int[], %s::bigint[]) WITH ORDINALITY j (realm, row_id, n)
        WHERE v.realm = j.realm AND v.row_id = j.row_id AND v.realm {among} RETURNING v.realm, v.grp, v.slot, j.n
    ), counted AS (
        UPDATE groups g SET holes = g.holes + c.count
        FROM (SELECT grp, count(*) AS count FROM gone GROUP BY grp) c WHERE g.grp = c.grp
        RETURNING g.grp, g.holes - c.count AS first
    )
    INSERT INTO holes (realm, grp, hole, slot)
    SELECT realm, grp, first + row_number() OVER (PARTITION BY grp ORDER BY n, slot) - 1, slot
    FROM gone JOIN counted USING (grp)
"""
UNSAID = """
    DELETE FROM words w USING unnest(%s::int[], %s::bigint[], %s::bigint[]) j (realm, row_id, term)
    WHERE w.realm = j.realm AND w.term = j.term AND w.row_id = j.row_id AND w.realm {among}
"""
UNLABELLED = """
    DELETE FROM labels l USING unnest(%s::int[], %s::text[], %s::bigint[]) j (realm, label, row_id)
    WHERE l.realm = j.realm AND l.label = j.label AND l.row_id = j.row_id AND l.realm {among}
"""
UNLINKED = """
    DELETE FROM links l USING unnest(%s::int[], %s::text[], %s::bigint[]) j (realm, target, row_id)
    WHERE l.realm = j.realm AND l.target = j.target AND l.row_id = j.row_id AND l.realm {among}
"""
OF_ROWS = """
    USING unnest(%s::int[], %s::bigint[]) j (realm, row_id)
    WHERE t.realm = j.realm AND t.row_id = j.row_id AND t.realm {among}
"""
UNTOLD, UNWRITTEN = (f"DELETE FROM {table} t {OF_ROWS}" for table in ("tokens", "records"))
UNRECALLED = """
    DELETE FROM recalls c USING unnest(%s::int[], %s::text[]) j (realm, id) WHERE c.realm = j.realm AND c.id = j.id
        AND c.realm {among}
"""
UNLETTERED = """
    DELETE FROM letters t USING unnest(%s::int[], %s::text[]) j (realm, id) WHERE t.realm = j.realm AND t.id = j.id
"""
ERASING = """
    INSERT INTO erasing (realm, id) SELECT * FROM unnest(%s::int[], %s::text[]) ON CONFLICT DO NOTHING
"""
ERASED = "UPDATE realms SET erases = erases + 1 WHERE realm = ANY(%s::int[])"

LINES = """
    WITH taken AS (UPDATE log SET seq = seq + %s RETURNING seq - %s AS before), lines AS (
        INSERT INTO changes (seq, at, realm, id, version, kind, "user", agent, session, note)
        SELECT before + n, j.at, j.realm, j.id, j.version, j.kind, j."user", j.agent, j.session, j.note
        FROM taken, unnest(
            %s::bigint[], %s::int[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[]
        ) WITH ORDINALITY j (at, realm, id, version, kind, "user", agent, session, note, n)
    )
    UPDATE realms m SET versions = m.versions + j.grown, head = before + j.line
    FROM taken, unnest(%s::int[], %s::bigint[], %s::bigint[]) j (realm, grown, line) WHERE m.realm = j.realm
    RETURNING before
"""
# Whoever holds a follower's place may wait for the log's head, which this one holds: so nobody is waited for here.
FOLLOWED = """
    WITH there AS (
        SELECT c.name, c.seq + j.n AS upto FROM cursors c JOIN unnest(%s::text[], %s::bigint[]) j (name, n) USING (name)
        WHERE c.seq > 0 AND c.seq = (SELECT seq FROM log) - %s FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE cursors c SET seq = t.upto FROM there t WHERE c.name = t.name RETURNING c.name
"""


@dataclass(frozen=True, slots=True)
class Written:
    """The number of the log's last line before those written, and the followers that went on with them."""

    before: int
    followed: frozenset[str] = frozenset()


Rows = tuple[str, Sequence[Sequence[Any]]]  # a statement, and what it writes


async def write(db: Db, plan: Plan) -> Written:
    """Write the plan and commit."""
    words = await _words(plan.versions)
    unsaid = await _words({row: Version(r, r.known, realm) for row, (realm, r) in plan.gone.items()})
    grown = went = None
    async with Trip(db) as trip:
        if plan.made:
            _many(trip, REALMS, [(n, kept(tenant), kept(space)) for (tenant, space), n in plan.made.items()])
        _among(trip, ENDED, [(realm, row, until) for row, (realm, until) in plan.ended.items()])
        _together(trip, [*_inserted(plan, words), *_embedded(plan)])
        if plan.erased:
            _erase(trip, plan, unsaid)
        _many(trip, CURSORS, [(kept(name), seq) for name, seq in plan.cursors.items()])
        _put_aside(trip, plan)
        for sql, waits in ((ERASING, True), (CERTIFIED, False)):
            _many(trip, sql, [(realm, kept(id)) for (realm, id), its in plan.erasing.items() if its is waits])
        if plan.lines:
            grown = _log(trip, plan)
        if plan.followed:
            names = [kept(name) for name in plan.followed]
            went = trip.ask(FOLLOWED, (names, list(plan.followed.values()), len(plan.lines)))
        trip.ask("COMMIT")
    if grown is None:
        return Written(0)
    followed = frozenset(given(name) for (name,) in went.rows) if went else frozenset()
    return Written(grown.rows[0][0], followed)


def _inserted(plan: Plan, words: list[tuple[int, int, int, int]]) -> list[Rows]:
    each = [(row, v.realm, v.record) for row, v in plan.versions.items()]
    return [
        (INSERT, [(row, facets(v.record), *as_row(v.record, v.realm, v.known)) for row, v in plan.versions.items()]),
        (WORDS, words),
        (LABELS, [(realm, kept(label), row) for row, realm, r in each for label in r.labels]),
        (LINKS, [(realm, kept(link.target), kept(link.role), row) for row, realm, r in each for link in r.links]),
    ]


def _embedded(plan: Plan) -> list[Rows]:
    vectors = [
        (p.realm, p.group, p.row, p.slot + n, half.tobytes())
        for p in plan.placed
        for n, half in enumerate(p.embedding.vectors.astype("<f2"))
    ]
    return [
        (GROUPS, [(realm, kept(model), g.number, g.dimension, g.slots) for realm, model, g in plan.groups()]),
        (VECTORS, vectors),
        (TOKENS, [(p.realm, p.group, p.row, p.embedding.tokens) for p in plan.placed if p.embedding.tokens]),
    ]


def _together(trip: Trip, rows: Sequence[Rows]) -> None:
    """Write rows of several tables, none of which another statement here reads: few of each by one statement."""
    there = [(sql, values) for sql, values in rows if values]
    if any(len(values) > (MANY_WORDS if sql == WORDS else MANY) for sql, values in there):
        for sql, values in there:
            _many(trip, sql, values, MANY_WORDS if sql == WORDS else MANY)
    elif there:
        *first, last = (sql for sql, _ in there)
        parts = ", ".join(f"part_{n} AS ({sql})" for n, sql in enumerate(first))
        told = [value for _, values in there for value in columns(values)]
        trip.ask(f"WITH {parts} {last}" if parts else last, told)


def _erase(trip: Trip, plan: Plan, words: list[tuple[int, int, int, int]]) -> None:
    gone = [(realm, row) for row, (realm, _) in plan.gone.items()]
    for sql in (EMPTIED, UNTOLD, UNWRITTEN):
        _among(trip, sql, gone)
    _among(trip, UNSAID, [(realm, row, term) for realm, row, term, _ in words], MANY_WORDS)
    each = [(row, realm, record) for row, (realm, record) in plan.gone.items()]
    _among(trip, UNLABELLED, [(realm, kept(label), row) for row, realm, r in each for label in r.labels])
    _among(trip, UNLINKED, [(realm, kept(link.target), row) for row, realm, r in each for link in r.links])
    ids = [(realm, kept(ref.id)) for ref, realm in plan.erased.items()]
    _among(trip, UNRECALLED, ids)
    _many(trip, UNLETTERED, ids)
    trip.ask(ERASED, (sorted(set(plan.erased.values())),))


def _put_aside(trip: Trip, plan: Plan) -> None:
    """Remove the letters that were answered or are written anew, and write those; one about what is gone is left out.

    A letter that was answered is named by its line alone, whosever it is, so here all are seen.
    """
    if plan.letters:
        trip.ask(ALL)
        _many(trip, ANSWERED, [(kept(follower), seq) for follower, seq in plan.letters])
        trip.ask(ALL_NO_MORE)
    new = [
        (
            *(letter.change.seq, letter.follower, letter.tries, rows.stamp(letter.at), letter.error),
            *(*letter.change.scope.realm, letter.change.id),
        )
        for letter in plan.letters.values()
        if letter
    ]
    _many(trip, LETTERS, [bound(each) for each in new])


def _log(trip: Trip, plan: Plan) -> Answer:
    count = len(plan.lines)
    lines = [
        (
            *(rows.stamp(line.at), realm, line.id, line.version, line.kind),
            *(line.scope.user or "", line.scope.agent or "", line.scope.session or ""),
            msgspec.json.encode(line.note).decode() if line.note is not None else None,
        )
        for realm, line in plan.lines
    ]
    last = {realm: n for n, (realm, _) in enumerate(plan.lines, 1)}
    grown = Counter(version.realm for version in plan.versions.values())
    grown.subtract(Counter(realm for realm, _ in plan.gone.values()))
    its = columns([(realm, grown[realm], n) for realm, n in last.items()])
    return trip.ask(LINES, (count, count, *columns([bound(line) for line in lines]), *its))


def _many(trip: Trip, sql: str, values: Sequence[Sequence[Any]], size: int = MANY) -> None:
    for start in range(0, len(values), size):
        trip.ask(sql, columns(values[start : start + size]))


def _among(trip: Trip, sql: str, values: Sequence[Sequence[Any]], size: int = MANY) -> None:
    """The same for a statement that is told which realms, the first of each row's values, it is about."""
    for start in range(0, len(values), size):
        some = values[start : start + size]
        trip.ask(*about(sql, [realm for realm, *_ in some], columns(some)))


def columns(values: Iterable[Sequence[Any]]) -> list[Any]:
    """Return rows as columns, for a statement that takes an array of each."""
    return [array(column) for column in zip(*values, strict=True)]


async def _words(versions: dict[int, Version]) -> list[tuple[int, int, int, int]]:
    """Return (realm, row, term, how often) for each term of the versions."""
    if len(versions) > AT_ONCE:
        return await asyncio.to_thread(_words_of, versions)
    return _words_of(versions)


def _words_of(versions: dict[int, Version]) -> list[tuple[int, int, int, int]]:
    return [
        (version.realm, row, term, often)
        for row, version in versions.items()
        for term, often in terms(version.record.body, at_if_known(version.record, version.known.since))
    ]


def terms(body: Body, at: datetime | None) -> list[tuple[int, int]]:
    """Return the numbers of the terms by which a record with this body, said then, is found; and how often it says
    each.
    """
    counted = Counter(map(term_number, language.searched_terms(body, at)))
    return [(term, min(often, OFTEN_MAX)) for term, often in counted.items()]
