"""Remember, look, correct and forget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from ..access import Permit
from ..drafts import Content
from ..errors import Forbidden, Invalid, NotFound
from ..forgetting import Preview
from ..kinds import KINDS
from ..query import Place
from ..record import Link, Record
from ..store import Certificate
from ..wire import Json, as_json, certificate_as_json, preview_as_json
from .operation import Call, operation
from .shapes import (
    Asked,
    Bodied,
    Certificates,
    Changed,
    Count,
    Erased,
    Given,
    Importance,
    Kept,
    Limit,
    LinkAsked,
    Moment,
    Name,
    Names,
    OwnId,
    Records,
    RecordShape,
    Said,
    Text,
    Versions,
    Wait,
    Which,
)

FILTERS = tuple(name for name in Which.model_fields if name not in Asked.model_fields)
GIVEN = tuple(name for name in Given.model_fields if name not in Asked.model_fields and name != "wait")


def picked(asked: Asked, names: Sequence[str]) -> dict[str, Any]:
    """Return what was named of these fields, as the library's methods take it."""
    said = asked.model_dump(include=set(names), exclude_unset=True, exclude_none=True)
    return {name: said[name] for name in names if name in said}


async def indexed(call: Call, wait: str) -> Json:
    """Return whether what has been written can be found by meaning, having waited for it if that was asked."""
    place = await call.memory.position()
    written = place.written
    if wait == "indexed" and place.indexed < written and not await call.desk.full():
        await call.memory.settle()
        place = await call.memory.position()
    done = place.indexed >= written
    return {"indexed": done, "task": None if done else f"log-{written}"}


async def changed(call: Call, record: Record, wait: str) -> Json:
    return {"record": as_json(record), **await indexed(call, wait)}


def page(found: Sequence[Record], limit: int) -> Json:
    """Return a page of what was found, of which one more than the limit was asked for."""
    more = len(found) > limit
    results = found[:limit]
    return {"results": [as_json(each) for each in results], "next": str(Place.of(results[-1])) if more else None}


# -- remember -----------------------------------------------------------------------------------------------------


class Remember(Given):
    """A text, a message, or a list of them, which are kept together or not at all."""

    content: Text | Said | Bodied | Annotated[list[Text | Said | Bodied], Field(min_length=1, max_length=10_000)] = (
        Field(
            description="A text, a message {role, content, at, …}, or a list of them.",
            examples=["I moved to Lisbon in May", [{"role": "user", "content": "I am allergic to nuts"}]],
        )
    )
    role: Literal["user", "assistant", "system", "tool", "developer"] | None = None
    name: Name | None = Field(None, description="The speaker's name.")
    at: Moment | None = Field(None, description="When it was said or began to be true.")
    id: OwnId | None = Field(None, description="The caller's own id: the same write twice is one.")
    title: Name | None = Field(None, description="Of the conversation, where it is new.")
    part_of: Name | None = Field(None, description="The id of what it is part of.")
    links: Annotated[list[LinkAsked], Field(max_length=100)] | None = None


@operation(
    "POST",
    "/memories",
    needs=Permit.WRITE,
    gives=Kept,
    status=201,
    example={"content": "I moved to Lisbon in May", "user": "ana"},
)
async def remember(asked: Remember, call: Call) -> Json:
    """Keep a text, a message, or a list of messages.

    What names a session, a role or a speaker becomes a message of that session's conversation; anything else is a note.
    """
    items = asked.content if isinstance(asked.content, list) else [asked.content]
    if len(items) > (most := call.desk.serving.batch_max):
        raise Invalid(f"more than {most} in one batch: send them in several")
    contents = [content_of(item) for item in items]
    more = picked(asked, (*GIVEN, "role", "name", "at", "id", "title", "part_of"))
    if asked.links:
        more["links"] = [Link(link.role, link.target) for link in asked.links]
    content: Any = contents if isinstance(asked.content, list) else contents[0]
    kept = await call.memory.remember(content, once=call.once, **more, **call.whose)
    records = kept if isinstance(kept, list) else [kept]
    return {"results": [as_json(record) for record in records], **await indexed(call, asked.wait)}


def content_of(item: str | Said | Bodied) -> Content:
    """Return what was said as the library takes it."""
    if isinstance(item, str):
        return item
    if isinstance(item, Said):
        return item.model_dump(exclude_none=True)
    try:
        return KINDS[item.kind](**item.body)  # type: ignore[arg-type]
    except TypeError:
        raise Invalid(f"the body of a {item.kind} says other things than {', '.join(item.body)}") from None


# -- look ---------------------------------------------------------------------------------------------------------


