"""Conversations: begin, go on with, look at, organise, export, erase."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from ..access import Permit
from ..errors import NotFound
from ..kinds import Conversation
from ..query import Place
from ..record import ARCHIVED, IMPORTANCE, Record
from ..wire import Json, as_json
from .memories import FILTERS, SEES_AND_WRITES, Named, erased, indexed, picked
from .operation import Call, operation
from .shapes import (
    Asked,
    Erased,
    Importance,
    Limit,
    Moment,
    Name,
    OwnId,
    RecordShape,
    Said,
    Shape,
    Wait,
    Which,
)

NIL = "00000000-0000-0000-0000-000000000000"
PAGE = 10_000  # records asked for at once
NEAR = 2000  # characters of a conversation that are asked with for similar ones


class ConversationShape(Shape):
    """A conversation. `label` is its first label, or its title where it has none."""

    id: str
    conversation_id: str = Field(description="The same as id.")
    title: str
    label: str
    labels: list[str]
    folder: str | None
    session: str | None
    user: str | None
    status: str
    pinned: bool
    importance: int
    message_count: int
    created_at: str | None
    metadata: dict[str, JsonValue]


class Begun(ConversationShape):
    messages: list[RecordShape]
    indexed: bool
    task: str | None


class Whole(ConversationShape):
    messages: list[RecordShape] | None


class Listed(ConversationShape):
    """A conversation in a list, which some clients read as a search result."""

    message_id: str
    score: float
    content: str
    timestamp: str | None


class Conversations(Shape):
    results: list[Listed]
    total: int
    page: int
    page_size: int
    next: str | None


async def described(call: Call, record: Record) -> Json:
    labels = list(record.labels)
    count = await call.memory.count(conversation=record.id, archived=True, **call.whose)
    return {
        "id": record.id,
        "conversation_id": record.id,
        "title": record.text,
        "label": labels[0] if labels else record.text,
        "labels": labels,
        "folder": record.folder,
        "session": record.scope.session,
        "user": record.scope.user,
        "status": record.status,
        "pinned": record.pinned,
        "importance": record.importance,
        "message_count": count,
        "created_at": record.at.isoformat() if record.at else None,
        "metadata": dict(record.metadata),
    }


async def the_conversation(call: Call, id: str) -> Record:
    record = await call.memory.get(id, **call.whose)
    if record.kind != "conversation":
        raise NotFound(f"no conversation {id!r} in this scope")
    return record


# -- begin and go on ----------------------------------------------------------------------------------------------


class Begin(Asked):
    """A conversation, with its messages if there are any yet."""

    title: Name | None = None
    label: Name | None = Field(None, description="One label, which names it where there is no title.")
    labels: list[Name] | None = Field(None, max_length=100)
    folder: str | None = Field(None, max_length=200, examples=["work/bridge"])
    messages: Annotated[list[Said], Field(max_length=10_000)] = Field(default_factory=list)
    importance: Importance | None = None
    pinned: bool | None = None
    metadata: dict[str, JsonValue] | None = None
    at: Moment | None = Field(None, description="When it began; default: with its first message, or now.")
    id: OwnId | None = Field(None, description="The caller's own id: the same write twice is one.")
    wait: Wait = "indexed"


@operation(
    "POST",
    "/conversations",
    needs=Permit.WRITE,
    gives=Begun,
    status=201,
    example={"title": "Supper", "messages": [{"role": "user", "content": "I am allergic to walnuts"}]},
)
async def begin_conversation(asked: Begin, call: Call) -> Json:
    """Begin a conversation with its messages."""
    labels = sorted({*(asked.labels or ()), *([asked.label] if asked.label else ())})
    began = asked.at or next((said.at for said in asked.messages if said.at), None)
    more: Any = {"labels": labels or None, "folder": _folder(asked.folder), **call.whose}
    more |= picked(asked, ("importance", "pinned", "metadata"))
    talk = await call.memory.remember(
        Conversation(text=asked.title or asked.label or asked.session or "Conversation", session=asked.session or ""),
        id=asked.id,
        at=began,
        once=call.once,
        **more,
    )
    said = await _said(call, talk, asked.messages, asked.id) if asked.messages else []
    found = await described(call, talk)
    return {**found, "messages": [as_json(each) for each in said], **await indexed(call, asked.wait)}


def _folder(name: str | None) -> str | None:
    """Return the folder; clients of the first seed write it with a slash before, and "/" for none."""
    return (name or "").strip("/") or None


async def _said(call: Call, talk: Record, messages: Sequence[Said], own: str | None) -> list[Record]:
    """Keep the messages as parts of the conversation. Where it has an id of the caller's own, so have they."""
    numbers = itertools.count(1)
    items: list[Any] = []
    for each in messages:
        item = each.model_dump(exclude_none=True)
        item.setdefault("role", "user")
        if own is not None and "id" not in item:
            item["id"] = f"{own}:{next(numbers)}"
        items.append(item)
    whose = {name: value for name, value in call.whose.items() if name != "session"}
    session = {"session": talk.scope.session} if talk.scope.session else {}
    more: Any = {"labels": list(talk.labels) or None, "folder": talk.folder, **whose, **session}
    if talk.importance != IMPORTANCE:
        more["importance"] = talk.importance
    once = call.once and f"{call.once}/messages"
    return await call.memory.remember(items, part_of=talk.id, once=once, **more)


