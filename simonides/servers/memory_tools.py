"""The seven tools that every MCP client is shown: store, search, update, prune, get context, export, count."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from ..api import OPERATIONS
from ..api.conversations import transcript
from ..api.memories import FILTERS
from ..errors import Invalid
from ..recall.fit import estimated
from ..record import now
from ..wire import Json, record_of
from .tool import Answer, Arguments, Tool, Visit, tool

PAGE = 500  # records asked for at once
SHOWN = 2000  # characters of a hit; the whole is a resource
BUDGET = 1500  # tokens
ANSWER = 400_000  # bytes of JSON, said twice in an answer; clients take 2²⁰ bytes of one event
PROPOSED = 100  # conversations that one answer proposes
DAYS_MAX = 365_000
PREVIEW = 120  # characters
FRAME = 160  # bytes of JSON around what a message says
ALIASES = {"label": "labels", "conversation_id": "conversation", "importance_score": "importance_min"}
BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")


# -- store --------------------------------------------------------------------------------------------------------


class Store(Arguments):
    text: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, description="each {role, content}")
    conversation_id: str | None = Field(None, description="to go on with")
    label: str | None = None
    folder: str | None = None
    importance_score: int | None = Field(None, ge=1, le=10)


@tool()
async def memory_store(asked: Store, visit: Visit) -> Answer:
    """Remember a text or a conversation."""
    if (asked.text is None) == (asked.messages is None):
        raise Invalid("give either a text or messages, each {role, content}")
    if asked.conversation_id is not None:
        return await _gone_on(asked, visit)
    if asked.messages is None:
        labels = [asked.label] if asked.label else None
        importance, folder = asked.importance_score, _folder(asked.folder)
        kept = await visit.do("remember", content=asked.text, labels=labels, folder=folder, importance=importance)
        [record] = kept["results"]
        return Answer(f"Stored as {record['id']}.", {**brief(record), "indexed": kept["indexed"]})
    kept = await visit.do(
        "begin_conversation",
        messages=asked.messages,
        label=asked.label,
        folder=asked.folder,
        importance=asked.importance_score,
    )
    said = f"Stored conversation {kept['id']} with {_counted(len(kept['messages']), 'message')}."
    return Answer(said, {**row(kept), "indexed": kept["indexed"]})


async def _gone_on(asked: Store, visit: Visit) -> Answer:
    if asked.label or asked.folder or asked.importance_score:
        raise Invalid("it goes on as it is: label, folder and importance_score are changed by memory_update")
    messages = asked.messages if asked.messages is not None else [{"role": "user", "content": asked.text}]
    kept = await visit.do("append_messages", id=asked.conversation_id, messages=messages)
    ids = [each["id"] for each in kept["results"]]
    said = f"Added {_counted(len(ids), 'message')} to conversation {asked.conversation_id}."
    return Answer(said, {"conversation_id": asked.conversation_id, "message_ids": ids, "indexed": kept["indexed"]})


# -- search -------------------------------------------------------------------------------------------------------


class Search(Arguments):
    query: str
    filters: dict[str, Any] | None = Field(None, description="label, folder, since, until, conversation_id, …")
    limit: int = 10


@tool(reads=True)
async def memory_search(asked: Search, visit: Visit) -> Answer:
    """Find what was remembered, by meaning and words, best first."""
    found = await visit.do("recall", filters(asked.filters or {}), text=asked.query, limit=asked.limit)
    hits = [
        {
            "id": hit["record"]["id"],
            "conversation_id": hit["record"]["part_of"],
            "score": round(hit["score"], 3),
            **_shown(hit["record"]),
            "label": next(iter(hit["record"]["labels"]), hit["title"]),
            "folder": hit["record"]["folder"],
        }
        for hit in found["hits"]
    ]
    data = {"query": asked.query, "total_results": len(hits), "limit": asked.limit, "results": hits}
    lines = [f"{number}. {_line(hit)}" for number, hit in enumerate(hits, 1)] or ["Nothing found."]
    return Answer("\n".join([*lines, *(f"({note})" for note in found["notes"])]), {**data, "notes": found["notes"]})


def filters(said: Mapping[str, Any]) -> Json:
    """Return filters as `recall` takes them; a few go by the names that the tools use, too."""
    found: Json = {}
    for name, value in said.items():
        own = ALIASES.get(name, name)
        if own not in FILTERS:
            raise Invalid(f"there is no filter {name!r}; there are: {', '.join([*ALIASES, *FILTERS])}")
        found[own] = [value] if own in ("labels", "kinds", "sources") and isinstance(value, str) else value
    return found


def _shown(record: Json) -> Json:
    text = record["text"]
    cut = f"{text[:SHOWN].rstrip()}… (all of it: memory://record/{record['id']})" if len(text) > SHOWN else text
    return {"who": record["who"], "at": record["at"], "text": cut}


def _line(shown: Json) -> str:
    """Return a hit as a model reads it. Only what we say ourselves begins a line."""
    at = f"{shown['at'][:16].replace('T', ' ')} " if shown["at"] else ""
    who = f"{_one_line(shown['who'])}: " if shown["who"] else ""
    return f"{at}{who}{BREAK.sub(chr(10) + '    ', shown['text'])} (id {shown['id']}, score {shown['score']:.2f})"


def _one_line(text: str) -> str:
    return " ".join(BREAK.sub(" ", text).split())


# -- update -------------------------------------------------------------------------------------------------------


class Update(Arguments):
    conversation_id: str = Field(description="or a record's")
    label: str | None = None
    folder: str | None = Field(None, description='"" for none')
    status: Literal["active", "archived"] | None = None
    importance_score: int | None = None
    text: str | None = Field(None, description="corrects a record")


@tool(repeats=True)
async def memory_update(asked: Update, visit: Visit) -> Answer:
    """Change only what is named; earlier versions are kept."""
    named = asked.model_dump(exclude={"conversation_id"}, exclude_none=True)
    if not named:
        raise Invalid(f"nothing is named to change: {', '.join(list(Update.model_fields)[1:])}")
    whole: Json = {"id": asked.conversation_id}
    if asked.label is not None:
        whole["labels"] = [asked.label] if asked.label else []
    if asked.folder is not None:
        whole["folder"] = asked.folder.strip("/")
    if asked.status is not None:
        whole["archived"] = asked.status == "archived"
    alone = {"id": asked.conversation_id, "importance": asked.importance_score, "text": asked.text}
    alone = {name: value for name, value in alone.items() if value is not None}
    OPERATIONS["revise"].read(alone)  # what is wrong is said before anything is changed
    found: Json = {}
    if len(whole) > 1:
        [found, *_] = (await visit.do("organise", whole))["results"]
    if len(alone) > 1:
        found = (await visit.do("revise", alone))["record"]
    fields = ", ".join(named)
    return Answer(f"Updated {fields} of {found['id']}.", {**brief(found), "updated_fields": list(named)})


# -- prune --------------------------------------------------------------------------------------------------------


class Prune(Arguments):
    threshold_days: int = 30
    importance_threshold: float = 5
    dry_run: bool = True


@tool(repeats=True)
async def memory_prune(asked: Prune, visit: Visit) -> Answer:
    """Propose what to archive, and why. dry_run=false archives it; can be undone."""
    if asked.threshold_days < 0:
        raise Invalid("threshold_days must be 0 or more")
    found = await proposed(asked, visit)
    listed = found[:PROPOSED]
    if not asked.dry_run:
        for done, each in enumerate(listed, 1):
            await visit.do("archive_conversation", id=each["conversation_id"])
            await visit.tell(done, len(listed), "conversations archived")
    did = "Would archive" if asked.dry_run else "Archived"
    lines = [f"{did} {_counted(len(listed), 'conversation')} of {len(found)}:" if found else "Nothing to archive."]
    lines += [f"{each['conversation_id']} {_one_line(each['conversation_label'])}: {each['why']}" for each in listed]
    data = {**asked.model_dump(), "total_suggestions": len(found), "suggestions": listed}
    return Answer("\n".join(lines), {**data, "archived": 0 if asked.dry_run else len(listed)})


async def proposed(asked: Prune, visit: Visit) -> list[Json]:
    """Return the conversations that are old, not important and not pinned, the oldest first, each with why."""
    before = now() - timedelta(days=min(asked.threshold_days, DAYS_MAX))
    found: list[Json] = []
    async for page in _pages(visit, {"kinds": ["conversation"], "pinned": False, "until": before.isoformat()}):
        for talk in page:
            last = await _last_said(visit, talk) if talk["importance"] <= asked.importance_threshold else None
            if last is not None and datetime.fromisoformat(last["at"]) < before:
                found.append(_suggested(talk, last))
    return sorted(found, key=lambda each: (each["last_message_at"], each["conversation_id"]))


async def _last_said(visit: Visit, talk: Json) -> Json:
    said = await visit.do("find", conversation=talk["id"], limit=1)
    return next(iter(said["results"]), talk)


def _suggested(talk: Json, last: Json) -> Json:
    return {
        "conversation_id": talk["id"],
        "conversation_label": next(iter(talk["labels"]), talk["text"]),
        "last_message_at": last["at"],
        "importance_score": talk["importance"],
        "preview": _one_line(last["text"][:PREVIEW]),
        "recommendation": "archive",
        "why": f"nothing said since {last['at'][:10]}, importance {talk['importance']}",
    }


# -- context ------------------------------------------------------------------------------------------------------


class GetContext(Arguments):
    query: str | None = None
    budget: int = Field(BUDGET, description="tokens")
    conversation_id: str | None = None


@tool(reads=True)
async def memory_get_context(asked: GetContext, visit: Visit) -> Answer:
    """What to have in mind for a query, with citations; or a conversation, with its latest messages."""
    if asked.query is not None:
        named = {"conversation": asked.conversation_id, "budget": asked.budget}
        found = await visit.do("context", named, text=asked.query)
        cited = [{"number": each["number"], "id": each["record"]["id"]} for each in found["citations"]]
        data = {"text": found["text"], "tokens": found["tokens"], "citations": cited, "notes": found["notes"]}
        return Answer(found["text"] or "Nothing remembered fits.", data)
    if asked.conversation_id is None:
        raise Invalid("give a query, or a conversation_id")
    talk = await visit.do("get_conversation", id=asked.conversation_id)
    said, words = await _latest(visit, asked.conversation_id, asked.budget)
    about = row(talk)
    head = [f"{name}: {_one_line(str(value))}" for name, value in about.items() if value not in (None, [], "")]
    left_out = talk["message_count"] - len(said)
    notes = [f"{_counted(left_out, 'earlier message')} left out"] if left_out > 0 else []
    lines = [_line_of(each) for each in said]
    text = "\n".join([*head, *(f"({note})" for note in notes), "", *lines])
    return Answer(text, {**about, "word_count": words, "messages": [message(each) for each in said], "notes": notes})


async def _latest(visit: Visit, id: str, budget: int) -> tuple[list[Json], int]:
    """Return the latest messages that fit, in order, and how many words there are in them."""
    said: list[Json] = []
    words = room = 0
    async for page in _messages(visit, id, min(PAGE, max(20, budget // 20))):
        for each in page:
            room += estimated(_line_of(each))
            if room > budget and said:
                return said[::-1], words
            said.append(each)
            words += len(each["text"].split())
    return said[::-1], words


def _line_of(record: Json) -> str:
    at = f"{record['at'][:16].replace('T', ' ')} " if record["at"] else ""
    return f"{at}{_one_line(record['who'] or record['kind'])}: {BREAK.sub(chr(10) + '    ', record['text'])}"


# -- export -------------------------------------------------------------------------------------------------------


class Export(Arguments):
    conversation_id: str
    format: Literal["json", "markdown"] = "json"
    include_metadata: bool = True
    offset: int = 0


@tool(reads=True)
async def memory_export(asked: Export, visit: Visit) -> Answer:
    """A whole conversation; goes on at next_offset."""
    talk, everything = await whole(visit, asked.conversation_id)
    said = room_for(everything[max(0, asked.offset) :])
    behind = max(0, asked.offset) + len(said)
    following = behind if behind < len(everything) else None
    about = row(talk) if asked.include_metadata else {name: row(talk)[name] for name in ("id", "conversation_id")}
    messages = [message(each, metadata=asked.include_metadata) for each in said]
    data: Json = {"format": asked.format, "include_metadata": asked.include_metadata, "next_offset": following}
    if asked.format == "markdown":
        more = f"\n(goes on at offset {following})\n" if following else ""
        return Answer(await markdown(visit, talk, said) + more, {**data, "conversation": about})
    told: Json = {"conversation": about, "messages": messages, "next_offset": following}
    return Answer(json.dumps(told, ensure_ascii=False), {**data, **told})


def room_for(said: Sequence[Json]) -> list[Json]:
    """Return as many of the messages as one answer may hold; at least one."""
    room, found = ANSWER, list[Json]()
    for each in said:
        room -= len(json.dumps([each["text"], each["metadata"]], ensure_ascii=False).encode()) + FRAME
        if room < 0 and found:
            break
        found.append(each)
    return found


async def whole(visit: Visit, id: str) -> tuple[Json, list[Json]]:
    """Return a conversation and all that was said in it, in order."""
    talk = await visit.do("get_conversation", id=id)
    said: list[Json] = []
    async for page in _messages(visit, talk["id"], PAGE):
        said += page
        await visit.tell(len(said), talk["message_count"], "messages read")
    return talk, said[::-1]


async def markdown(visit: Visit, talk: Json, said: Sequence[Json]) -> str:
    record = record_of(await visit.do("get", id=talk["id"]))
    return transcript(record, [record_of(each) for each in said])


async def _messages(visit: Visit, id: str, size: int) -> AsyncIterator[list[Json]]:
    """Yield what is part of a conversation in pages, the latest first; archived too, as the conversation may be."""
    async for page in _pages(visit, {"conversation": id, "archived": True}, size):
        yield page


async def _pages(visit: Visit, which: Json, size: int = PAGE) -> AsyncIterator[list[Json]]:
    after: str | None = None
    while True:
        page = await visit.do("find", which, limit=size, after=after)
        yield page["results"]
        if (after := page["next"]) is None:
            return


# -- stats --------------------------------------------------------------------------------------------------------


class Stats(Arguments):
    folder: str | None = None
    label: str | None = None


@tool(reads=True)
async def memory_stats(asked: Stats, visit: Visit) -> Answer:
    """How much is remembered, by folder and label."""
    which: Json = {"kinds": ["conversation"], "folder": _folder(asked.folder)}
    which["labels"] = [asked.label] if asked.label else None
    total = (await visit.do("count", which, archived=True))["count"]
    folders, labels, importance, seen = Counter[str](), Counter[str](), 0, 0
    async for page in _pages(visit, {**which, "archived": True}):
        seen += len(page)
        folders.update(each["folder"] for each in page if each["folder"])
        labels.update(label for each in page for label in each["labels"])
        importance += sum(each["importance"] for each in page)
        await visit.tell(seen, total, "conversations counted")
    data: Json = {
        "total_conversations": seen,
        "average_importance": round(importance / seen, 2) if seen else None,
        "folders": [{"folder": name, "conversations": count} for name, count in sorted(folders.items())],
        "labels": [{"label": name, "conversations": count} for name, count in sorted(labels.items())],
    }
    if not (asked.folder or asked.label):
        whole = await visit.do("stats")
        data |= {name: whole[name] for name in ("records", "messages", "archived", "pinned")}
    return Answer(_told(data), data)


def _told(data: Json) -> str:
    lines = [f"{name}: {value}" for name, value in data.items() if isinstance(value, int | float)]
    for several, one in (("folders", "folder"), ("labels", "label")):
        if data[several]:
            shown = ", ".join(f"{_one_line(each[one])} ({each['conversations']})" for each in data[several])
            lines.append(f"{several}: {shown}")
    return "\n".join(lines)


# -- rows ---------------------------------------------------------------------------------------------------------


def row(talk: Json) -> Json:
    """Return what there is to say of a conversation, from its row of the table of conversations."""
    return {
        "conversation_id": talk["id"],
        "id": talk["id"],
        "label": talk["label"],
        "folder": talk["folder"],
        "status": talk["status"],
        "importance_score": talk["importance"],
        "message_count": talk["message_count"],
        "created_at": talk["created_at"],
    }


def brief(record: Json) -> Json:
    """Return what there is to say of a record as it is stored."""
    return {
        "id": record["id"],
        "conversation_id": record["id"] if record["kind"] == "conversation" else record["part_of"],
        "version": record["version"],
        "text": record["text"],
        "label": next(iter(record["labels"]), None),
        "folder": record["folder"],
        "status": record["status"],
        "importance_score": record["importance"],
    }


def message(record: Json, *, metadata: bool = False) -> Json:
    said = {
        "id": record["id"],
        "role": record["body"].get("role"),
        "name": record["body"].get("name"),
        "content": record["text"],
        "timestamp": record["at"],
    }
    return {**said, "metadata": record["metadata"]} if metadata else said


def _folder(name: str | None) -> str | None:
    return (name or "").strip("/") or None


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


MEMORY: Sequence[Tool] = (
    memory_store, memory_search, memory_update, memory_prune, memory_get_context, memory_export, memory_stats,
)  # fmt: skip
