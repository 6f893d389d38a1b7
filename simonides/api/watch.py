"""Waits for the log to grow, in whatever process somebody writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from ..errors import SimonidesError
from ..memory import AsyncMemory

LOOK_S = 0.1  # between two looks at the log


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
                place = (await memory.position()).written
            except SimonidesError:
                place = self._place  # those who wait find out for themselves
            if place != self._place:
                async with self._moved:
                    self._place = place
                    self._moved.notify_all()
            await asyncio.sleep(LOOK_S)
