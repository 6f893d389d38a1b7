"""What comes and goes in streams: an export, an import, and what happens as it happens.

Memory use does not grow with them. Every door that can stream has these three beside the table.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from pathlib import Path

from pydantic import Field

from .. import importers
from ..exports import header, line
from ..importer import Problem
from ..record import Record
from ..wire import Json, change_as_json
from .memories import FILTERS, picked
from .operation import Call
from .shapes import Asked, Shape, Which

BATCH = 500  # records that are written at once
PROBLEMS_MAX = 100  # that an answer tells


class Export(Which):
    """What to export; the archived and the ended always go with it."""


async def export(asked: Export, call: Call) -> AsyncGenerator[bytes]:
    """Yield our own export of what matches, line by line: every version of every record, with its clocks.

    What is wrong with the question is raised before anything is yielded.
    """
    before, place = header() + b"\n", None
    while True:
        found = await call.memory.versions(
            after=place, limit=BATCH, **{**picked(asked, FILTERS), "archived": True, "ended": True}, **call.whose
        )
        await call.stays()
        yield before + b"".join(line(record) + b"\n" for record in found)
        if (place := found.next) is None:
            return
        before = b""


class Import(Asked):
    """Into whose memory it goes; what names nobody in the file is theirs."""

    ids: bool = Field(False, description="Answer with the ids of what is new.")


class Imported(Shape):
    read: int
    new: int
    ids: list[str] = Field(description="Of what is new, where they were asked for.")
    problems: list[str] = Field(description="What could not be read, by file and line; the first hundred.")
    problems_count: int
    indexed: bool
    task: str | None


async def take_in(path: Path, name: str, call: Call, *, ids: bool = False) -> Json:
    """Keep what the file holds: an export of ours, or any format that there is an importer for."""
    await call.desk.admit()
    read = new = wrong = 0
    problems, known = list[str](), list[str]()
    found = importers.read([path], call.scope)
    while batch := await asyncio.to_thread(_next, found):
        bad = [each for each in batch if isinstance(each, Problem)]
        wrong += len(bad)
        problems += [str(each).replace(str(path), name) for each in bad][: PROBLEMS_MAX - len(problems)]
        records = [each for each in batch if isinstance(each, Record)]
        versions = [record for record in records if record.known.since]
        others = [record for record in records if not record.known.since]
        read += len(records)
        new += await call.memory.restore(versions) if versions else 0
        kept = await call.memory.keep(others) if others else []
        new += len(kept)
        known += [record.id for record in kept] if ids else []
    place = await call.memory.position()
    done = place.indexed >= place.written
    return {
        "read": read, "new": new, "ids": known, "problems": problems, "problems_count": wrong, "indexed": done,
        "task": None if done else f"log-{place.written}",
    }  # fmt: skip


def _next(found: Iterator[Record | Problem]) -> list[Record | Problem]:
    return list(islice(found, BATCH))


class Events(Asked):
    after: int | None = Field(None, ge=0, lt=2**53, description="Where to go on; default: from now on.")


async def events(asked: Events, call: Call) -> AsyncGenerator[Json]:
    """Yield what happens to what this scope sees, as it happens, without end."""
    watch = call.desk.watch
    place = (await call.memory.position()).written if asked.after is None else asked.after
    async with contextlib.aclosing(watch.moves(call.memory, place)) as moves:
        async for _ in moves:
            while True:
                found = await call.memory.changes(after=place, limit=BATCH, **call.whose)
                await call.stays()
                for each in found:
                    yield change_as_json(each)
                moved, place = found.next > place, found.next
                if not moved:
                    break
