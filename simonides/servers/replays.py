"""Answers to writes that bear an Idempotency-Key, so that a retry is answered and not done again.

They are kept in this process for a day. What outlives it: the ids of what a marked write makes follow from the mark, so
after a restart the same write is still one. An erase empties all of it, since answers hold what was said.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..errors import Invalid

KEPT = 10_000
SECONDS = 24 * 3600.0


@dataclass(slots=True)
class _Answer:
    request: bytes
    began: float
    coming: asyncio.Future[Any]


class Replays:
    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._all: OrderedDict[tuple[str, str], _Answer] = OrderedDict()

    async def once(self, owner: str, mark: str, request: bytes, work: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """Return the answer to this request, and whether it is a replay; failures are not kept.

        The same mark with another request is Invalid.
        """
        self._drop()
        if kept := self._all.get((owner, mark)):
            if kept.request != request:
                raise Invalid("this Idempotency-Key was used for another request: take a new one")
            return await asyncio.shield(kept.coming), True
        answer = _Answer(request, self._ticks(), asyncio.get_running_loop().create_future())
        self._all[owner, mark] = answer
        try:
            result = await work()
        except BaseException as error:
            self._all.pop((owner, mark), None)
            if not answer.coming.done():
                answer.coming.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                answer.coming.exception()
            raise
        answer.coming.set_result(result)
        return result, False

    def clear(self) -> None:
        self._all.clear()

    def _drop(self) -> None:
        while self._all:
            first = next(iter(self._all.values()))
            if len(self._all) < KEPT and self._ticks() - first.began < SECONDS:
                break
            self._all.popitem(last=False)
