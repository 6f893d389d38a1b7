"""Look after the memory: how much there is, whether it is well, and what goes on in it."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal

from pydantic import Field

from ..access import Permit
from ..errors import NotFound
from ..kinds import KINDS
from ..wire import Json, change_as_json
from .operation import Call, operation
from .shapes import Asked, Changes, Name, Shape, TaskShape


class Stats(Shape):
    """How much of each kind there is now, archived or not."""

    records: int
    kinds: dict[str, int]
    conversations: int
    messages: int
    archived: int
    pinned: int
    indexed: bool
    behind: str | None = Field(description="Why something cannot be found by meaning yet.")


@operation("GET", "/stats", needs=Permit.READ, gives=Stats)
async def stats(asked: Asked, call: Call) -> Json:
    """Say how much is remembered in this scope."""
    memory, whose = call.memory, call.whose
    counts = await asyncio.gather(*(memory.count(kinds=[kind], archived=True, **whose) for kind in KINDS))
    kinds = {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}
    place = await memory.position()
    return {
        "records": sum(kinds.values()),
        "kinds": kinds,
        "conversations": kinds.get("conversation", 0),
        "messages": kinds.get("message", 0),
        "archived": sum(kinds.values()) - await memory.count(**whose),
        "pinned": await memory.count(pinned=True, archived=True, **whose),
        "indexed": place.indexed >= place.written,
        "behind": memory.behind,
    }


class Doctor(Shape):
    healthy: bool
    complaints: list[str] = Field(description="What is wrong, each with what to do.")


@operation("GET", "/doctor", needs=Permit.ADMIN, gives=Doctor, whole=True)
async def doctor(asked: Asked, call: Call) -> Json:
    """Look the whole store over: the file, the log, the words, the vectors."""
    complaints = await call.memory.doctor()
    return {"healthy": not complaints, "complaints": complaints}


@operation("POST", "/rebuild", needs=Permit.ADMIN, gives=TaskShape, status=202, repeats=True, whole=True)
async def rebuild(asked: Asked, call: Call) -> Json:
    """Make the words and the vector index again from the records. It goes on behind; ask the task how far it is."""

    async def work() -> dict[str, int]:
        return {"vectors": await call.memory.rebuild()}

    task = call.desk.tasks.begin("rebuild", call.principal.name, work())
    return _task(task)


class Task(Asked):
    id: Name


@operation("GET", "/tasks/{id}", needs=Permit.READ, gives=TaskShape)
async def get_task(asked: Task, call: Call) -> Json:
    """Say how far a task is. One that waits for what was remembered to be indexed survives a restart."""
    if line := re.fullmatch(r"log-([0-9]{1,18})", asked.id):
        place = await call.memory.position()
        if not 0 < int(line[1]) <= place.written:
            raise NotFound(f"no task {asked.id!r}: nothing was written as that line of the log")
        done = place.indexed >= int(line[1])
        return {
            "id": asked.id, "does": "index", "status": "done" if done else "running", "began": None, "ended": None,
            "done": place.indexed, "result": None, "error": None if done else call.memory.behind,
        }  # fmt: skip
    task = call.desk.tasks.get(asked.id)
    if task is None or task.owner != call.principal.name:
        raise NotFound(f"no task {asked.id!r} of yours; the latest thousand are kept while the server runs")
    return _task(task)


def _task(task: Any) -> Json:
    return {
        "id": task.id, "does": task.does, "status": task.status, "began": task.began.isoformat(),
        "ended": task.ended.isoformat() if task.ended else None, "done": task.done, "result": task.result,
        "error": task.error,
    }  # fmt: skip


class Log(Asked):
    after: int = Field(0, ge=0, lt=2**53, description="What `next` said last; 0 from the beginning.")
    limit: int = Field(100, ge=1, le=1000)


@operation("GET", "/changes", needs=Permit.READ, gives=Changes)
async def changes(asked: Log, call: Call) -> Json:
    """Read the log: what was written, erased and certified, in order, without its content."""
    found = await call.memory.changes(after=asked.after, limit=asked.limit, **call.whose)
    return {"results": [change_as_json(each) for each in found], "next": found.next}


class Place(Shape):
    written: int = Field(description="The last line of the log.")
    indexed: int = Field(description="The line up to which it can be found by meaning.")


@operation("GET", "/position", needs=Permit.READ, gives=Place)
async def position(asked: Asked, call: Call) -> Json:
    """Say how far the log goes, and up to where it is indexed."""
    place = await call.memory.position()
    return {"written": place.written, "indexed": place.indexed}


class PartShape(Shape):
    name: str
    works: bool
    fallback: bool = Field(description="It works, but not as it should; says says why.")
    says: str


class Health(Shape):
    status: Literal["ok", "degraded", "down"]
    version: str
    uptime_seconds: float
    parts: list[PartShape]


class Capabilities(Shape):
    version: str
    operations: list[str]
    parts: list[PartShape]


ROWS = (stats, changes, position, get_task, doctor, rebuild)
