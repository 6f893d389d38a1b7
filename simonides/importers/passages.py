"""A long text in passages: short enough to be found and read, whole enough to be understood.

A passage lies under one heading, and ends where a paragraph does, or a sentence where it must. Nothing is lost: put
together, the passages are the text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..kinds import Chunk, Document
from ..record import Record, Scope, Span, stable_id
from .reading import placed

LENGTH_MAX = 1200  # characters
CUTS = tuple(  # where to cut, the best first; each is tried where the one before leaves too much
    re.compile(cut)
    for cut in (
        r"\n(?:[ \t\r]*+\n)+",  # a blank line
        r"\n(?=[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t])",  # an item of a list
        r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s++(?=[^a-z])|(?<=[。！？])(?![。！？”’」』）\s])",  # a sentence
        r"\n",
        r"\s++",
    )
)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t\r\n]|$)")
UNDERLINE = re.compile(r" {0,3}(=+|-{2,})")


def passages(text: str, *, headings: bool) -> Iterator[tuple[str, str]]:
    """Yield (place, passage) in order; the place is the path of headings above it. No passage is only white space."""
    for place, section in _sections(text) if headings else [("", text)]:
        for passage in _fitting(section, CUTS):
            yield place, passage


def document(
    text: str,
    *,
    scope: Scope,
    source: str,
    title: str,
    name: str,
    digest: str,
    media_type: str,
    at: datetime | None = None,
    part_of: str | None = None,
    labels: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    headings: bool = False,
    preamble: str = "",
) -> Iterator[Record]:
    """Yield the Document and the Chunks that are its text, the preamble (what precedes the text) first.

    A chunk's id is made of the document, its place in the order, and what it says: a changed passage is another record.
    """
    owner = (source, scope.user or "", scope.agent or "", name)
    whole = Record(
        id=stable_id(None, *owner), scope=scope, part_of=part_of, valid=Span(since=at), source=source,
        body=Document(text=title, name=name, digest=digest, media_type=media_type),
        labels=tuple(labels), metadata=metadata or {},
    )  # fmt: skip
    yield whole
    if not text.strip():
        preamble, text = preamble + text, ""
    pieces = [("", preamble)] if preamble else []
    for number, (place, passage) in enumerate([*pieces, *passages(text, headings=headings)]):
        said = hashlib.sha256(passage.encode("utf-8", "surrogatepass")).hexdigest()
        yield Record(
            id=stable_id(placed(number), *owner, said), scope=scope, part_of=whole.id,
            body=Chunk(text=passage, place=place), valid=Span(since=at), source=source, labels=tuple(labels),
        )  # fmt: skip


# -- sections -----------------------------------------------------------------------------------------------------


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield (path of headings, text): the heading, and all down to the next. One with nothing below goes with that."""
    path: list[tuple[int, str]] = []
    held: list[str] = []
    said = False  # whether there is more than headings in what is held
    for line, level, title in _marked(text.splitlines(keepends=True)):
        if level:
            if said:
                yield _place(path), "".join(held)
                held, said = [], False
            path = [*(above for above in path if above[0] < level), (level, title)]
        elif line.strip():
            said = True
        held.append(line)
    if held:
        yield _place(path), "".join(held)


def _place(path: list[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in path if title)


def _marked(lines: list[str]) -> Iterator[tuple[str, int, str]]:
    """Yield (line, level, title) with level 0 for lines that are no headings; fenced code holds none."""
    fence, before = "", ""
    number = 0
    while number < len(lines):
        line = lines[number]
        if mark := FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if not fence and (heading := HEADING.match(line)):
            yield line, len(heading[1]), _title(line[heading.end() :])
        elif not fence and not mark and (level := _underlined(before, line, below)):
            yield line + below, level, line.strip()
            number += 1
        else:
            yield line, 0, ""
        before = lines[number]
        number += 1


def _underlined(before: str, line: str, below: str) -> int:
    """Return the level of a line that is a heading by the line of `=` or `-` below it; 0 where it is none."""
    under = UNDERLINE.fullmatch(below.rstrip()) if line.strip() and not before.strip() else None
    return 0 if under is None else 1 if under[1][0] == "=" else 2


def _title(after: str) -> str:
    """Return the words of a heading, without the hashes that may close it."""
    words = after.strip()
    bare = words.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else words


# -- pieces -------------------------------------------------------------------------------------------------------


def _fitting(text: str, cuts: Sequence[re.Pattern[str]]) -> list[str]:
    """Return the text in as few pieces as the cuts allow, none longer than it may be but for white space."""
    if len(text.strip()) <= LENGTH_MAX:
        return [text] if text.strip() else []
    if not cuts:
        *starts, last = range(0, len(text.rstrip()), LENGTH_MAX)
        return [*(text[start : start + LENGTH_MAX] for start in starts), text[last:]]
    pieces = _pieces(text, cuts[0])
    return list(_packed(part for piece in pieces for part in (_fitting(piece, cuts[1:]) or [piece])))


def _packed(parts: Iterable[str]) -> Iterator[str]:
    """Put together what fits, and white space with what it follows (at the beginning, what it precedes)."""
    held: list[str] = []
    size, solid = 0, False
    for part in parts:
        if solid and size + len(part) > LENGTH_MAX and part.strip():
            yield "".join(held)
            held, size, solid = [], 0, False
        held.append(part)
        size, solid = size + len(part), solid or bool(part.strip())
    yield "".join(held)


def _pieces(text: str, cut: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for match in cut.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]
