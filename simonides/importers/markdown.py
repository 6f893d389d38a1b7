"""Markdown and text files: a Document, and Chunks that hold its every character.

What stands between `---` lines at the top (front matter: `key: value`, or lists) says the title, the date and the
labels; the rest of it is metadata. It is itself kept, as the first chunk.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Damaged
from ..importer import Problem
from ..record import Record, Scope
from .archive import Member, members, shown, suffix
from .elements import Element
from .passages import document
from .reading import Reading

name = "Markdown or text"
generality = 2  # asked after the others: these are known by their names alone
MARKDOWN, TEXT = (".md", ".markdown", ".mdown", ".mkd"), (".txt", ".text", ".rst", ".org")
TEXT_MAX = 256 * 1024**2  # bytes: such a file is read as a whole
FRONT = re.compile(r"---[ \t]*\r?\n(?:(.*?)\r?\n)??(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
PAIR = re.compile(r"([\w][\w .-]{0,99}?)\s*:(?:\s+(.*))?")
ITEM = re.compile(r"\s*-\s+(.*)")
LABELS, DATES = ("labels", "tags", "keywords"), ("date", "created", "created_at")


def recognises(path: Path, head: bytes) -> bool:
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return suffix(path) in (*MARKDOWN, *TEXT) and (utf16 or b"\0" not in head)


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    try:
        for member in members(path):
            reading = Reading(member.name)
            make = _Document(path, scope)
            data = _whole(member)
            yield from reading.records(Element(1, data), make)
    except Damaged as error:
        yield Problem(shown(path), None, str(error))
    except OSError as error:
        yield Problem(shown(path), None, f"cannot be read: {error.strerror or error}")


def _whole(member: Member) -> bytes:
    data = bytearray()
    for block in member.blocks:
        data += block
        if len(data) > TEXT_MAX:
            raise Damaged(f"is a text of more than {TEXT_MAX // 1024**2} MiB: split it")
    return bytes(data)


@dataclass(frozen=True, slots=True)
class _Document:
    path: Path
    scope: Scope

    def __call__(self, data: bytes, reading: Reading) -> Iterator[Record]:
        text = _decoded(data, reading)
        if not text.strip():
            return iter(())
        front = FRONT.match(text)
        said = _front(front[1] or "") if front else {}
        place = os.path.abspath(self.path)
        metadata = {key: value for key, value in said.items() if key not in (*LABELS, *DATES)}
        markdown = suffix(self.path) in MARKDOWN
        return document(
            text[front.end() :] if front else text,
            preamble=front[0] if front else "",
            scope=self.scope,
            source="import/markdown",
            title=_string(said.get("title")) or Path(place).name,
            name=place,
            digest=hashlib.sha256(data).hexdigest(),
            media_type="text/markdown" if markdown else "text/plain",
            at=reading.moment(next((said[key] for key in DATES if said.get(key)), None), "front matter"),
            labels=reading.labels([label for key in LABELS for label in _labels(said.get(key))]),
            metadata=metadata,
            headings=markdown,
        )


def _decoded(data: bytes, reading: Reading) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise Damaged(f"is not the UTF-16 that it says it is, at byte {error.start}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reading.wrong(f"is not UTF-8 (at byte {error.start}): it was read as Windows-1252")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five of its bytes are no characters; Latin-1 knows them as controls
        return data.decode("latin-1")


# -- front matter -------------------------------------------------------------------------------------------------


def _front(text: str) -> dict[str, Any]:
    """Read `key: value` lines and lists, as most front matter is; what is more than that is left in the text."""
    said: dict[str, Any] = {}
    last = ""
    for line in text.splitlines():
        if item := ITEM.fullmatch(line):
            if last and not _string(said.get(last)):
                said[last] = [*(said[last] or []), _unquoted(item[1])]
        elif pair := PAIR.fullmatch(line):
            last = pair[1].strip()
            said[last] = _value(pair[2] or "")
    return said


def _value(text: str) -> str | list[str]:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [_unquoted(part) for part in text[1:-1].split(",") if part.strip()]
    return _unquoted(text)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _labels(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else _string(value).split(",")
    return [label for part in parts if (label := part.strip().lstrip("#"))]
