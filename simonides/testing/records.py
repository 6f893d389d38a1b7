"""Records to test with: small makers for stories, and hypothesis strategies for rules.

The strategies draw from few names on purpose, so that what is drawn meets: two records of one session, two users of one
name on both sides of a wall, a query and what it asks for. The times lie years away from the present, so that nothing
begins or ends while a test runs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from ..kinds import Chunk, Conversation, Document, Entity, Fact, Message, Note
from ..query import Query
from ..record import ACTIVE, ARCHIVED, NEVER, TICK, Body, Link, Record, Scope, Span, new_id

ANA, BO = Scope(tenant="acme", user="ana"), Scope(tenant="acme", user="bo")
ACME = Scope(tenant="acme")
TEAM = Scope(tenant="acme", space="team", user="ana")
OTHER = Scope(tenant="other", user="ana")

EVERYTHING: dict[str, Any] = {"statuses": None, "any_time": True, "limit": 10**9}  # of a scope, every version


def said(text: str, scope: Scope = ANA, **more: Any) -> Record:
    return Record(scope=scope, body=Message(text=text), **more)


def fact(text: str, scope: Scope = ANA, **more: Any) -> Record:
    return Record(scope=scope, body=Fact(text=text), **more)


def entity(name: str, scope: Scope = ANA, **more: Any) -> Record:
    return Record(scope=scope, body=Entity(text=name, name=name), **more)


def session(name: str, scope: Scope = ANA, **more: Any) -> Record:
    return Record(scope=scope, body=Conversation(text=name, session=name), **more)


def every(scope: Scope, **more: Any) -> Query:
    """Return the query for every version that the scope sees, whatever the clocks and the status say."""
    return Query(scope=scope, **(EVERYTHING | more))


# -- strategies: the parts -------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # no encoding can store a lone surrogate
WORDS = ("bridge", "Bridges", "café", "harbour", "running", "Lisbon's", "北京烤鸭", "東京タワー", "서울에서", "naïve")
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)

TIMES = (
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2019, 3, 31, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2021, 6, 1, 12, 0, 0, 1, tzinfo=UTC),
    datetime(2021, 6, 1, 12, 0, 0, 2, tzinfo=UTC),
    datetime(2099, 1, 1, tzinfo=UTC),
)
times = st.sampled_from(TIMES)
moments = st.builds(lambda at, ticks: at + ticks * TICK, times, st.integers(-1, 1))
_TWO_TIMES = sorted(itertools.combinations(sorted(TIMES), 2))
spans = st.one_of(
    st.just(Span()),
    st.just(NEVER),
    times.map(lambda at: Span(since=at)),
    times.map(lambda at: Span(until=at)),
    st.sampled_from(_TWO_TIMES).map(lambda both: Span(*both)),
)

IDS = ("a", "b", "B", "ä", "a-1", "%", "𝔞", "～")
ids = st.sampled_from(IDS)
ROLES, LABELS = ("about", "derived_from"), ("home", "work", "Work", 'a "quoted" one', "50%", "仕事")
FOLDERS = ("work", "work/bridge", "workshop", "work0", "Work", "work/bridge/2026", "w_rk", "仕事")
SOURCES = ("caller", "import:chatgpt")
links = st.builds(Link, st.sampled_from(ROLES), ids)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, 1.0, 0.5, 2.0**60, "", "1", "true", "null"])
)
METADATA_KEYS = ("city", "a.b", "a", "$", 'qu"ote', "", "naïve", "a[0]", "back\\slash")
json = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
metadata = st.dictionaries(st.sampled_from(METADATA_KEYS), scalars | json, max_size=3)


# -- strategies: the wholes ------------------------------------------------------------------------------------------


def scopes(
    tenants: Sequence[str] = ("acme", "other"), spaces: Sequence[str] = ("main", "team")
) -> st.SearchStrategy[Scope]:
    level = st.sampled_from([None, "ana", "bo"])
    walls = {"tenant": st.sampled_from(tenants), "space": st.sampled_from(spaces)}
    return st.builds(Scope, **walls, user=level, agent=level, session=level)


def bodies(text: st.SearchStrategy[str] = sentences) -> st.SearchStrategy[Body]:
    """Return bodies of every kind."""
    names = st.sampled_from(["main", "Main", "lisbon", "bo"])
    return st.one_of(
        st.builds(Conversation, text=text, session=names | st.just("")),
        st.builds(Message, text=text, role=st.sampled_from(["user", "assistant"]), name=st.none() | names),
        st.builds(Note, text=text),
        st.builds(Fact, text=text, predicate=names),
        st.builds(Entity, text=text, name=names, type=names),
        st.builds(Document, text=text, name=names, digest=names),
        st.builds(Chunk, text=text, place=names | st.just("")),
    )


def records(
    scope: st.SearchStrategy[Scope] | None = None, body: st.SearchStrategy[Body] | None = None, **more: Any
) -> st.SearchStrategy[Record]:
    """Return first versions of records that differ in everything a record can say."""
    parts: dict[str, Any] = {
        "id": ids,
        "part_of": st.none() | ids,
        "links": st.lists(links, max_size=3).map(tuple),
        "valid": spans,
        "source": st.sampled_from(SOURCES),
        "labels": st.frozensets(st.sampled_from(LABELS), max_size=3).map(lambda some: tuple(sorted(some))),
        "folder": st.none() | st.sampled_from(FOLDERS),
        "importance": st.integers(1, 10),
        "pinned": st.booleans(),
        "status": st.sampled_from([ACTIVE, ACTIVE, ARCHIVED]),
        "metadata": metadata,
    }
    parts |= {"scope": scopes() if scope is None else scope, "body": bodies() if body is None else body}
    return st.builds(Record, **(parts | more))


@st.composite
def histories(draw: st.DrawFn, /, record: st.SearchStrategy[Record] | None = None) -> tuple[Record, ...]:
    """Return the versions of one record with their clocks, as an export holds them: the last is believed still."""
    first = draw(records() if record is None else record)
    since = sorted(draw(st.lists(moments, min_size=1, max_size=3, unique=True)))
    until = [*since[1:], None]
    versions = [first]
    for _ in since[1:]:
        versions.append(_revised(versions[-1], draw(records(st.just(first.scope)))))
    clocks = itertools.starmap(Span, zip(since, until, strict=True))
    return tuple(dataclasses.replace(version, known=known) for version, known in zip(versions, clocks, strict=True))


def archives() -> st.SearchStrategy[list[tuple[Record, ...]]]:
    """Return what a whole store may hold: histories of records, no two of which have one name."""
    unique = (lambda versions: versions[0].ref, lambda versions: bears(versions[-1]))
    return st.lists(histories(), max_size=6, unique_by=unique)


def _revised(record: Record, other: Record) -> Record:
    names = ("body", "part_of", "links", "valid", "source", "labels", "folder", "importance", "pinned", "status")
    return record.revise(**{name: getattr(other, name) for name in (*names, "metadata")})


def bears(record: Record) -> tuple[Any, ...]:
    """Return what no other live record may bear: the natural name, or for lack of one the record's own."""
    return (record.scope, record.kind, record.body.key) if record.body.key is not None else (record.ref,)


