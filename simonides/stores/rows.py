"""Records as rows, and in SQL what `Query.matches` says in Python: what every store that speaks SQL shares.

What one engine says otherwise than another is its `Dialect`. Values stand where the SQL has a `?`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from ..kinds import KINDS
from ..query import Place, Query
from ..record import Body, Link, Record, Scope, Span, at_if_known, now
from ..store import Change

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
OPEN = Span()
TALKS = frozenset({"conversation"})

By = Mapping[str, Sequence[str]]  # values of levels of the scope
NOTHING: By = {}

COLUMNS = (
    *("realm", "id", "version", "user", "agent", "session", "kind", "key", "part_of", "folder", "importance"),
    *("pinned", "status", "source", "at", "valid_since", "valid_until", "known_since", "known_until"),
    *("labels", "links", "metadata", "body", "text", "begun"),
)
SELECT = ", ".join(f"r.{column}" for column in COLUMNS)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_FIELDS = {kind: tuple(f.name for f in dataclasses.fields(cls) if f.name != "text") for kind, cls in KINDS.items()}


def stamp(at: datetime | None) -> int | None:
    return None if at is None else (at - EPOCH) // MICROSECOND


def time(stamp: int | None) -> datetime | None:
    return None if stamp is None else EPOCH + timedelta(microseconds=stamp)


def moment(stamp: int) -> datetime:
    return EPOCH + timedelta(microseconds=stamp)


def as_row(record: Record, realm: int, known: Span) -> tuple[Any, ...]:
    """Return the values of COLUMNS for a version that is known for that time."""
    scope, valid = record.scope, record.valid
    return (
        *(realm, record.id, record.version, scope.user or "", scope.agent or "", scope.session or ""),
        *(record.kind, record.body.key, record.part_of, record.folder, record.importance),
        *(int(record.pinned), record.status, record.source, stamp(at_if_known(record, known.since))),
        *(stamp(valid.since), stamp(valid.until), stamp(known.since), stamp(known.until)),
        _json(record.labels),
        _json([(link.role, link.target) for link in record.links]),
        _json(record.metadata),
        _json(_rest(record.body)),
        record.text,
        stamp(record.begun),
    )


def as_record(row: tuple[Any, ...], scope: Scope) -> Record:
    """Return the record of a row of COLUMNS; the scope gives its walls."""
    (_, id, version, user, agent, session, kind, _, part_of, folder, importance, pinned, status, source, _,
     valid_since, valid_until, known_since, known_until, labels, links, metadata, body, text, begun) = row  # fmt: skip
    return Record(
        scope=_scope(scope.tenant, scope.space, user, agent, session),
        body=KINDS[kind](text=text, **(_decode(body) if body else {})),
        id=id,
        version=version,
        part_of=part_of,
        links=tuple(Link(*link) for link in _decode(links)) if links else (),
        valid=OPEN if valid_since is None and valid_until is None else Span(time(valid_since), time(valid_until)),
        known=Span(time(known_since), time(known_until)),
        source=source,
        labels=tuple(_decode(labels)) if labels else (),
        folder=folder,
        importance=importance,
        pinned=bool(pinned),
        status=status,
        metadata=_decode(metadata) if metadata else {},
        begun=time(begun),
    )


def as_change(row: tuple[Any, ...]) -> Change:
    """Return the line of the log of a row: seq, at, id, version, kind, note, and the five names of the scope."""
    seq, at, id, version, kind, note, tenant, space, user, agent, session = row
    scope = _scope(tenant, space, user, agent, session)
    return Change(seq, moment(at), id, version, kind, scope, _decode(note) if note else None)


def known(record: Record, at: datetime) -> Span:
    """Return the clock that a restored version gets: its own, if it has one."""
    return record.known if record.known.since else Span(at, record.known.until)


@lru_cache(maxsize=10_000)
def _scope(tenant: str, space: str, user: str, agent: str, session: str) -> Scope:
    return Scope(tenant=tenant, space=space, user=user or None, agent=agent or None, session=session or None)


def _rest(body: Body) -> dict[str, Any]:
    return {name: getattr(body, name) for name in _FIELDS[type(body).__name__.lower()]}


def _json(value: Any) -> str | None:
    return _encode(value).decode() if value else None


Condition = tuple[str, Sequence[Any]]  # SQL and its values


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an engine says what SQL has no one way to say."""

    among: Callable[[str, Collection[str]], Condition]  # the column is one of these
    linked: Callable[[int, str, Collection[str]], Condition]  # in that realm: has a link of that role to one of these
    bears: Callable[[int, str, bool], Condition]  # in that realm: bears the label; True: rows are given
    holds: Callable[[str, Any], Condition]  # the metadata has this key and value at its top
    unled: str = ""  # what before a column keeps the engine from going by it


