"""Narrows what callers hand in to our own types, once, at the door. Inside, types are trusted.

Every refusal is `Invalid` and says what would be right.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any, TypedDict, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .config import did_you_mean
from .errors import Invalid
from .kinds import KINDS, Chunk, Message
from .query import Hit, Place, Query
from .record import ACTIVE, ARCHIVED, Link, Record, Scope

T = TypeVar("T")

TEXT_MAX = 16 * 1024 * 1024  # bytes of UTF-8 in one text
NAME_MAX = 200  # characters of an id, a user, a label, …
LABELS_MAX = 100
METADATA_MAX = 256 * 1024  # characters of all its strings and keys, and one for every value
DEPTH_MAX = 32
LIMIT_MAX = 10_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Moment = datetime | date | str


class Whose(TypedDict, total=False):
    """Whose memory a call is about. What is not named is left open: what is remembered so is everybody's, what is asked
    so is about everybody. `Query` has the rule, with an example.
    """

    user: str | None
    agent: str | None
    session: str | None
    space: str | None
    tenant: str | None


class Which(Whose, total=False):
    """Which of it; every filter holds for every way of finding."""

    kinds: str | Iterable[str] | None
    labels: str | Iterable[str] | None  # bears every one of them
    folder: str | None
    outside: str | Iterable[str] | None  # in none of these folders, nor below one of them
    since: Moment | None  # said at or after
    until: Moment | None  # said before
    as_of: Moment | None  # what was true then
    known_at: Moment | None  # what was believed then
    archived: bool  # what is archived too
    ended: bool  # what has ended, was superseded or retracted too
    pinned: bool | None
    importance_min: int | None
    metadata: Mapping[str, Any] | None
    sources: str | Iterable[str] | None
    conversation: str | None  # the id of the record that it is part of
    shared: bool  # with user="ana": hers and what names no user (default); False: hers alone


class Given(Whose, total=False):
    """What may be said of something when it is remembered."""

    labels: str | Iterable[str] | None
    folder: str | None
    importance: int | None
    pinned: bool
    metadata: Mapping[str, Any] | None
    source: str | None
    ends: Moment | None  # when it stops being true


def check_names(call: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise Invalid(f"{call}() takes no argument {name!r}{did_you_mean(name, known)}")


def scope_of(given: Mapping[str, Any], default: Scope, require: frozenset[str]) -> Scope:
    """Return the scope named; levels that are not named are left open, walls are the memory's own."""
    names = {level: named(level, given.get(level)) for level in Whose.__annotations__}
    for level in sorted(require):
        if names[level] is None:
            raise Invalid(f"this memory requires {level!r}: name it in every call, as {level}=…")
    return Scope(
        tenant=names["tenant"] or default.tenant,
        space=names["space"] or default.space,
        user=names["user"],
        agent=names["agent"],
        session=names["session"],
    )


def query_of(given: Mapping[str, Any], scope: Scope, zone: tzinfo | None, **more: Any) -> Query:
    for name in ("kinds", "labels", "sources", "metadata", "outside"):
        if given.get(name) is not None and not given[name]:
            raise Invalid(f"{name} is empty: leave it out where it does not matter")
    kinds = names_of("kinds", given.get("kinds"))
    for kind in kinds or ():
        if kind not in KINDS:
            raise Invalid(f"no kind {kind!r}{did_you_mean(kind, KINDS)}; there are: {', '.join(KINDS)}")
    labels, sources = names_of("labels", given.get("labels")), names_of("sources", given.get("sources"))
    outside = [folder_of(name) for name in names_of("outside", given.get("outside"))]
    conversation = named("conversation", given.get("conversation"))
    return Query(
        scope=scope,
        shared=flag("shared", given.get("shared", True)),
        kinds=frozenset(kinds) if kinds else None,
        labels=frozenset(labels) if labels else None,
        sources=frozenset(sources) if sources else None,
        folder=folder_of(given.get("folder")),
        outside=frozenset(name for name in outside if name) or None,
        part_of=frozenset({conversation}) if conversation else None,
        statuses=frozenset({ACTIVE, ARCHIVED} if flag("archived", given.get("archived", False)) else {ACTIVE}),
        ended=flag("ended", given.get("ended", False)),
        pinned=None if given.get("pinned") is None else flag("pinned", given["pinned"]),
        importance_min=None if given.get("importance_min") is None else importance_of(given["importance_min"]),
        metadata=tuple(scalars(given.get("metadata"))),
        since=moment("since", given.get("since"), zone),
        until=moment("until", given.get("until"), zone),
        valid_at=moment("as_of", given.get("as_of"), zone),
        known_at=moment("known_at", given.get("known_at"), zone),
        **more,
    )


