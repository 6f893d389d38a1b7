"""Answers to writes that bear an Idempotency-Key, so that a retry is answered and not done again.

They are kept in this process for a day, as far as there is room. What outlives that: the ids of what a marked write
makes follow from the mark, so after a restart the same write is still one. An erase empties all of it, since answers
hold what was said.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ..errors import Invalid

KEPT = 10_000
BYTES_MAX = 64 * 2**20  # of all answers together
SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is sent."""

    content: bytes
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Answer:
    request: bytes
    began: float
    coming: asyncio.Future[Reply]
    size: int = 0


class Replays:
    def __init__(self, ticks: Callable[[], float] = time.monotonic, bytes_max: int = BYTES_MAX) -> None:
        self._ticks, self._bytes_max = ticks, bytes_max
        self._all: OrderedDict[tuple[str, str], _Answer] = OrderedDict()
        self._size = 0

    async def once(
        self, owner: str, mark: str, request: bytes, work: Callable[[], Awaitable[Reply]], *, outlives: bool = False
    ) -> tuple[Reply, bool]:
        """Return the answer to this request, and whether it is a replay; failures are not kept.

        The same mark with another request is Invalid. An answer that `outlives` a clearing meanwhile is kept though.
        """
        self._drop()
        while kept := self._all.get((owner, mark)):
            if kept.request != request:
                raise Invalid("this Idempotency-Key was used for another request: take a new one")
            try:
                return await asyncio.shield(kept.coming), True
            except asyncio.CancelledError:
                if not kept.coming.cancelled():
                    raise
        answer = _Answer(request, self._ticks(), asyncio.get_running_loop().create_future())
        self._all[owner, mark] = answer
        try:
            reply = await work()
        except BaseException as error:
            self._take((owner, mark), answer)
            if isinstance(error, Exception):
                answer.coming.set_exception(error)
                answer.coming.exception()  # nobody may be waiting for it
            else:
                answer.coming.cancel()
            raise
        answer.coming.set_result(reply)
        if outlives:
            self._all.setdefault((owner, mark), answer)
        if self._all.get((owner, mark)) is answer:
            answer.size = len(reply.content)
            self._size += answer.size
        self._drop()
        return reply, False

    def clear(self) -> None:
        self._all.clear()
        self._size = 0

    def _take(self, name: tuple[str, str], answer: _Answer) -> None:
        if self._all.get(name) is answer:
            del self._all[name]
            self._size -= answer.size

    def _drop(self) -> None:
        while self._all:
            name, first = next(iter(self._all.items()))
            room = len(self._all) <= KEPT and self._size <= self._bytes_max
            if room and self._ticks() - first.began < SECONDS:
                break
            self._take(name, first)
