"""Claude's export: `conversations.json`, or the zip that it comes in.

What tools answered is kept, archived; what the model thought to itself is not. A text attached to a message (a file, a
long paste) becomes a Document of the conversation, and its passages Chunks of that, so that they are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..importer import Problem
from ..record import Record, Scope
from .elements import keys
from .passages import document
from .reading import Reading, read_elements
from .thread import ROLES, Thread, after

name = "Claude export"
FORMAT = "claude"


class Talk(Struct):
    """A conversation. Its messages are narrowed one by one, so that a broken one costs only itself."""

    uuid: str
    chat_messages: list[Any]
    name: str | None = None
    summary: str | None = None
    created_at: Any = None


class Turn(Struct):
    uuid: str
    sender: str = "human"
    text: str | None = None
    content: list[Any] | None = None
    created_at: Any = None
    attachments: list[Any] | None = None
    files: list[Any] | None = None


class Block(Struct):
    type: str = "text"
    text: str | None = None
    name: str | None = None
    content: Any = None


class Attachment(Struct):
    file_name: str | None = None
    file_type: str | None = None
    extracted_content: str | None = None


def recognises(path: Path, head: bytes) -> bool:
    return "chat_messages" in keys(head)


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    return read_elements(path, lambda value, reading: _conversation(value, scope, reading))


def _conversation(value: Any, scope: Scope, reading: Reading) -> Iterator[Record]:
    talk = reading.narrowed(value, Talk, "a conversation")
    thread = Thread.begun(FORMAT, scope, talk.uuid, talk.created_at, reading) if talk else None
    if talk is None or thread is None:
        return
    summary = {"summary": talk.summary} if talk.summary else {}
    yield thread.conversation(reading.sound(talk.name, "name"), summary)
    at, said = thread.since, False
    for place, item in enumerate(talk.chat_messages):
        turn = reading.narrowed(item, Turn, f"message {place + 1}")
        if turn:
            own = reading.moment(turn.created_at, f"message {turn.uuid!a}")
            at, said = own or (after(at) if said else at), True
            yield from _messages(thread, turn, at, place, reading)


def _messages(thread: Thread, turn: Turn, at: datetime | None, place: int, reading: Reading) -> Iterator[Record]:
    what = f"message {turn.uuid!a}"
    blocks = [block for item in turn.content or [] if (block := reading.narrowed(item, Block, f"a part of {what}"))]
    said = "\n\n".join(block.text for block in blocks if block.type == "text" and block.text) or turn.text or ""
    tools = [block.name for block in blocks if block.type == "tool_use" and block.name]
    names = [file["file_name"] for file in turn.files or [] if _is_named(file)]
    about = {"tools": tools, "files": names, "sender": "" if turn.sender in ROLES else turn.sender}
    if said.strip():
        yield thread.message(
            said, native=[turn.uuid], at=at, role=ROLES.get(turn.sender, "tool"), place=place,
            metadata={key: value for key, value in about.items() if value},
        )  # fmt: skip
    answered = at
    for number, block in enumerate(blocks):
        if block.type == "tool_result" and (answer := _answer(block.content)).strip():
            native, answered = [turn.uuid, str(number)], after(answered)
            yield thread.message(answer, native=native, at=answered, role="tool", name=block.name, place=place)
    for number, item in enumerate(turn.attachments or []):
        if attachment := reading.narrowed(item, Attachment, f"an attachment of {what}"):
            yield from _attached(thread, turn, attachment, number, at)


def _is_named(file: Any) -> bool:
    return isinstance(file, dict) and isinstance(file.get("file_name"), str)


def _answer(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def _attached(thread: Thread, turn: Turn, attachment: Attachment, number: int, at: datetime | None) -> Iterator[Record]:
    text, title = attachment.extracted_content or "", attachment.file_name or "attachment"
    if text.strip():
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        yield from document(
            text, scope=thread.scope, source=thread.source, title=title, name=f"{turn.uuid}/{number}/{title}",
            digest=digest, media_type=_media_type(attachment), at=at, part_of=thread.id,
            headings=title.lower().endswith(".md"),
        )  # fmt: skip


def _media_type(attachment: Attachment) -> str:
    return attachment.file_type if attachment.file_type and "/" in attachment.file_type else "text/plain"
