"""Which tools there are, and in which sets: what `--tools` and `/mcp?tools=` may name.

`memory` is the seven. `all` is every operation of the table; `recalling`, `conversations`, … are those of one resource.
Tools and operations go by their own names, too: `memory,similar_conversations`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from ..api import OPERATIONS, Operation
from ..api.shapes import TaskShape
from ..config import did_you_mean
from ..errors import Invalid, SimonidesError
from ..wire import Json
from .memory_tools import MEMORY
from .tool import Answer, Tool, Visit, schema

DEFAULT = "memory"
LOOKED_S = 0.2  # between two looks at how far a task is


def of_operation(row: Operation) -> Tool:
    """Make a tool of a row of the table: it takes what the operation takes, and answers with what it gives."""

    async def run(arguments: Mapping[str, Any], visit: Visit) -> Answer:
        found = await visit.do(row.name, arguments)
        if row.gives is TaskShape and not row.reads:
            found = await _followed(found, visit)
        return Answer(json.dumps(found, ensure_ascii=False, separators=(",", ":")), found)

    return Tool(
        name=row.name,
        does=" ".join(row.tells.split()),
        takes=schema(row.takes),
        reads=row.reads,
        destroys=row.destroys,
        repeats=row.repeats,
        run=run,
    )


async def _followed(task: Json, visit: Visit) -> Json:
    """Wait for a task that a call began, and return it as it ended. Whoever waits no longer does not stop it."""
    looks = 0
    while task["status"] == "running":
        await asyncio.sleep(LOOKED_S)
        looks += 1
        task = await visit.do("get_task", id=task["id"])
        await visit.tell(max(looks, task["done"]), None, task["does"])
    if task["status"] == "failed":
        raise SimonidesError(task["error"])
    return task


ALL: Mapping[str, Tool] = {name: of_operation(row) for name, row in OPERATIONS.items()}
TOOLS: Mapping[str, Tool] = {**{each.name: each for each in MEMORY}, **ALL}


def sets() -> dict[str, dict[str, Tool]]:
    """Return the sets by name."""
    found: dict[str, dict[str, Tool]] = {DEFAULT: {each.name: each for each in MEMORY}, "all": dict(ALL)}
    for name, row in OPERATIONS.items():
        found.setdefault(row.resource, {})[name] = ALL[name]
    return found


def chosen(names: str) -> dict[str, Tool]:
    """Return the tools that a list of sets and tools names, separated by commas. Raise Invalid where one is unknown."""
    known, found = sets(), dict[str, Tool]()
    for name in (part.strip() for part in names.split(",")):
        if name in known:
            found |= known[name]
        elif name in TOOLS:
            found[name] = TOOLS[name]
        else:
            there = [*known, *TOOLS]
            raise Invalid(
                f"there is no tool or set {name[:50]!r}{did_you_mean(name[:50], there)}; sets are: {', '.join(known)}; "
                "single tools and operations go by their names"
            )
    return found
