"""LoCoMo's official format: long conversations of two people, with questions about them.

Each sample is a memory of its own: its user is the sample. Only what was said is read, never a question or an answer,
nor the summaries and observations that come with it. A picture is read as its caption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..importer import Problem
from ..record import Record, Scope
from .elements import keys
from .reading import Reading, read_elements
from .thread import Thread, open_user

name = "LoCoMo"
FORMAT = "locomo"
SESSION = re.compile(r"session_(\d{1,9})")
TIME = re.compile(r"(\d{1,2}):(\d\d) ([ap])m on (\d{1,2}) ([a-z]+),? (\d{4})", re.IGNORECASE)  # 1:56 pm on 8 May, 2023
MONTHS = "january february march april may june july august september october november december".split()


class Sample(Struct):
    sample_id: str | int
    conversation: dict[str, Any]


class Turn(Struct):
    speaker: str
    dia_id: str
    text: str = ""
    blip_caption: str | None = None


def recognises(path: Path, head: bytes) -> bool:
    found = keys(head)
    if not found.isdisjoint({"conversation", "sample_id"}) and b'"speaker_a"' in head:
        return True
    return "qa" in found and b'"evidence"' in head and b'"category"' in head


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    return read_elements(path, lambda value, reading: _sample(value, scope, reading))


def _sample(value: Any, scope: Scope, reading: Reading) -> Iterator[Record]:
    sample = reading.narrowed(value, Sample, "a sample")
    user = reading.named(sample.sample_id, "a sample's id") if sample else None
    if sample is None or user is None:
        return
    numbers = sorted(int(match[1]) for key in sample.conversation if (match := SESSION.fullmatch(key)))
    for number in numbers:
        yield from _session(sample.conversation, f"session_{number}", user, scope, reading)


def _session(talk: dict[str, Any], session: str, user: str, scope: Scope, reading: Reading) -> Iterator[Record]:
    turns = reading.narrowed(talk[session], list[Any], session) if session in talk else None
    if not turns:
        return
    since = _moment(talk.get(f"{session}_date_time"), session, reading)
    thread = Thread.of(FORMAT, open_user(scope, user), f"{user}/{session}", since)
    yield thread.conversation(None)
    for place, item in enumerate(turns):
        turn = reading.narrowed(item, Turn, f"turn {place + 1} of {session}")
        text = _text(turn) if turn else ""
        if turn and text.strip():
            at = since + timedelta(seconds=place) if since else None
            yield thread.message(
                text, native=[turn.dia_id], at=at, name=turn.speaker, place=place, metadata={"dia_id": turn.dia_id}
            )


def _text(turn: Turn) -> str:
    caption = f"[image: {turn.blip_caption}]" if turn.blip_caption else ""
    return f"{turn.text} {caption}" if turn.text and caption else turn.text or caption


def _moment(value: Any, session: str, reading: Reading) -> datetime | None:
    """Return when a session began; it names no zone, and is UTC here."""
    try:
        if value is not None:
            return _parsed(value)
    except (TypeError, ValueError):
        reading.wrong(f"{session} has no time that can be read ({str(value)[:40]!r}): kept without")
    return None


def _parsed(text: str) -> datetime:
    match = TIME.fullmatch(text.strip() if isinstance(text, str) else "")
    if not match:
        raise ValueError
    hour, minute, half, day, month, year = match.groups()
    hours = int(hour) % 12 + (12 if half.lower() == "p" else 0)
    return datetime(int(year), MONTHS.index(month.lower()) + 1, int(day), hours, int(minute), tzinfo=UTC)
