"""Work that a call begins and does not wait for.

What is remembered and not indexed yet is a task too: it is named after the line of the log that it waits for, so it
survives a restart. Other tasks live in this process; a server that is stopped waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..errors import SimonidesError
from ..record import new_id, now

log = logging.getLogger("simonides")

KEPT = 1000  # tasks that are remembered, the latest ones


@dataclass(frozen=True, slots=True)
class Task:
    """`status` is "running", "done" or "failed"; `result` is what the work gave, `error` why it failed."""

    id: str
    does: str
    owner: str  # the principal's name
    began: datetime
    status: str = "running"
    done: int = 0  # how far it is, in records
    ended: datetime | None = None
    result: Any = None
    error: str | None = None


class Tasks:
    def __init__(self) -> None:
        self._all: OrderedDict[str, Task] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, does: str, owner: str, work: Awaitable[Any]) -> Task:
        """Begin the work, and return its task at once."""
        task = self._put(Task(new_id(), does, owner, now()))
        running = asyncio.ensure_future(self._follow(task.id, work))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return task

    def get(self, id: str) -> Task | None:
        return self._all.get(id)

    async def ended(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _follow(self, id: str, work: Awaitable[Any]) -> None:
        try:
            result = await work
        except SimonidesError as error:
            self._put(replace(self._all[id], status="failed", ended=now(), error=error.message))
        except Exception:
            log.exception("a task failed")
            self._put(replace(self._all[id], status="failed", ended=now(), error="something went wrong; see the log"))
        else:
            self._put(replace(self._all[id], status="done", ended=now(), result=result))

    def _put(self, task: Task) -> Task:
        self._all[task.id] = task
        while len(self._all) > KEPT:
            self._all.popitem(last=False)
        return task
