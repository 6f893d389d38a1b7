"""What a store is asked for by id, again and again: the latest version of each, or every version."""

from __future__ import annotations

from collections.abc import Iterable

from .query import Query
from .record import Scope

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
