"""Waits for the log to grow, in whatever process somebody writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from ..errors import SimonidesError
from ..memory import AsyncMemory

PAUSE_S = 0.1  # after the log has grown: what is written meanwhile is told at once
WAIT_S = 1.0  # for the log to grow, before it is seen whether anybody still waits


class Watch:
    """One pair of eyes on the log for everybody who waits: it looks while somebody does."""

    def __init__(self) -> None:
        self._place = -1
        self._moved = asyncio.Condition()
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None

    async def moves(self, memory: AsyncMemory, place: int) -> AsyncGenerator[int]:
        """Yield at once where the log goes beyond that place, and then whenever it has grown."""
        self._waiting += 1
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(memory))
            while True:
                async with self._moved:
                    while self._place <= place:
                        await self._moved.wait()
                    place = self._place
                yield place
        finally:
            self._waiting -= 1

    async def _look(self, memory: AsyncMemory) -> None:
        while self._waiting:
            try:
                place = await memory._grown(self._place, WAIT_S)
            except SimonidesError:  # those who wait find out for themselves
                await asyncio.sleep(PAUSE_S)
                continue
            if place != self._place:
                async with self._moved:
                    self._place = place
                    self._moved.notify_all()
                await asyncio.sleep(PAUSE_S)
