"""What a store is asked for by id, again and again: the latest version of each, or every version, and what follows it.

What is asked for and is not there raises NotFound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from .errors import NotFound
from .query import Place, Query
from .record import Record, Scope
from .store import Store

EVERYTHING = 10**9


def latest(scope: Scope, ids: Iterable[str]) -> Query:
    """Return the query for the latest version of each, archived, ended or retracted as it may be."""
    return Query(scope=scope, ids=frozenset(ids), statuses=None, ended=True, limit=EVERYTHING)


def every(scope: Scope, ids: Iterable[str]) -> Query:
    """Return the query for every version of each, the first one first."""
    return Query(scope=scope, ids=frozenset(ids), statuses=None, any_time=True, limit=EVERYTHING)


def walls(scope: Scope) -> Scope:
    """Return the scope of everything in the same realm."""
    return Scope(tenant=scope.tenant, space=scope.space)


async def existing(store: Store, scope: Scope, ids: Sequence[str]) -> dict[str, Record]:
    """Return the latest version of each, by id, in the order of the ids."""
    there = {record.id: record for record in await store.find(latest(scope, ids))}
    if missing := [id for id in ids if id not in there]:
        raise NotFound(f"no record {missing[0]!r} in this scope")
    return {id: there[id] for id in ids}


async def with_parts(store: Store, scope: Scope, ids: Sequence[str]) -> list[Record]:
    """Return the latest version of each and of everything that is part of it, the whole before its parts."""
    wholes = await existing(store, scope, ids)
    parts = Query(scope=scope, part_of=frozenset(ids), statuses=None, ended=True, limit=EVERYTHING)
    inside: dict[str, list[Record]] = {id: [] for id in ids}
    for part in await store.find(parts):
        inside[str(part.part_of)].append(part)
    return [record for id, whole in wholes.items() for record in (whole, *inside[id])]


async def page(store: Store, query: Query, after: Place | str | None) -> list[Record]:
    """Return the page behind a place; behind an id that is not there nobody knows what comes, and an empty page would
    be a lie.
    """
    if isinstance(after, str):
        there = dataclasses.replace(latest(query.scope, {after}), known_at=query.known_at)
        if not (last := await store.find(there)):
            raise NotFound(f"no record {after!r} in this scope to go on after")
        after = Place.of(last[0])
    return await store.find(dataclasses.replace(query, after=after))
