"""What is asked for when a key is made becomes a `Grant`. Every refusal is `Invalid` and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo

from .access import Permit
from .arguments import Moment, moment, named, names_of
from .directory import Grant
from .errors import Invalid

PERMITS = "read,write"  # what a key may do when nobody says
RATE_MAX = 1_000_000  # calls a minute

_LONG = re.compile(r"([0-9]{1,6})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}


def grant_of(
    name: str,
    *,
    tenant: str,
    at: datetime,
    spaces: str | Iterable[str] | None = None,
    user: str | None = None,
    permits: str | Iterable[str] = PERMITS,
    expires: Moment | None = None,
    rate: int | None = None,
    zone: tzinfo | None = None,
) -> Grant:
    """Return the grant.

    Spaces and permits are a list, or one text with commas. `expires` is a time to come, or how long from `at`: 12h,
    90d, 2w, 1y. `rate` is in calls a minute.
    """
    called, wall = named("name", name), named("tenant", tenant)
    if called is None or wall is None:
        raise Invalid("a key needs a name, and a tenant")
    may = Permit.of(_listed("permits", permits))
    if not may:
        raise Invalid(f"a key that may do nothing opens nothing: name permits, such as {PERMITS}")
    return Grant(
        name=called,
        tenant=wall,
        spaces=_spaces(spaces),
        user=named("user", user),
        permits=may,
        rate=_rate(rate),
        expires=_expiry(expires, at, zone),
    )


def _spaces(given: str | Iterable[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    spaces = frozenset(_listed("spaces", given))
    if not spaces:
        raise Invalid("spaces is empty; leave it out for every space of the tenant")
    return spaces


def _listed(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    return names_of(what, [part.strip() for part in given.split(",")] if isinstance(given, str) else given)


def _rate(given: int | None) -> int | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= RATE_MAX):
        raise Invalid(f"rate must be a number of calls a minute, from 1 to {RATE_MAX}; leave it out for the server's")
    return given


def _expiry(given: Moment | None, at: datetime, zone: tzinfo | None) -> datetime | None:
    found = _LONG.fullmatch(given.strip()) if isinstance(given, str) else None
    try:
        until = at + int(found[1]) * _UNITS[found[2]] if found else moment("expires", given, zone)
    except Invalid as error:
        raise Invalid(f"{error.message}; or how long it is: 12h, 90d, 2w, 1y") from None
    except OverflowError:
        raise Invalid(f"expires {given!r} is beyond the last year there is") from None
    if until is not None and until <= at:
        raise Invalid(f"expires {given!r} is over already: name a time to come, or how long, like 90d")
    return until