def place_of(value: Any) -> Place | str | None:
    """Return where a page ended; an id stays one, for whoever can look it up."""
    if isinstance(value, Record):
        return Place.of(value)
    if value is None or isinstance(value, Place | str):
        return named("after", value) if isinstance(value, str) else value
    raise Invalid(f"after must be a record, its place or its id, not {type(value).__name__}")


def text_of(value: Any, name: str = "text") -> str:
    if not isinstance(value, str):
        raise Invalid(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise Invalid(f"{name} is empty: there is nothing to remember in it or to look for")
    if len(encoded(value, name)) > TEXT_MAX:
        raise Invalid(f"{name} is longer than {TEXT_MAX // 1024**2} MiB: split it, or keep it as a document")
    return plain(value)


def plain(value: str) -> str:
    """Return the string itself, where the caller has a kind of string of their own (an enumeration's, say)."""
    return value if type(value) is str else str.__str__(value)


def encoded(value: str, name: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Invalid(f"{name} holds a lone surrogate at {error.start}, which no encoding can store") from None


def named(what: str, value: Any) -> str | None:
    """Return a name as given; None stays None. Empty and wildcard names are refused: they never mean `everyone`."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(f"{what} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise Invalid(f"{what} is empty; leave it out to leave it open")
    if not value.strip("*%?"):
        raise Invalid(f"{what} {value!r} looks like a wildcard; there are none: leave it out to leave it open")
    if len(value) > NAME_MAX:
        raise Invalid(f"{what} is longer than {NAME_MAX} characters")
    if _CONTROL.search(value):
        raise Invalid(f"{what} holds a control character")
    encoded(value, what)
    return plain(value)


def id_of(value: Any) -> str:
    """Return the id of a record as given; it cannot be left open, as other names can."""
    id = named("id", value)
    if id is None:
        raise Invalid("id must be a string")
    return id


def ids_of(value: Any) -> tuple[str, ...]:
    """Return the ids in the order given, each once; one string is one id."""
    if not isinstance(value, str | Iterable) or isinstance(value, bytes | Mapping):
        raise Invalid(f"ids must be a string or a list of strings, not {type(value).__name__}")
    ids = tuple(dict.fromkeys(id_of(id) for id in ([value] if isinstance(value, str) else value)))
    if not ids:
        raise Invalid("no id is named")
    return ids


def names_of(what: str, value: Any) -> tuple[str, ...]:
    """Return the names sorted, each once; one string is one name."""
    if value is None:
        return ()
    if not isinstance(value, str | Iterable) or isinstance(value, bytes | Mapping):
        raise Invalid(f"{what} must be a string or a list of strings, not {type(value).__name__}")
    found = {named(what, item) for item in ([value] if isinstance(value, str) else value)}
    if None in found:
        raise Invalid(f"{what} holds None where a string is due")
    if len(found) > LABELS_MAX:
        raise Invalid(f"more than {LABELS_MAX} {what}")
    return tuple(sorted(name for name in found if name is not None))


def levels_of(value: Any) -> tuple[str, ...]:
    """Return the levels that every call must name."""
    levels = names_of("require", [level for level in value if level] if isinstance(value, list) else value)
    for level in levels:
        if level not in Whose.__annotations__:
            raise Invalid(f"require names {level!r}, which is no level of a scope: {', '.join(Whose.__annotations__)}")
    return levels


def links_of(value: Any) -> tuple[Link, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise Invalid(f"links must be a list of Link, not {type(value).__name__}")
    links = tuple(value)
    for link in links:
        if not isinstance(link, Link):
            raise Invalid(f"links must be a list of Link, not of {type(link).__name__}")
        if named("a link's role", link.role) is None or named("a link's target", link.target) is None:
            raise Invalid("a link needs a role and a target")
    return links


def records_of(call: str, value: Any) -> Iterator[Record]:
    """Yield the records, refusing where it stands what is none, or what nobody could have remembered."""
    return map(_sound, _each(call, "records", "`simonides.importers.read` yields", Record, value))


def hits_of(value: Any) -> Iterator[Hit]:
    """Yield the hits, refusing what is none where it stands."""
    return _each("pack", "hits", "`recall` returns", Hit, value)


def _each(call: str, what: str, source: str, kind: type[T], value: Any) -> Iterator[T]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise Invalid(f"{call}() takes {what}, as {source} them, not {type(value).__name__}")
    for item in value:
        if not isinstance(item, kind):
            raise Invalid(f"{call}() takes {what}, not {type(item).__name__}")
        yield item


def _sound(record: Record) -> Record:
    """Return the record if a memory would take it from anybody."""
    scope = record.scope
    for name, value in (("tenant", scope.tenant), ("space", scope.space), ("id", record.id)):
        if named(name, value) is None:
            raise Invalid(f"a record needs {name}")
    for level, mine in scope.levels:
        named(level, mine)
    if isinstance(record.body, Message | Chunk):
        text_of(record.text)
    elif not isinstance(record.text, str):
        raise Invalid(f"the text of a {record.kind} must be a string, not {type(record.text).__name__}")
    said = ((part.name, getattr(record.body, part.name)) for part in dataclasses.fields(record.body))
    for name, value in (*said, ("part_of", record.part_of), ("folder", record.folder), ("source", record.source)):
        if isinstance(value, str):
            encoded(value, name)
    links_of(record.links)
    return dataclasses.replace(record, labels=names_of("labels", record.labels), metadata=metadata_of(record.metadata))


def folder_of(value: Any) -> str | None:
    folder = named("folder", value)
    if folder is None:
        return None
    parts = folder.strip("/").split("/")
    if any(not part.strip() or part in {".", ".."} for part in parts):
        raise Invalid(f"folder {folder!r} must be names joined by single slashes, like work/bridge")
    return "/".join(parts)


def importance_of(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10:
        raise Invalid(f"importance must be a whole number from 1 to 10, not {value!r}")
    return value


def limit_of(value: Any, most: int = LIMIT_MAX) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise Invalid(f"limit must be a whole number from 1 to {most}, not {value!r}")
    return value


def budget_of(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Invalid(f"budget must be a number of tokens above 0, not {value!r}")
    return value


def number_of(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Invalid(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


def relevance_of(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Invalid(f"min_relevance must be a number from 0 to 1, not {value!r}")
    return float(value)


def line_of(after: Any, name: str = "after") -> int:
    """Return the number of a line of the log; 0 is before the first."""
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 2**63:
        raise Invalid(f"{name} must be the number of a line of the log, not {after!r}")
    return after


def one_of(name: str, value: Any, choices: Mapping[str, T]) -> T:
    """Return what goes by this name among the choices."""
    if not isinstance(value, str) or value not in choices:
        raise Invalid(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return choices[value]


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"{name} must be True or False, not {value!r}")
    return value


def zone_of(name: str | None) -> tzinfo | None:
    """Return the named zone; None stands for the system's own, whose rules `moment` asks for each date."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(f"no time zone {name!r}; use an IANA name such as Europe/Lisbon") from error


def moment(name: str, value: Any, zone: tzinfo | None = None) -> datetime | None:
    """Return a time in UTC. A date alone is the beginning of that day in the zone; a naive time is refused."""
    if value is None:
        return None
    if isinstance(value, str):
        value = _parsed(name, value)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise Invalid(f"{name} has no time zone: write an offset such as {value.isoformat()}+00:00")
        return _in_utc(name, value)
    if isinstance(value, date):
        midnight = datetime.combine(value, time())
        return _in_utc(name, midnight.replace(tzinfo=zone) if zone else midnight)
    raise Invalid(f"{name} must be a datetime with a time zone or an ISO 8601 string, not {type(value).__name__}")


def _parsed(name: str, value: str) -> datetime | date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise Invalid(f"{name} {value!r} is not ISO 8601, like 2026-05-02 or 2026-05-02T09:00:00+01:00") from None


def _in_utc(name: str, value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        raise Invalid(f"{name} {value} lies outside the years 1 to 9999") from None


def metadata_of(value: Any) -> dict[str, Any]:
    """Return a plain JSON copy of it, so that later changes of the caller's object change nothing here."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(f"metadata must be a dict, not {type(value).__name__}")
    room = [METADATA_MAX]
    plain = _plain(value, "metadata", room, 0)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any, path: str, room: list[int], depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise Invalid(f"{path} is nested deeper than {DEPTH_MAX} levels")
    room[0] -= 1 + (len(value) if isinstance(value, str) else 0)
    if room[0] < 0:
        raise Invalid(f"metadata is larger than {METADATA_MAX // 1024} KiB: keep it elsewhere and refer to it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        encoded(value, path)
        return plain(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise Invalid(f"{path} is an integer beyond 64 bits: write it as a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"{path} is {value}, which JSON cannot hold")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, path, room): _plain(item, f"{path}.{key}", room, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, f"{path}[{place}]", room, depth + 1) for place, item in enumerate(value)]
    raise Invalid(f"{path} is a {type(value).__name__}, which JSON cannot hold")


def _key(key: Any, path: str, room: list[int]) -> str:
    if not isinstance(key, str):
        raise Invalid(f"{path} has the key {key!r}: keys must be strings")
    plain = _plain(key, path, room, 0)
    assert isinstance(plain, str)
    return plain


def scalars(value: Any) -> Iterable[tuple[str, str | int | float | bool | None]]:
    for key, item in metadata_of(value).items():
        if isinstance(item, dict | list):
            raise Invalid(f"metadata filter {key!r} must be a single value, not {type(item).__name__}")
        yield key, item
