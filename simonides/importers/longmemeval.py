"""LongMemEval's official format: a haystack of chats for each of its questions.

Each question is a memory of its own: its user is the question's id. Only the chats are read, never the question or the
answer, nor the marks that say where the answer is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..importer import Problem
from ..record import Record, Scope
from .elements import keys
from .reading import Reading, read_elements
from .thread import ROLES, Thread, after, open_user

name = "LongMemEval"
FORMAT = "longmemeval"
TIME = re.compile(r"(\d{4})/(\d\d?)/(\d\d?) (?:\(\w+\) )?(\d\d?):(\d\d)")  # 2023/05/20 (Sat) 02:21


class Question(Struct):
    question_id: str | int
    haystack_sessions: list[Any]
    haystack_session_ids: list[Any] = []  # a Struct copies it
    haystack_dates: list[Any] = []


class Turn(Struct):
    role: str
    content: str


def recognises(path: Path, head: bytes) -> bool:
    found = keys(head)
    haystack = {"haystack_sessions", "haystack_session_ids", "haystack_dates", "question_type"}
    return "question_id" in found and not found.isdisjoint(haystack)


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    return read_elements(path, lambda value, reading: _question(value, scope, reading))


def _question(value: Any, scope: Scope, reading: Reading) -> Iterator[Record]:
    question = reading.narrowed(value, Question, "a question")
    user = reading.named(question.question_id, "a question's id") if question else None
    if question is None or user is None:
        return
    mine = open_user(scope, user)
    for place, turns in enumerate(question.haystack_sessions):
        session = _nth(question.haystack_session_ids, place)
        named = reading.named(f"session_{place + 1}" if session is None else session, "a session's id")
        said = reading.narrowed(turns, list[Any], f"session {place + 1}")
        if named and said:
            since = _moment(_nth(question.haystack_dates, place), f"session {place + 1}", reading)
            yield from _session(said, Thread.of(FORMAT, mine, named, since), reading)


def _nth(items: list[Any], place: int) -> Any:
    return items[place] if place < len(items) else None


def _session(turns: list[Any], thread: Thread, reading: Reading) -> Iterator[Record]:
    yield thread.conversation(None)
    at = thread.since
    for place, item in enumerate(turns):
        turn = reading.narrowed(item, Turn, f"turn {place + 1}")
        if turn and turn.content.strip():
            role = ROLES.get(turn.role, "user")
            metadata = {"turn": place + 1}
            yield thread.message(turn.content, native=[str(place)], at=at, role=role, place=place, metadata=metadata)
        at = after(at)


def _moment(value: Any, what: str, reading: Reading) -> datetime | None:
    """Return when a session began; it names no zone, and is UTC here."""
    match = TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if match:
            return datetime(*map(int, match.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        pass
    if value is not None:
        reading.wrong(f"{what} has no time that can be read ({str(value)[:40]!r}): kept without")
    return None