class Named(Asked):
    id: Name


@operation("GET", "/memories/{id}", needs=Permit.READ, gives=RecordShape)
async def get(asked: Named, call: Call) -> Json:
    """Show the latest version of a record, whatever became of it."""
    return as_json(await call.memory.get(asked.id, **call.whose))


class Find(Which):
    limit: Limit = 100
    after: str | None = Field(None, max_length=1000, description="What `next` of the last page said.")
    sort: Literal["newest", "id"] = Field("newest", description="Newest first, or by id, which is oldest first.")


@operation("GET", "/memories", needs=Permit.READ, gives=Records)
async def find(asked: Find, call: Call) -> Json:
    """List the records that match, in pages."""
    after = Place.read(asked.after) if asked.after else None
    found = await call.memory.find(
        limit=asked.limit + 1, newest=asked.sort == "newest", after=after, **picked(asked, FILTERS), **call.whose
    )
    return page(found, asked.limit)


@operation("GET", "/memories/count", needs=Permit.READ, gives=Count)
async def count(asked: Which, call: Call) -> Json:
    """Count the records that match."""
    return {"count": await call.memory.count(**picked(asked, FILTERS), **call.whose)}


class ReadOut(Which):
    limit: Limit = 500
    after: str | None = Field(None, max_length=1000, description="What `next` of the last page said.")


@operation("GET", "/memories/versions", needs=Permit.READ, gives=Records)
async def versions(asked: ReadOut, call: Call) -> Json:
    """Read out every version of the records that match, by id, so many records at a time."""
    filters: Any = {"archived": True, "ended": True, **picked(asked, FILTERS), **call.whose}
    found = await call.memory.versions(limit=asked.limit, after=asked.after, **filters)
    return {"results": [as_json(each) for each in found], "next": str(found.next) if found.next else None}


@operation("GET", "/memories/{id}/history", needs=Permit.READ, gives=Versions)
async def history(asked: Named, call: Call) -> Json:
    """Show every version of a record, the first one first."""
    return {"results": [as_json(each) for each in await call.memory.history(asked.id, **call.whose)]}


class Messages(Named):
    limit: Limit = 1000


@operation("GET", "/memories/{id}/messages", needs=Permit.READ, gives=Versions)
async def messages(asked: Messages, call: Call) -> Json:
    """Show what is part of a conversation or document, in order: the last so many."""
    return {
        "results": [as_json(each) for each in await call.memory.messages(asked.id, limit=asked.limit, **call.whose)]
    }


# -- correct ------------------------------------------------------------------------------------------------------

SEES_AND_WRITES = Permit.READ | Permit.WRITE  # what answers with more of a record than the caller sent
REVISED = ("text", "labels", "folder", "importance", "pinned", "archived", "metadata", "at", "ends", "version")


class Revise(Named):
    """What is not named stays as it is."""

    text: Text | None = None
    labels: list[Name] | None = Field(None, max_length=100, description="All of them from now on; [] for none.")
    folder: str | None = Field(None, max_length=200, description='"" takes it out of its folder.')
    importance: Importance | None = None
    pinned: bool | None = None
    archived: bool | None = None
    metadata: dict[str, JsonValue] | None = None
    at: Moment | None = None
    ends: Moment | None = None
    version: int | None = Field(None, ge=1, description="Refuse unless this is the latest version.")
    wait: Wait = "indexed"


@operation(
    "PATCH",
    "/memories/{id}",
    needs=SEES_AND_WRITES,
    gives=Changed,
    repeats=True,
    example={"text": "I moved to Lisbon in June", "importance": 7},
)
async def revise(asked: Revise, call: Call) -> Json:
    """Write the next version of a record; the old one is kept."""
    record = await call.memory.revise(asked.id, **picked(asked, REVISED), **call.whose)
    return await changed(call, record, asked.wait)


class Organise(Named):
    labels: list[Name] | None = Field(None, max_length=100, description="All of them from now on; [] for none.")
    folder: str | None = Field(None, max_length=200, description='"" takes it out of its folder.')
    pinned: bool | None = None
    archived: bool | None = None


@operation(
    "PUT",
    "/memories/{id}/organise",
    needs=SEES_AND_WRITES,
    gives=Versions,
    example={"labels": ["home"], "folder": "private"},
)
async def organise(asked: Organise, call: Call) -> Json:
    """Label, file, pin or archive a record and everything that is part of it."""
    changes = picked(asked, ("labels", "folder", "pinned", "archived"))
    found = await call.memory.organise(asked.id, **changes, **call.whose)
    return {"results": [as_json(each) for each in found]}