def where(
    query: Query, realm: int, dialect: Dialect, *, of_given: bool = False, by: By = NOTHING
) -> tuple[str, list[Any]]:
    """Return the condition on `records r` and its values; it begins with the realm's column.

    With `of_given` it is for rows that are given: whether each bears a label is looked up, and not who bears it. `by`
    names values of levels of the scope; the engine goes by the first level that is named, and by no level otherwise.
    """
    parts, values = ["r.realm = ?"], list[Any]([realm])

    def add(sql: str, *more: Any) -> None:
        parts.append(sql)
        values.extend(more)

    def say(condition: Condition) -> None:
        add(condition[0], *condition[1])

    for level, names in {**owners(query), **by}.items():
        way = "" if level == next(iter(by), None) else dialect.unled
        add(f"{way}r.{level} = ?" if len(names) == 1 else f"{way}r.{level} IN (?, ?)", *names)
    listed = {"id": query.ids, "kind": query.kinds, "key": query.keys, "part_of": query.part_of}
    for column, wanted in (listed | {"status": query.statuses, "source": query.sources}).items():
        if wanted is not None:
            say((f"r.{column} = ?", list(wanted)) if len(wanted) == 1 else dialect.among(column, wanted))
    if query.kinds == TALKS:
        parts.append("r.kind = 'conversation'")  # as a literal: there is an index of these alone
    if query.linked is not None:
        say(dialect.linked(realm, *query.linked))
    for label in sorted(query.labels or ()):
        say(dialect.bears(realm, label, of_given))
    if query.folder is not None:
        below = "r.folder >= ? AND r.folder < ? AND (r.folder = ? OR r.folder > ?)"  # the first half is the index's
        add(below, *(query.folder + end for end in ("", "0", "", "/")))
    for folder in sorted(query.outside or ()):
        column = f"{dialect.unled}r.folder"
        add(
            f"(r.folder IS NULL OR NOT ({column} = ? OR {column} > ? AND {column} < ?))",
            *(folder + end for end in ("", "/", "0")),
        )
    if query.pinned is not None:
        add("r.pinned = 1" if query.pinned else "r.pinned = 0")
    if query.importance_min is not None:
        add("r.importance >= ?", query.importance_min)
    for key, value in query.metadata:
        say(dialect.holds(key, value))
    if query.since is not None:
        add("r.at >= ?", stamp(query.since))
    if query.until is not None:
        add("r.at < ?", stamp(query.until))
    if not query.any_time:
        _in_time(add, query)
    return " AND ".join(parts), values


def owners(query: Query) -> dict[str, tuple[str, ...]]:
    """Return the values that each level may have, of those levels that the query names: its own, and the open one."""
    named = {level: mine for level, mine in query.scope.levels if mine is not None}
    return {level: (mine, "") if query.shared else (mine,) for level, mine in named.items()}


def levels(query: Query) -> list[tuple[str, tuple[str, ...]]]:
    """Return the levels of the scope to go by, the best first: the session where it alone is meant, and otherwise the
    user, because most records may bear no session, and no agent.
    """
    named = owners(query)
    best = ("user", "session", "agent") if query.shared else ("session", "user", "agent")
    return [(level, named[level]) for level in best if level in named]


def unless_narrower(query: Query) -> By:
    narrower = (query.ids, query.keys, query.part_of, query.linked, query.labels, query.folder)
    return {} if any(named is not None for named in narrower) else dict(levels(query)[:1])


def page(query: Query, after: Place) -> tuple[str, list[Any]]:
    """Return the condition and its values for what `Query.comes_after` says yes to."""
    if query.newest:
        return "(r.at, r.id, r.version) < (?, ?, ?)", [stamp(after.at), after.id, after.version]
    if query.any_time:
        return "(r.id, r.version) > (?, ?)", [after.id, after.version]
    return "r.id > ?", [after.id]


def _in_time(add: Any, query: Query) -> None:
    if query.valid_at is None:
        if not query.ended:
            add("(r.valid_until IS NULL OR r.valid_until > ?)", stamp(now()))
    else:
        add("(r.valid_since IS NULL OR r.valid_since <= ?)", stamp(query.valid_at))
        add("(r.valid_until IS NULL OR r.valid_until > ?)", stamp(query.valid_at))
    if query.known_at is None:
        add("r.known_until IS NULL")
    else:
        add("r.known_since <= ?", stamp(query.known_at))
        add("(r.known_until IS NULL OR r.known_until > ?)", stamp(query.known_at))