class Append(Named):
    messages: Annotated[list[Said], Field(min_length=1, max_length=10_000)]
    wait: Wait = "indexed"


class Appended(Shape):
    results: list[RecordShape]
    indexed: bool
    task: str | None


@operation(
    "POST",
    "/conversations/{id}/messages",
    needs=SEES_AND_WRITES,
    gives=Appended,
    status=201,
    example={"messages": [{"role": "assistant", "content": "No walnuts, then."}]},
)
async def append_messages(asked: Append, call: Call) -> Json:
    """Go on with a conversation."""
    talk = await the_conversation(call, asked.id)
    said = await _said(call, talk, asked.messages, None)
    return {"results": [as_json(each) for each in said], **await indexed(call, asked.wait)}


# -- look ---------------------------------------------------------------------------------------------------------


class Look(Named):
    messages: bool = Field(False, description="With what was said in it, in order.")


@operation("GET", "/conversations/{id}", needs=Permit.READ, gives=Whole)
async def get_conversation(asked: Look, call: Call) -> Json:
    """Show a conversation, with its messages if asked."""
    talk = await the_conversation(call, asked.id)
    said = await _said_in(call, talk) if asked.messages else None
    return {
        **await described(call, talk),
        "messages": None if said is None else [as_json(each) for each in said],
    }


async def _said_in(call: Call, talk: Record) -> list[Record]:
    """Return all that is part of a conversation, in order; of an archived one, what is archived too."""
    found, archived = list[Record](), talk.status == ARCHIVED
    after: Place | None = None
    while True:
        page = await call.memory.find(
            conversation=talk.id, archived=archived, limit=PAGE, newest=True, after=after, **call.whose
        )
        found += page
        if len(page) < PAGE:
            return found[::-1]
        after = Place.of(page[-1])


class List(Which):
    label: Name | None = Field(None, description="Bears this label.")
    limit: Limit = 50
    after: str | None = Field(None, max_length=1000, description="What `next` of the last page said.")
    page: int = Field(1, ge=1, le=10_000, description="The number of the page, for clients that count pages.")
    page_size: int | None = Field(None, ge=1, le=1000, description="Another name of limit.")