class Supersede(Named):
    content: Text | Said | Bodied = Field(description="What is true instead.")
    at: Moment | None = Field(None, description="Since when; default: now.")
    wait: Wait = "indexed"


@operation(
    "POST",
    "/memories/{id}/supersede",
    needs=SEES_AND_WRITES,
    gives=Changed,
    status=201,
    example={"content": "I live in Porto", "at": "2026-06-01"},
)
async def supersede(asked: Supersede, call: Call) -> Json:
    """Keep what is true instead, and end the old record there."""
    record = await call.memory.supersede(
        asked.id, content_of(asked.content), once=call.once, **picked(asked, ("at",)), **call.whose
    )
    return await changed(call, record, asked.wait)


class Retract(Named):
    wait: Wait = "indexed"


@operation(
    "POST", "/memories/{id}/retract", needs=SEES_AND_WRITES, gives=Changed, repeats=True, example={"user": "ana"}
)
async def retract(asked: Retract, call: Call) -> Json:
    """Say that it was never true: it is not found again, but its history stays."""
    return await changed(call, await call.memory.retract(asked.id, **call.whose), asked.wait)


# -- forget -------------------------------------------------------------------------------------------------------

ERASED = ("kinds", "labels", "folder", "since", "until", "pinned", "importance_min", "metadata", "sources")


class Forget(Asked):
    """What to erase: by ids, or by what it bears; all of it must match, a user, agent or session named too."""

    ids: Names | None = None
    kinds: Names | None = None
    labels: Names | None = None
    folder: Name | None = None
    since: Moment | None = None
    until: Moment | None = None
    pinned: bool | None = None
    importance_min: Importance | None = None
    metadata: dict[str, str | int | float | bool | None] | None = None
    sources: Names | None = None
    conversation: Name | None = None
    everything: bool = Field(False, description="Erase the whole space; it has to be said.")
    dry_run: bool = Field(False, description="Only show what would go.")


@operation(
    "POST",
    "/memories/forget",
    needs=Permit.ERASE,
    gives=Erased,
    destroys=True,
    example={"user": "ana", "labels": ["draft"], "dry_run": True},
)
async def forget(asked: Forget, call: Call) -> Json:
    """Erase from every version, index, log, cache and file, and certify it. With dry_run, show what would go."""
    named = picked(asked, (*ERASED, "conversation", "everything", "dry_run"))
    bound = call.principal.user is not None and asked.user is None and asked.session is None and asked.agent is None
    if bound and not (asked.ids or asked.everything or picked(asked, (*ERASED, "conversation"))):
        raise Invalid("nothing is named to forget: give ids, labels or a time span, name the user, or say everything")
    return await erased(call, *(asked.ids or ()), **named)


async def erased(call: Call, *ids: str, **named: Any) -> Json:
    """Erase, and return the certificate; of a dry run, what would go, to whom may see it."""
    if named.get("dry_run") and Permit.READ not in call.principal.permits:
        raise Forbidden("this key may not read, and a dry run shows what would go")
    gone: Preview | Certificate = await call.memory.forget(*ids, **named, **call.whose)
    if isinstance(gone, Preview):
        return {"certificate": None, "preview": preview_as_json(gone)}
    return {"certificate": certificate_as_json(gone), "preview": None}


class EraseOne(Named):
    dry_run: bool = Field(False, description="Only show what would go.")


@operation("DELETE", "/memories/{id}", needs=Permit.ERASE, gives=Erased, destroys=True)
async def erase(asked: EraseOne, call: Call) -> Json:
    """Erase one record, its parts, and what was derived from it alone, and certify it."""
    return await erased(call, asked.id, dry_run=asked.dry_run)


class ListCertificates(Asked):
    limit: Limit = 100
    after: Name | None = Field(None, description="What `next` of the last page said.")


@operation("GET", "/certificates", needs=Permit.READ, gives=Certificates)
async def certificates(asked: ListCertificates, call: Call) -> Json:
    """List the certificates of what was erased, the oldest first, in pages."""
    found = await call.memory.certificates(**call.whose)
    if asked.after is not None:
        place = next((n for n, each in enumerate(found, 1) if each.id == asked.after), None)
        if place is None:
            raise NotFound(f"no certificate {asked.after!r} in this scope to go on after")
        found = found[place:]
    shown = found[: asked.limit]
    return {
        "results": [certificate_as_json(each) for each in shown],
        "next": shown[-1].id if len(found) > asked.limit else None,
    }


ROWS = (
    remember, find, count, versions, get, history, messages, revise, organise, supersede, retract, forget, erase,
    certificates,
)  # fmt: skip
