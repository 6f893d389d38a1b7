"""What `remember` is handed becomes records: a text, a message, a body, or a list of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from .arguments import (
    Given,
    Moment,
    Whose,
    check_names,
    encoded,
    flag,
    folder_of,
    importance_of,
    metadata_of,
    moment,
    named,
    names_of,
    text_of,
)
from .errors import Invalid
from .kinds import Conversation, Message, Note
from .record import IMPORTANCE, TICK, Body, Link, Record, Scope, Span, marked_id, new_id, now, stable_id

Content = str | Mapping[str, Any] | Body
ROLES = ("user", "assistant", "system", "tool", "developer")
SPELLINGS = {"text": "content", "timestamp": "at", "created_at": "at", "speaker": "name"}
ALWAYS = Span()
MESSAGE = ("role", "content", "at", "name", "id", "labels", "importance", "pinned", "metadata")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What every record of one call shares."""

    scope: Scope
    zone: tzinfo | None
    role: str | None = None
    name: str | None = None
    at: Moment | None = None
    id: str | None = None
    part_of: str | None = None
    links: tuple[Link, ...] = ()
    once: str | None = None  # the caller's mark of this write: what has no id of its own gets one made from it
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def one(self, content: Content) -> Record:
        return self._record(content, self._item(content, 0), self.part_of, now(), self._shared())

    def _item(self, content: Content, number: int) -> dict[str, Any]:
        """Return what a content that stands alone says of itself, with the call's time and id."""
        item = {"at": self.at, "id": self.id, **_items(content)}
        return item if item["id"] is not None else item | {"id": marked(self.scope, self.once, number)}

    def many(self, contents: Sequence[Content], title: str | None) -> tuple[Record | None, list[Record]]:
        """Return the conversation that the contents make up, if they are messages, and the records in their order.

        A message that bears no time of its own follows the one before it by a microsecond, so that their order is kept.
        """
        if self.id is not None:
            raise Invalid("one id cannot name several records: give each message its own")
        if not contents:
            raise Invalid("there is nothing in the list to remember")
        start = moment("at", self.at, self.zone) or now()
        items = [self._named(content, number) for number, content in enumerate(contents)]
        whole = self.conversation(title, items) if self._is_talk(contents) else None
        part_of = whole.id if whole else self.part_of
        records, at, shared = list[Record](), start - TICK, self._shared()
        for content, item in zip(contents, items, strict=True):
            said = item if "at" in item or records else {"at": self.at, **item}
            records.append(self._record(content, said, part_of, at + TICK, shared))
            at = records[-1].valid.since or at + TICK
        if whole is None:
            return None, records
        began = min((record.valid.since for record in records if record.valid.since), default=start)
        return dataclasses.replace(whole, valid=Span(since=began)), records

    def _named(self, content: Content, number: int) -> dict[str, Any]:
        item = _items(content)
        mark = None if item.get("id") else marked(self.scope, self.once, number)
        return item if mark is None else item | {"id": mark}

    def own(self, contents: Sequence[Content]) -> dict[str, bool]:
        """Return the caller's own ids, and of each whether the caller names a time for it."""
        items = [self._item(content, number) for number, content in enumerate(contents)]
        return {item["id"]: item["at"] is not None for item in items if item["id"] is not None}

    def conversation(self, title: str | None, items: Sequence[Mapping[str, Any]] = ()) -> Record:
        """Return the conversation of this session; without a session, one named after the caller's first id."""
        scope, session = self.scope, self.scope.session
        first = next((item["id"] for item in items if item.get("id")), None)
        name = f"session:{session}" if session else f"first:{first}" if first else f"new:{new_id()}"
        owner = [level or "" for level in (*scope.realm, scope.user, scope.agent)]
        return Record(
            id=stable_id(None, *owner, name),
            scope=scope,
            body=Conversation(text=title or session or "Conversation", session=session or ""),
            source=str(self.given.get("source") or "caller"),
            valid=Span(since=moment("at", self.at, self.zone)),
        )

    def _is_talk(self, contents: Sequence[Content]) -> bool:
        said = any(isinstance(content, Mapping | Message) for content in contents)
        return self.part_of is None and (said or self.scope.session is not None)

    def _record(
        self, content: Content, item: Mapping[str, Any], part_of: str | None, at: datetime, shared: _Shared
    ) -> Record:
        body = self._body(content, item)
        since = moment("at", item.get("at"), self.zone) or (at if isinstance(body, Message) else None)
        until, labels, importance = shared.until, item.get("labels"), item.get("importance")
        if since and until and until <= since:
            raise Invalid(f"ends {until} is not after {since}, when it begins")
        return Record(
            id=named("id", item.get("id")) or new_id(),
            scope=self.scope,
            body=body,
            part_of=part_of,
            links=self.links,
            valid=Span(since, until) if since or until else ALWAYS,
            source=shared.source,
            labels=tuple(sorted({*shared.labels, *names_of("labels", labels)})) if labels else shared.labels,
            folder=shared.folder,
            importance=shared.importance if importance is None else importance_of(importance),
            pinned=flag("pinned", item["pinned"]) if "pinned" in item else shared.pinned,
            metadata=metadata_of(self.given.get("metadata")) | metadata_of(item.get("metadata")),
        )

    def _shared(self) -> _Shared:
        given = self.given
        importance = given.get("importance")
        return _Shared(
            until=moment("ends", given.get("ends"), self.zone),
            source=named("source", given.get("source")) or "caller",
            labels=names_of("labels", given.get("labels")),
            folder=folder_of(given.get("folder")),
            importance=IMPORTANCE if importance is None else importance_of(importance),
            pinned=flag("pinned", given.get("pinned", False)),
        )

    def _body(self, content: Content, item: Mapping[str, Any]) -> Body:
        if isinstance(content, Body):
            text_of(content.text)
            for part in dataclasses.fields(content):
                value = getattr(content, part.name)
                if not isinstance(value, str) and (value is not None or part.default is not None):
                    raise Invalid(f"{part.name} of a {type(content).__name__} must be a string, not {value!r}")
                encoded(value or "", part.name)
            if isinstance(content, Message):
                _check_role(content.role)
            return content
        text = text_of(item["content"], "content" if isinstance(content, Mapping) else "text")
        role, name = item.get("role") or self.role, named("name", item.get("name") or self.name)
        if isinstance(content, str) and role is None and name is None and self.scope.session is None:
            return Note(text=text)
        role = role or "user"
        _check_role(role)
        return Message(text=text, role=role, name=name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What is said of every record of one call, narrowed."""

    until: datetime | None
    source: str
    labels: tuple[str, ...]
    folder: str | None
    importance: int
    pinned: bool


def marked(scope: Scope, once: str | None, number: int, *parts: str) -> str | None:
    """Return the id that a caller's mark stands for, whenever it is sent; None where there is no mark."""
    owner = [level or "" for level in (*scope.realm, scope.user, scope.agent)]
    return None if once is None else marked_id(once, number, "once", *owner, *parts)


def _check_role(role: Any) -> None:
    if role not in ROLES:
        raise Invalid(f"role must be one of {', '.join(ROLES)}, not {role!r}")


def _items(content: Any) -> dict[str, Any]:
    """Return what a message says of itself, under our names."""
    if isinstance(content, Body):
        return {}
    if isinstance(content, str):
        return {"content": content}
    if not isinstance(content, Mapping):
        wanted = "a string, a message like {'role': …, 'content': …}, or a list of those"
        raise Invalid(f"remember {wanted}, not {type(content).__name__}")
    given = {name: value for name, value in content.items() if value is not None}
    items: dict[str, Any] = {SPELLINGS.get(name) or str(name): value for name, value in given.items()}
    check_names("message", items, MESSAGE)
    if "content" not in items:
        raise Invalid("a message needs 'content'")
    if isinstance(items["content"], list):
        items["content"] = _joined(items["content"])
    return items


def _joined(parts: Iterable[Any]) -> str:
    """Return the text of content given in parts, as chat APIs do; parts that are no text are refused."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise Invalid("a part of the content is no text: remember what it says, and keep the rest elsewhere")
        texts.append(part["text"])
    return "\n".join(texts)


GIVEN = frozenset(Given.__annotations__) | frozenset(Whose.__annotations__)
