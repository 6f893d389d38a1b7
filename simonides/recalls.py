"""When what was last recalled: collected while answers are given, and written behind them, some seconds' worth at once.

So no recall waits for it. What a process that dies had not written yet is lost: it is only ever asked when something
was *last* recalled, to tell what is in use from what is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from datetime import datetime

from .errors import SimonidesError
from .record import Record, Ref, now
from .store import Store

EVERY_S = 5.0  # between two writes
LOOKED_AT = 50  # of an answer's records, the first so many: further down nobody looks

log = logging.getLogger("simonides")


class Recalls:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: dict[Ref, datetime] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, records: Iterable[Record]) -> None:
        """Note that these were recalled just now, the best first. It costs next to nothing."""
        refs = [record.ref for record in records][:LOOKED_AT]
        self._last.update(dict.fromkeys(refs, now()))
        if refs and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def settle(self) -> None:
        """Write what waits. Where the store cannot, nothing but this knowledge is lost."""
        last, self._last = self._last, {}
        if last:
            try:
                await self._store.recalled(last)
            except SimonidesError as error:
                log.info("when something was last recalled could not be noted: %s", error)

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        await self.settle()

    async def _write_soon(self) -> None:
        await asyncio.sleep(EVERY_S)
        await asyncio.shield(self.settle())