@operation("GET", "/conversations", needs=Permit.READ, gives=Conversations)
async def list_conversations(asked: List, call: Call) -> Json:
    """List the conversations that match, newest first, in pages."""
    size = asked.page_size or asked.limit
    filters = _filters(asked)
    skip = 0 if asked.after else (asked.page - 1) * size
    after = Place.read(asked.after) if asked.after else None
    found = await _page(call, skip, size + 1, after, filters)
    shown, more = found[:size], len(found) > size
    total = await call.memory.count(**{**filters, "kinds": ["conversation"]}, **call.whose)
    results = await asyncio.gather(*(_listed(call, record) for record in shown))
    return {
        "results": list(results),
        "total": total,
        "page": asked.page,
        "page_size": size,
        "next": str(Place.of(shown[-1])) if more else None,
    }


async def _page(call: Call, skip: int, size: int, after: Place | None, filters: dict[str, Any]) -> list[Record]:
    """Return so many conversations behind so many, however many these are: whoever counts pages comes to the end."""
    while skip:
        passed = await call.memory.conversations(limit=min(skip, PAGE), after=after, **filters, **call.whose)
        if len(passed) < min(skip, PAGE):
            return []
        after, skip = Place.of(passed[-1]), skip - len(passed)
    return await call.memory.conversations(limit=size, after=after, **filters, **call.whose)


async def _listed(call: Call, record: Record) -> Json:
    found = await described(call, record)
    return {**found, "message_id": NIL, "score": 1.0, "content": found["label"], "timestamp": found["created_at"]}


def _filters(asked: Any) -> dict[str, Any]:
    filters = picked(asked, [name for name in FILTERS if name != "kinds"])
    if asked.label is not None:
        filters["labels"] = [*filters.get("labels", ()), asked.label]
    if "folder" in filters:
        filters["folder"] = _folder(filters["folder"])
    return filters


class CountThem(Which):
    label: Name | None = Field(None, description="Bears this label.")


class Counted(Shape):
    count: int
    label: str | None
    folder: str | None


@operation("GET", "/conversations/count", needs=Permit.READ, gives=Counted)
async def count_conversations(asked: CountThem, call: Call) -> Json:
    """Count the conversations that match."""
    filters = {**_filters(asked), "kinds": ["conversation"]}
    return {
        "count": await call.memory.count(**filters, **call.whose),
        "label": asked.label,
        "folder": asked.folder,
    }


class Similar(Named):
    limit: int = Field(10, ge=1, le=100)


class Likeness(ConversationShape):
    score: float = Field(ge=0, le=1)


class Similars(Shape):
    results: list[Likeness]
    notes: list[str]


@operation("GET", "/conversations/{id}/similar", needs=Permit.READ, gives=Similars)
async def similar_conversations(asked: Similar, call: Call) -> Json:
    """Find conversations about the same things, the likest first."""
    talk = await the_conversation(call, asked.id)
    said = await call.memory.messages(talk.id, limit=50, **call.whose)
    text = " ".join([talk.text, *(each.text for each in said)])[:NEAR]
    hits = await call.memory.recall(text, limit=200, **call.whose)
    best: dict[str, float] = {}
    for hit in hits:
        whole = hit.record.part_of
        if whole and whole != talk.id:
            best[whole] = max(best.get(whole, 0.0), hit.score)
    results: list[Json] = []
    for id, score in sorted(best.items(), key=lambda item: (-item[1], item[0])):
        if len(results) == asked.limit:
            break
        try:
            record = await the_conversation(call, id)
        except NotFound:
            continue  # a document, or somebody else's, on which something for all is hung
        results.append({**await described(call, record), "score": score})
    return {"results": results, "notes": list(hits.notes)}


class Export(Named):
    format: Literal["json", "markdown"] = "json"


class Exported(Shape):
    format: str
    conversation: ConversationShape
    messages: list[RecordShape]
    text: str | None = Field(description="The whole as Markdown, where that was asked for.")


@operation("GET", "/conversations/{id}/export", needs=Permit.READ, gives=Exported)
async def export_conversation(asked: Export, call: Call) -> Json:
    """Export a conversation with all that was said in it, as JSON or Markdown."""
    talk = await the_conversation(call, asked.id)
    said = await _said_in(call, talk)
    return {
        "format": asked.format,
        "conversation": await described(call, talk),
        "messages": [as_json(each) for each in said],
        "text": transcript(talk, said) if asked.format == "markdown" else None,
    }


