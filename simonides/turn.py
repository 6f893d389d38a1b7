"""Whose turn it is, where one process of several is to do something: a cursor in the store, moved on while it is done.

Its value says who and when, and is otherwise only compared: whoever has seen it stand still for long enough, by a
monotonic clock of its own, takes the turn. For those who do not live that long there is the time in it, which may be
wrong by an hour. So a turn keeps work from being done twice as a rule; it is not what keeps it from doing harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time

from .errors import Conflict, SimonidesError
from .store import Batch, Cursor, Store

BEAT_S = 1.0  # between two moves
STILL_S = 5.0  # until it is another's
AGED_S = 60.0  # the same, for who has not watched it
SECONDS = 32  # bits of the value that hold the time; those above them say who


class Turn:
    def __init__(self, store: Store, what: str, *, beat_s: float = BEAT_S, still_s: float = STILL_S) -> None:
        self._store, self._name = store, f"turn/{what}"
        self._beat_s, self._still_s = beat_s, still_s
        self._who = secrets.randbits(30) | 1
        self._held: int | None = None  # the value that we gave it
        self._seen = (0, 0.0)  # another's value, and since when we know it
        self._beating: asyncio.Task[None] | None = None

    async def mine(self) -> bool:
        """Return whether it is our turn now: nobody else's, or one that stood still for too long."""
        if self._held is not None:
            return True
        value, present = await self._store.cursor(self._name), time.monotonic()
        if value != self._seen[0]:
            self._seen = value, present
        still = present - self._seen[1] >= self._still_s
        aged = abs(time.time() - (value & (2**SECONDS - 1))) >= AGED_S
        if value and not still and not aged:
            return False
        if await self._moved(value, self._value()):
            self._beating = asyncio.create_task(self._beat())
            return True
        return False

    async def over(self) -> None:
        """Let others have it."""
        if self._beating:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None
        if self._held is not None:
            with contextlib.suppress(SimonidesError):
                await self._moved(self._held, 0)
            self._held = None

    def _value(self) -> int:
        return self._who << SECONDS | int(time.time())

    async def _beat(self) -> None:
        while self._held is not None:
            await asyncio.sleep(self._beat_s)
            with contextlib.suppress(SimonidesError):  # the store is not there: nor is it for others
                await self._moved(self._held, self._value())

    async def _moved(self, was: int, now: int) -> bool:
        """Move the value, where it is still what it was."""
        try:
            if was != now:
                await self._store.commit(Batch(), cursor=Cursor(self._name, was, now))
        except Conflict:
            self._held = None
            return False
        self._held = now or None
        return True
