"""JSON lines, or a JSON list, of messages: {"role", "content", …}, or whole conversations: {"messages": […]}.

Anybody writes these, so the usual spellings are known, and what is not known is kept as metadata. Messages of one
session are one conversation; those that name none are the conversation of their file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..arguments import named
from ..errors import Invalid
from ..importer import Problem
from ..record import Record, Scope
from .archive import LINES, head, suffix
from .elements import Element, elements, keys, lines, opening
from .reading import Reading, read_elements
from .thread import ROLES, Thread, after, open_user, text_in

name = "JSON lines"
generality = 1  # asked after those formats that are JSON lines or lists of something in particular
FORMAT = "jsonl"
TEXT, AT, SESSION, SPEAKER = (
    ("content", "text"), ("at", "timestamp", "created_at"), ("session", "conversation_id", "session_id"),
    ("name", "speaker"),
)  # fmt: skip
KNOWN = frozenset((*TEXT, *AT, *SESSION, *SPEAKER, "role", "user", "id", "labels", "metadata", "title", "messages"))


def recognises(path: Path, head: bytes) -> bool:
    if not opening(head).lstrip().startswith(("{", "[")):
        return False
    found = keys(head)
    sure = suffix(path) in LINES or not found.isdisjoint({"role", *SPEAKER})
    return "messages" in found or (sure and not found.isdisjoint(TEXT))


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    try:
        split = lines if _is_lines(path) else elements
    except OSError:
        split = elements  # which says so
    return read_elements(path, _Talks(scope, os.path.abspath(path)), split)


def _is_lines(path: Path) -> bool:
    """Whether every line is a value of its own, so that a broken one can be stepped over."""
    start = opening(head(path)).lstrip()
    if start.startswith("["):
        return False
    first = next(iter(lines("", [start.split("\n")[0].encode("utf-8", "replace")])), None)
    return suffix(path) in LINES or isinstance(first, Element)


@dataclass(slots=True)
class _Talk:
    """A conversation as far as it was read: when something was last said in it, and how often the same at that time."""

    thread: Thread
    last: datetime | None = None
    place: int = 0
    same: Counter[bytes] | None = None
    ids: dict[str, bytes] = field(default_factory=dict)  # what the message of each id says, in eight bytes

    def moment(self, own: datetime | None) -> datetime | None:
        at = own or (after(self.last) if self.place else self.thread.since)
        if at != self.last:
            self.same = None
        self.last, self.place = at, self.place + 1
        return at

    def native(self, at: datetime | None, *said: str) -> list[str]:
        """Name a message that bears no name by what it says and when, or else its place; said again at that very time,
        it is another.
        """
        digest = _said(said)
        if at is None:
            return [digest.hex(), str(self.place)]
        self.same = self.same or Counter()
        self.same[digest] += 1
        return [digest.hex(), at.isoformat(), str(self.same[digest])]

    def called(self, id: str, *said: str) -> list[str]:
        """Name a message by the id that it bears; one that says otherwise under an id of before, by both."""
        digest = _said(said)
        return [id] if self.ids.setdefault(id, digest[:8]) == digest[:8] else [id, digest.hex()]


@dataclass(slots=True)
class _Talks:
    """The conversations of one file; called with each of its elements."""

    scope: Scope
    file: str
    talks: dict[tuple[str | None, str], _Talk] = field(default_factory=dict)

    def __call__(self, value: Any, reading: Reading) -> Iterator[Record]:
        if not isinstance(value, dict):
            reading.wrong(f"is no object but a {type(value).__name__}: left out")
        elif "messages" not in value:
            yield from self._said(value, {}, reading)
        elif isinstance(value["messages"], list):
            yield from self._whole(value, value["messages"], reading)
        else:
            reading.wrong("its messages are no list: left out")

    def _whole(self, value: Mapping[str, Any], messages: list[Any], reading: Reading) -> Iterator[Record]:
        shared = {key: item for key, item in value.items() if key != "messages"}
        if _first(shared, SESSION) is None:
            shared[SESSION[0]] = shared.get("id") or f"messages-{_digest(messages)}"
        for message in messages:
            if isinstance(message, dict):
                yield from self._said(message, shared, reading)
            else:
                reading.wrong(f"a message is no object but a {type(message).__name__}: left out")

    def _said(self, item: Mapping[str, Any], shared: Mapping[str, Any], reading: Reading) -> Iterator[Record]:
        text = _text(item, reading)
        spoken = _speaker(item, reading)
        if text is None or not text.strip() or spoken is None:
            return
        named_by = item if _first(item, SESSION) is not None else shared
        own = reading.moment(_first(item, AT), "a message")
        talk, opening = self._talk({**shared, **item}, _first(named_by, SESSION), own, shared, reading)
        if talk is None:
            return
        yield from opening
        role, name = spoken
        at = talk.moment(own)
        id = reading.named(item["id"], "a message's id") if item.get("id") is not None else None
        yield talk.thread.message(
            text, native=talk.called(id, text) if id else talk.native(at, role, name or "", text),
            at=at, role=role, name=name, place=talk.place,
            labels=reading.labels([*_list(shared.get("labels")), *_list(item.get("labels"))]),
            metadata=_metadata(item, reading) | self._other_user(item, shared),
        )  # fmt: skip

    def _talk(
        self, item: Mapping[str, Any], session: Any, own: datetime | None, shared: Mapping[str, Any], reading: Reading
    ) -> tuple[_Talk | None, list[Record]]:
        """Return the conversation that it belongs to, and its record where it begins here."""
        user = reading.named(item["user"], "a user") if item.get("user") is not None else None
        session = _session_of(self.file) if session is None else reading.named(session, "a session")
        if session is None or (item.get("user") is not None and user is None):
            return None, []
        scope = open_user(self.scope, user)
        if talk := self.talks.get((scope.user, session)):
            return talk, []
        since = reading.moment(_first(shared, AT), "a conversation") or own
        talk = self.talks[scope.user, session] = _Talk(Thread.of(FORMAT, scope, session, since))
        title = item["title"] if isinstance(item.get("title"), str) else None
        return talk, [talk.thread.conversation(reading.sound(title, "title"), _metadata(shared, reading))]

    def _other_user(self, item: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
        user = item.get("user", shared.get("user"))
        return {"user": user} if user is not None and self.scope.user not in (None, user) else {}


def _session_of(file: str) -> str:
    """Return the name of the conversation that a file is whose messages name none."""
    digest = hashlib.sha256(file.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    try:
        return named("session", f"{os.path.basename(file)[:100]}#{digest}") or digest
    except Invalid:  # a file may be called what no session may
        return f"file#{digest}"


def _said(said: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(said).encode("utf-8", "surrogatepass")).digest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:16]


def _first(item: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _text(item: Mapping[str, Any], reading: Reading) -> str | None:
    """Return what it says; None where it says nothing, with a problem where it should."""
    content = _first(item, TEXT)
    if isinstance(content, list):
        content = "\n".join(text for part in content if (text := _part(part)))
    if content is None and item.keys().isdisjoint(TEXT):
        reading.wrong("has neither content nor text: left out")
    elif content is not None and not isinstance(content, str):
        reading.wrong(f"its content is no text but a {type(content).__name__}: left out")
    return content if isinstance(content, str) else None


def _part(part: Any) -> str:
    if (text := text_in(part)) is not None:
        return text
    return "[image]" if "image" in str(part.get("type")) else "[attachment]"


def _speaker(item: Mapping[str, Any], reading: Reading) -> tuple[str, str | None] | None:
    """Return (role, name). A role that is none of those known is somebody's name."""
    role, name = item.get("role"), _first(item, SPEAKER)
    if not isinstance(role, str | None) or not isinstance(name, str | None):
        reading.wrong("its role or its speaker's name is no text: left out")
        return None
    if role is None:
        return "user", name
    known = ROLES.get(role.lower())
    return (known, name) if known else ("user", name or role)


def _metadata(item: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    given = item.get("metadata")
    if given is not None and not isinstance(given, dict):
        reading.wrong(f"its metadata is no object but a {type(given).__name__}: kept without")
    unknown = {key: value for key, value in item.items() if key not in KNOWN}
    return unknown | (given if isinstance(given, dict) else {})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