def transcript(talk: Record, said: Sequence[Record]) -> str:
    """Return a conversation as Markdown; what was said is kept as it was."""
    lines = [f"# {talk.text}", ""]
    for each in said:
        at = f" ({each.at:%Y-%m-%d %H:%M} UTC)" if each.at else ""
        lines += [f"**{each.body.who or each.kind}**{at}", "", each.text, ""]
    return "\n".join(lines)


# -- organise -----------------------------------------------------------------------------------------------------


class Label(Named):
    label: Name
    folder: str | None = Field(None, max_length=200)


@operation(
    "PUT",
    "/conversations/{id}/label",
    needs=SEES_AND_WRITES,
    gives=ConversationShape,
    example={"label": "home", "folder": "private"},
)
async def label_conversation(asked: Label, call: Call) -> Json:
    """Give a conversation and its messages this one label, and a folder if one is named."""
    folder = {} if asked.folder is None else {"folder": _folder(asked.folder) or ""}
    return await _organised(call, asked.id, labels=[asked.label], **folder)


class File(Named):
    folder: str = Field(max_length=200, description='"" takes it out of its folder.')


@operation(
    "PUT", "/conversations/{id}/folder", needs=SEES_AND_WRITES, gives=ConversationShape, example={"folder": "private"}
)
async def file_conversation(asked: File, call: Call) -> Json:
    """Put a conversation and its messages into a folder; its labels stay."""
    return await _organised(call, asked.id, folder=_folder(asked.folder) or "")


@operation("PUT", "/conversations/{id}/pin", needs=SEES_AND_WRITES, gives=ConversationShape)
async def pin_conversation(asked: Named, call: Call) -> Json:
    """Keep a conversation at hand."""
    talk = await the_conversation(call, asked.id)
    return await described(call, await call.memory.revise(talk.id, pinned=True, **call.whose))


@operation("DELETE", "/conversations/{id}/pin", needs=SEES_AND_WRITES, gives=ConversationShape)
async def unpin_conversation(asked: Named, call: Call) -> Json:
    """Keep it at hand no longer."""
    talk = await the_conversation(call, asked.id)
    return await described(call, await call.memory.revise(talk.id, pinned=False, **call.whose))


@operation("PUT", "/conversations/{id}/archive", needs=SEES_AND_WRITES, gives=ConversationShape)
async def archive_conversation(asked: Named, call: Call) -> Json:
    """Put a conversation and its messages aside: they are found only by who asks for what is archived."""
    return await _organised(call, asked.id, archived=True)


@operation("DELETE", "/conversations/{id}/archive", needs=SEES_AND_WRITES, gives=ConversationShape)
async def unarchive_conversation(asked: Named, call: Call) -> Json:
    """Bring a conversation and its messages back."""
    return await _organised(call, asked.id, archived=False)


async def _organised(call: Call, id: str, **changes: Any) -> Json:
    talk = await the_conversation(call, id)
    whole, *_ = await call.memory.organise(talk.id, **changes, **call.whose)
    return await described(call, whole)


class EraseConversation(Named):
    dry_run: bool = Field(False, description="Only show what would go.")


@operation("DELETE", "/conversations/{id}", needs=Permit.ERASE, gives=Erased, destroys=True)
async def erase_conversation(asked: EraseConversation, call: Call) -> Json:
    """Erase a conversation with all that was said in it, and certify it."""
    talk = await the_conversation(call, asked.id)
    return await erased(call, talk.id, dry_run=asked.dry_run)


ROWS = (
    begin_conversation, append_messages, list_conversations, count_conversations, get_conversation,
    similar_conversations, export_conversation, label_conversation, file_conversation, pin_conversation,
    unpin_conversation, archive_conversation, unarchive_conversation, erase_conversation,
)  # fmt: skip