NARROWING: dict[str, Any] = {
    "shared": st.booleans(),
    "ids": st.frozensets(ids),
    "kinds": st.frozensets(st.sampled_from(["conversation", "message", "note", "fact", "entity", "document", "chunk"])),
    "keys": st.frozensets(st.sampled_from(["main", "Main", "lisbon", "lisbon:lisbon", "bo:main"])),
    "part_of": st.frozensets(ids),
    "linked": st.tuples(st.sampled_from(ROLES), st.frozensets(ids)),
    "labels": st.frozensets(st.sampled_from(LABELS), max_size=2),
    "folder": st.sampled_from(FOLDERS),
    "outside": st.frozensets(st.sampled_from(FOLDERS), max_size=2),
    "statuses": st.none() | st.frozensets(st.sampled_from([ACTIVE, ARCHIVED])),
    "pinned": st.booleans(),
    "importance_min": st.integers(1, 10),
    "sources": st.frozensets(st.sampled_from(SOURCES)),
    "metadata": st.lists(st.tuples(st.sampled_from(METADATA_KEYS), scalars), min_size=1, max_size=2).map(tuple),
    "since": moments,
    "until": moments,
    "valid_at": moments,
    "known_at": moments,
    "any_time": st.booleans(),
    "newest": st.booleans(),
}


@st.composite
def queries(draw: st.DrawFn, /, scope: st.SearchStrategy[Scope] | None = None, **more: Any) -> Query:
    """Return queries that narrow by at most four things, so that most of them find something."""
    names = draw(st.lists(st.sampled_from(sorted(NARROWING.keys() - more.keys())), max_size=4, unique=True))
    chosen: dict[str, Any] = {"limit": 10**9, "scope": draw(scopes() if scope is None else scope)}
    chosen |= {name: draw(strategy) for name, strategy in NARROWING.items() if name in names}
    return Query(**(chosen | {name: draw(strategy) for name, strategy in more.items()}))


def fresh(record: Record) -> Record:
    """Return the record under an id that nothing else has."""
    return dataclasses.replace(record, id=new_id())


def in_order(found: Sequence[Record], *, newest: bool = False) -> list[Record]:
    """Return records in the order that a store answers in: by id and version, or by time said, the latest first."""
    if newest:
        return sorted(found, key=lambda record: (record.at or TIMES[0], record.id, record.version), reverse=True)
    return sorted(found, key=lambda record: (record.id, record.version))
