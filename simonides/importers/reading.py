"""The reading of one file: where we are in it, what was wrong there, and the one door its records leave by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..arguments import encoded, metadata_of, named, names_of, text_of
from ..errors import Damaged, Invalid
from ..importer import Problem
from ..kinds import Chunk, Message
from ..record import Record
from .archive import members, shown
from .elements import Element, elements

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECONDS = 1e11  # from here on a number of seconds is one of milliseconds: as seconds it is after the year 5000
Make = Callable[[Any, "Reading"], Iterable[Record]]  # turns one element into its records, and notes what was wrong
Split = Callable[[str, Iterable[bytes]], Iterator[Element | Problem]]


def read_elements(path: Path, make: Make, split: Split = elements) -> Iterator[Record | Problem]:
    """Yield the records that `make` finds in each element of the file, and what was wrong with it."""
    try:
        for member in members(path):
            reading = Reading(member.name)
            for element in split(member.name, member.blocks):
                if isinstance(element, Problem):
                    yield element
                else:
                    yield from reading.records(element, make)
            yield from reading.last_words()
    except Damaged as error:
        yield Problem(shown(path), None, str(error))
    except OSError as error:
        yield Problem(shown(path), None, f"cannot be read: {error.strerror or error}")


def placed(place: int) -> datetime:
    """Return the time that stands in an id for a place in an order: the middle of a millisecond, for it is rounded."""
    return EPOCH + timedelta(milliseconds=place, microseconds=500)


class Reading:
    """Nothing here raises for what the file says: it notes the problem, and the caller goes on without."""

    def __init__(self, file: str) -> None:
        self._file, self._line = file, 1
        self._problems: list[Problem] = []
        self._zoneless = False

    def records(self, element: Element, make: Make) -> Iterator[Record | Problem]:
        self._line = element.line
        try:
            for record in make(element.value, self):
                if checked := self.checked(record):
                    yield checked
        except RecursionError:
            self.wrong("is nested too deep: left out")
        yield from self._problems
        self._problems = []

    def last_words(self) -> Iterator[Problem]:
        if self._zoneless:
            yield Problem(self._file, None, "its times name no zone: they were taken as UTC")

    def wrong(self, message: str) -> None:
        self._problems.append(Problem(self._file, self._line, message))

    def narrowed(self, value: Any, shape: type[T], what: str) -> T | None:
        """Return the value in the shape it should have; None, and a problem, where it has not."""
        try:
            return msgspec.convert(value, shape)
        except UnicodeEncodeError:
            self.wrong(f"{what} has a key with a lone surrogate, which no encoding can store: left out")
        except (msgspec.ValidationError, RecursionError) as error:
            self.wrong(f"{what} is not what it should be, and was left out: {error}")
        return None

    def moment(self, value: Any, what: str) -> datetime | None:
        """Return a time given as seconds or milliseconds since 1970, or as ISO 8601; without a zone it is UTC.

        None stays None.
        """
        if value is None or value == "":
            return None
        try:
            at = _moment(value)
            self._zoneless |= at.tzinfo is None
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            self.wrong(f"{what} has no time that can be read ({str(value)[:40]!r}): kept without")
            return None

    def sound(self, text: str | None, what: str) -> str | None:
        """Return a text that can be stored, as it is; None, and a problem, where it cannot."""
        try:
            return text if text is None or encoded(text, what) else None
        except Invalid as error:
            self.wrong(str(error))
            return None

    def named(self, value: Any, what: str) -> str | None:
        """Return a name of somebody's or something's; None, and a problem, where it can be none."""
        try:
            if value is None:
                raise Invalid(f"{what} is missing")
            return named(what, str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
        except Invalid as error:
            self.wrong(f"left out: {error}")
            return None

    def labels(self, value: Any) -> tuple[str, ...]:
        """Return the labels, sorted, each once; none, and a problem, where they can be none."""
        try:
            return names_of("labels", value)
        except Invalid as error:
            self.wrong(f"left without labels: {error}")
            return ()

    def checked(self, record: Record) -> Record | None:
        """Return the record if a memory would take it from anybody; None, and a problem, where it would not."""
        try:
            return _checked(record)
        except (Invalid, RecursionError) as error:
            self.wrong(f"a {record.kind} was left out ({record.text[:40]!a}): {error}")
            return None


def _moment(value: Any) -> datetime:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int | float):
        return EPOCH + timedelta(seconds=value if abs(value) < MILLISECONDS else value / 1000)
    return datetime.fromisoformat(value)


def _checked(record: Record) -> Record:
    if isinstance(record.body, Message | Chunk):
        text_of(record.text)
    for part in dataclasses.fields(record.body):
        if isinstance(value := getattr(record.body, part.name), str):
            encoded(value, part.name)
    for name, value in (*record.scope.levels, ("id", record.id)):
        named(name, value)
    return dataclasses.replace(record, labels=names_of("labels", record.labels), metadata=metadata_of(record.metadata))
