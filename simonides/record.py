"""The one thing this library keeps: a record. Start reading here.

A message, a note, a fact, a conversation and a document are all records. They differ in their `body` (see `kinds.py`);
they share everything else: whose they are, two clocks, links to other records, and what organises them.

A record is never edited. `revise()` makes its next version; the store keeps every version, so "what is true", "what was
true in June" and "what did we believe last Tuesday" are one query with another clock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

TENANT, SPACE = "default", "main"
ACTIVE, ARCHIVED = "active", "archived"
IMPORTANCE = 5  # of 1..10, what a record has when nobody says
TICK = timedelta(microseconds=1)  # the finest step of every clock here


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, from `since` up to but not including `until`; None is open."""

    since: datetime | None = None
    until: datetime | None = None

    def holds(self, at: datetime) -> bool:
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)

    def ended(self, at: datetime) -> bool:
        return self.until is not None and self.until <= at

    def ending(self, at: datetime) -> Span:
        return Span(self.since, at)


NEVER = Span(datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC))  # true at no time: retracted


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose memory this is.

    `tenant` is the wall and `space` what is shared and permitted inside it; both are always exact. `user`, `agent` and
    `session` narrow; a level left open (None) is shared by everyone on that level.
    """

    tenant: str = TENANT
    space: str = SPACE
    user: str | None = None
    agent: str | None = None
    session: str | None = None

    @property
    def realm(self) -> tuple[str, str]:
        """The walls: ids are unique, and indexes are kept, within one realm."""
        return self.tenant, self.space

    @property
    def levels(self) -> tuple[tuple[str, str | None], ...]:
        return ("user", self.user), ("agent", self.agent), ("session", self.session)

    def sees(self, other: Scope, *, shared: bool = True) -> bool:
        """True where the walls are the same, and every level named here is the same in the other.

        With `shared`, a level that the other leaves open is seen too; without, it must bear the very name.
        """
        return self.realm == other.realm and all(
            mine is None or mine == theirs or (shared and theirs is None)
            for (_, mine), (_, theirs) in zip(self.levels, other.levels, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow from the record that holds it: `role` says why, `target` is the id of a record in the same realm."""

    role: str  # about | subject | object | derived_from | supersedes | …
    target: str


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of a record among all: an id is only unique within its tenant and space."""

    tenant: str
    space: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a record says. Each kind of record is one subclass, in `kinds.py`."""

    text: str

    @property
    def key(self) -> str | None:
        """The natural name that only one live record of this kind and owner may bear."""
        return None

    @property
    def who(self) -> str | None:
        """Who says it, as a reader would name them."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Record:
    """One version of one thing remembered.

    `valid` is when it is true in the world, `known` when we believed it (the store keeps that clock). `importance` is
    1..10 as given; `pinned` and `status` ("active" or "archived") organise, they do not say what matters. Labels are
    sorted and unique. Metadata is JSON and nobody's business but the caller's.
    """

    scope: Scope
    body: Body
    id: str = field(default_factory=lambda: new_id())
    version: int = 1
    part_of: str | None = None
    links: tuple[Link, ...] = ()
    valid: Span = Span()
    known: Span = Span()
    source: str = "caller"
    labels: tuple[str, ...] = ()
    folder: str | None = None
    importance: int = IMPORTANCE
    pinned: bool = False
    status: str = ACTIVE
    metadata: Mapping[str, Any] = field(default_factory=dict)
    begun: datetime | None = None  # when its first version became known; None in the first version: that is known.since

    @property
    def kind(self) -> str:
        return type(self.body).__name__.lower()

    @property
    def text(self) -> str:
        return self.body.text

    @property
    def ref(self) -> Ref:
        return Ref(*self.scope.realm, self.id)

    @property
    def at(self) -> datetime | None:
        """When it was said or began to be true; failing that, when we learned of it."""
        return at_if_known(self, self.known.since)

    def revise(self, **changes: Any) -> Self:
        begun = self.begun or self.known.since
        return dataclasses.replace(self, version=self.version + 1, known=Span(), begun=begun, **changes)

    def targets(self, role: str) -> tuple[str, ...]:
        return tuple(link.target for link in self.links if link.role == role)

    def says_the_same(self, other: Record) -> bool:
        """True where both are one write: everything is equal but the clocks that the store keeps."""
        same = dataclasses.replace(self, known=other.known, begun=other.begun) == other
        return same and exactly(self.metadata, other.metadata)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """Return what a reader wants to see first; `dataclasses.asdict` has everything."""
        text = self.text if len(self.text) <= 80 else f"{self.text[:79]}…"
        return f"<{type(self.body).__name__} {text!r} id={self.id} version={self.version}>"


def at_if_known(record: Record, since: datetime | None) -> datetime | None:
    """Return `at` as it will be when this version has become known then."""
    said, learned = record.valid.since, record.begun or since
    return learned if said is None or record.valid == NEVER else said


def known_as(record: Record, known: Span) -> Record:
    """Return this version with that clock: every write makes one, and `dataclasses.replace` takes twice the time."""
    copy = object.__new__(Record)
    for name in _FIELDS:
        object.__setattr__(copy, name, getattr(record, name))
    object.__setattr__(copy, "known", known)
    return copy


_FIELDS = tuple(part.name for part in dataclasses.fields(Record))


def exactly(left: Any, right: Any) -> bool:
    """Return whether two values of JSON were written the same, to the type: true is not 1, and 1 is not 1.0.

    So a repeated write is told from another one. A filter is more generous, see `same` in `query.py`.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(exactly(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(exactly, left, right))
    return type(left) is type(right) and bool(left == right)


def revised_text(body: Body, text: str) -> Body:
    return dataclasses.replace(body, text=text)


class _Clock:
    """The last (millisecond, counter) given out, so that ids made by one process only ever grow."""

    def __init__(self) -> None:
        self._lock, self._ms, self._count = threading.Lock(), 0, 0

    def tick(self) -> tuple[int, int]:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            if ms > self._ms:
                self._ms, self._count = ms, int.from_bytes(os.urandom(2)) & 0x7FF
            else:
                self._count += 1
                if self._count > 0xFFF:
                    self._ms, self._count = self._ms + 1, 0
            return self._ms, self._count


_clock = _Clock()


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 6.2, method 1: a counter keeps the ids of one process in order)."""
    ms, count = _clock.tick()
    tail = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    return _uuid(ms, count, tail)


def _uuid(ms: int, count: int, tail: int) -> str:
    digits = f"{ms << 80 | 0x7 << 76 | count << 64 | 0x2 << 62 | tail:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def began(id: str) -> int | None:
    """Return the millisecond (Unix time) in which a UUIDv7 was made; None where the text is none."""
    found = re.fullmatch(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id)
    return int(found[1] + found[2], 16) if found else None


def marked_id(mark: str, number: int, *parts: str) -> str:
    """Return the same UUIDv7 for the same mark, number and parts; of a mark that is a UUIDv7 itself, in its order."""
    digest = hashlib.sha256("\x1f".join((mark, str(number), *parts)).encode("utf-8", "surrogatepass")).digest()
    tail = int.from_bytes(digest[2:10]) & 0x3FFF_FFFF_FFFF_FFFF
    ms = began(mark)
    if ms is None:
        return _uuid(0, int.from_bytes(digest[:2]) & 0xFFF, tail)
    return _uuid(ms + (number >> 12), number & 0xFFF, tail)


def stable_id(at: datetime | None, *parts: str) -> str:
    """Return the same UUIDv7 for the same time and parts, for what must not be kept twice (imports, conversations)."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    ms = max(0, int(at.timestamp() * 1000)) if at else 0
    tail = int.from_bytes(digest[2:10]) & 0x3FFF_FFFF_FFFF_FFFF
    return _uuid(ms, int.from_bytes(digest[:2]) & 0xFFF, tail)
