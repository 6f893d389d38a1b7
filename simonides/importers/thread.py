"""A conversation of some other program, as the records that it becomes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..drafts import Draft
from ..kinds import Conversation, Message
from ..record import ACTIVE, ARCHIVED, TICK, Record, Scope, Span, stable_id
from .reading import Reading, placed

ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "bot": "assistant",
    "gpt": "assistant", "model": "assistant", "system": "system", "developer": "developer",
    "tool": "tool", "function": "tool",
}  # fmt: skip
SPOKEN = frozenset({"user", "assistant"})  # what people and models said to each other; all else is kept archived


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """Whose conversation it is, what the other program calls it, and when it began."""

    format: str
    scope: Scope  # its session is the conversation
    id: str
    since: datetime | None = None

    @classmethod
    def of(cls, format: str, scope: Scope, session: str, since: datetime | None = None) -> Thread:
        """Its id is the one that `remember(session=…)` gives to this session, so that the conversation can go on."""
        scope = dataclasses.replace(scope, session=session)
        return cls(format=format, scope=scope, id=Draft(scope=scope, zone=None).conversation(None).id, since=since)

    @classmethod
    def begun(cls, format: str, scope: Scope, session: Any, at: Any, reading: Reading) -> Thread | None:
        """Return the conversation as a file names and dates it; None, and a problem, where it names none."""
        name = reading.named(session, "a conversation's id")
        return None if name is None else cls.of(format, scope, name, reading.moment(at, "a conversation"))

    @property
    def source(self) -> str:
        return f"import/{self.format}"

    def conversation(self, title: str | None, metadata: Mapping[str, Any] | None = None) -> Record:
        return Record(
            id=self.id,
            scope=self.scope,
            body=Conversation(text=title or "Conversation", session=self.scope.session or ""),
            valid=Span(since=self.since),
            source=self.source,
            metadata=metadata or {},
        )

    def message(
        self,
        text: str,
        *,
        native: Iterable[str],
        at: datetime | None,
        role: str = "user",
        name: str | None = None,
        place: int = 0,
        archived: bool = False,
        labels: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return a message. `native` names it in the conversation, for ever; `place` orders those without a time."""
        scope = self.scope
        owner = (self.format, scope.user or "", scope.agent or "", scope.session or "")
        return Record(
            id=stable_id(at or placed(place), *owner, *native),
            scope=scope,
            body=Message(text=text, role=role, name=name),
            part_of=self.id,
            valid=Span(since=at),
            source=self.source,
            labels=tuple(labels),
            status=ARCHIVED if archived or role not in SPOKEN else ACTIVE,
            metadata=metadata or {},
        )


def after(at: datetime | None) -> datetime | None:
    """Return the time of what was said next and bears none of its own: a moment later, so that the order is kept."""
    try:
        return at + TICK if at else None
    except OverflowError:
        return at


def text_in(part: Any) -> str | None:
    """Return the text of one part of a message; None where it is an object that holds something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    return part["text"] if isinstance(part.get("text"), str) else None


def open_user(scope: Scope, user: str | None) -> Scope:
    """Let a file name whose memory it is, where the caller has left that open; what the caller names, stands."""
    return scope if scope.user is not None or user is None else dataclasses.replace(scope, user=user)
