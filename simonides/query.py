"""What to look for. `Query.matches` is the meaning; every store must agree with it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .errors import Invalid
from .record import ACTIVE, Record, Scope, now


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a version stands among the others by the time it was said, and so where a page ended.

    The next page goes on behind it, whatever becomes of the record: revised, archived or erased. It prints as a short
    opaque text, for a link or a door, which `Place.read` takes back.
    """

    at: datetime  # Record.at, with its zone
    id: str
    version: int

    def __post_init__(self) -> None:
        if not (isinstance(self.at, datetime) and self.at.utcoffset() is not None):
            raise Invalid(f"a place needs a datetime with a time zone, not {self.at!r}")
        if not isinstance(self.id, str) or any("\ud800" <= character <= "\udfff" for character in self.id):
            raise Invalid(f"a place needs the id of a record, not {self.id!r}")
        if not (type(self.version) is int and 1 <= self.version < 2**63):
            raise Invalid(f"a place needs the version of a record, not {self.version!r}")

    @classmethod
    def of(cls, record: Record) -> Place:
        """Return where the record stands, as a store gave it out; one that was never kept stands nowhere."""
        if record.at is None:
            raise Invalid(f"record {record.id} was never kept: go on after one that was found")
        return cls(record.at, record.id, record.version)

    @classmethod
    def read(cls, text: str) -> Place:
        """Return the place that was printed as this text."""
        try:
            at, version, id = base64.b64decode(text, b"-_", validate=True).decode().split(" ", 2)
            return cls(datetime.fromisoformat(at), id, int(version))
        except (TypeError, ValueError):
            raise Invalid(f"{text!r} is no place where a page ended") from None

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(f"{self.at.isoformat()} {self.version} {self.id}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which records are meant. None means: does not matter.

    Of the two clocks: with `valid_at` None a record counts until its validity ends (what begins later is kept in mind
    already); with a time given, only what was valid then. With `known_at` None the latest version counts; with a time
    given, the version that was believed then. `any_time` asks for every version, whatever the clocks say.

    Of the scope: a record that names no user is nobody's own, so everybody has it; a question that names no user is
    asked for nobody in particular, so it is about everybody. Each level (user, agent, session) is read so by itself.
    With `shared` False a level that is named finds only what bears that name.

        >>> ana, bo, nobody = Scope(user="ana"), Scope(user="bo"), Scope()
        >>> [ana.sees(owner) for owner in (ana, bo, nobody)]  # she asks: what is hers, and what is everybody's
        [True, False, True]
        >>> [ana.sees(owner, shared=False) for owner in (ana, bo, nobody)]  # hers alone
        [True, False, False]
        >>> [nobody.sees(owner) for owner in (ana, bo, nobody)]  # nobody is named: about everybody
        [True, True, True]

    `newest`, `after` and `limit` page through the answer; they are no part of the meaning.
    """

    scope: Scope
    shared: bool = True  # also what leaves open a level that the scope names
    ids: frozenset[str] | None = None
    kinds: frozenset[str] | None = None
    keys: frozenset[str] | None = None
    part_of: frozenset[str] | None = None
    linked: tuple[str, frozenset[str]] | None = None  # (role, targets)
    labels: frozenset[str] | None = None  # bears every one of them
    folder: str | None = None  # this folder and those below it ("work" holds "work/bridge")
    outside: frozenset[str] | None = None  # in none of these folders, nor below one of them
    statuses: frozenset[str] | None = frozenset({ACTIVE})
    pinned: bool | None = None
    importance_min: int | None = None
    sources: frozenset[str] | None = None
    metadata: tuple[tuple[str, str | int | float | bool | None], ...] = ()  # top-level values, compared by `same`
    since: datetime | None = None  # said (Record.at) at or after
    until: datetime | None = None  # said before
    valid_at: datetime | None = None
    known_at: datetime | None = None
    ended: bool = False  # with valid_at None: what has ended, was superseded or retracted too
    any_time: bool = False
    newest: bool = False  # by time said, latest first; otherwise by id and version
    after: Place | None = None  # where the last page ended
    limit: int = 100

    def matches(self, record: Record, at: datetime | None = None) -> bool:
        """Whether the record is one of those meant; `at` is the present (default: now)."""
        return (
            self.scope.sees(record.scope, shared=self.shared)
            and (self.ids is None or record.id in self.ids)
            and (self.kinds is None or record.kind in self.kinds)
            and (self.keys is None or record.body.key in self.keys)
            and (self.part_of is None or record.part_of in self.part_of)
            and (self.linked is None or not self.linked[1].isdisjoint(record.targets(self.linked[0])))
            and (self.labels is None or self.labels.issubset(record.labels))
            and (self.folder is None or within(record.folder, self.folder))
            and (self.outside is None or not any(within(record.folder, each) for each in self.outside))
            and (self.statuses is None or record.status in self.statuses)
            and (self.pinned is None or record.pinned == self.pinned)
            and (self.importance_min is None or record.importance >= self.importance_min)
            and (self.sources is None or record.source in self.sources)
            and all(key in record.metadata and same(record.metadata[key], value) for key, value in self.metadata)
            and (self.since is None or (record.at is not None and record.at >= self.since))
            and (self.until is None or (record.at is not None and record.at < self.until))
            and (self.any_time or self._in_time(record, at or now()))
        )

    def comes_after(self, record: Record) -> bool:
        """Whether the record stands behind the place where the last page ended, in the order asked for.

        By id, an id that was given out is done with, unless every version is asked for.
        """
        if self.after is None:
            return True
        place = Place.of(record)
        if self.newest:
            return place < self.after
        if self.any_time:
            return (place.id, place.version) > (self.after.id, self.after.version)
        return place.id > self.after.id

    def _in_time(self, record: Record, at: datetime) -> bool:
        still = self.ended or not record.valid.ended(at)
        valid = still if self.valid_at is None else record.valid.holds(self.valid_at)
        known = record.known.until is None if self.known_at is None else record.known.holds(self.known_at)
        return valid and known


def within(folder: str | None, parent: str) -> bool:
    return folder is not None and (folder == parent or folder.startswith(parent + "/"))


def same(left: Any, right: Any) -> bool:
    """Return whether two values of JSON are one to a question: the number 1 is 1.0, but true is not 1.

    A question is asked in another program than the write, maybe in a language that has one kind of number, so it must
    not have to guess how the number was written. Whether two *writes* are one is another question, and `exactly` in
    `record.py` is its answer: there 1.0 in place of 1 is other content, because what was kept comes back as it was.
    """
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


@dataclass(frozen=True, slots=True)
class Factor:
    """One part of why a record was found: a signal's value in [0, 1] and what it added to the score."""

    name: str
    value: float
    share: float


@dataclass(frozen=True, slots=True, repr=False)
class Hit:
    """A record found. `score` is its relevance in [0, 1], higher is better; `by` names the ways that found it.

    `why` is filled when an explanation was asked for. It prints as its text with who and when.
    """

    record: Record
    score: float
    by: tuple[str, ...] = ()
    why: tuple[Factor, ...] = ()
    title: str | None = None  # of the conversation it is part of
    also: tuple[str, ...] = field(default=())  # ids of near-duplicates that it stands for

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def text(self) -> str:
        return self.record.text

    def __repr__(self) -> str:
        return f"<Hit {self.score:.2f} {self}>"

    def __str__(self) -> str:
        who, at = self.record.body.who, self.record.at
        said = ", ".join(part for part in (who, f"{at:%Y-%m-%d %H:%M}" if at else None) if part)
        return f"{self.text}  ({said})" if said else self.text
