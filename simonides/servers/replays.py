"""Answers to writes that bear an Idempotency-Key, so that a retry is answered and not done again.

They are kept in this process for a day, as far as there is room. What outlives that: the ids of what a marked write
makes follow from the mark, so after a restart the same write is still one. An erase empties all of it, since answers
hold what was said, but for certificates, which do not. That of another process is seen in the log before the next
answer to a marked write.
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
    outlives: bool
    size: int = 0


Erased = Callable[[int | None], Awaitable[tuple[bool, int]]]  # see `happened.erased`


class Replays:
    """`erased` tells whether anything was erased behind a line of the log, by whomever; None: nobody else does."""

    def __init__(
        self,
        ticks: Callable[[], float] = time.monotonic,
        bytes_max: int = BYTES_MAX,
        erased: Erased | None = None,
    ) -> None:
        self._ticks, self._bytes_max, self._erased = ticks, bytes_max, erased
        self._place: int | None = None  # the line of the log up to which nothing was erased that is kept here
        self._all: OrderedDict[tuple[str, str], _Answer] = OrderedDict()
        self._size = 0

    async def once(
        self, owner: str, mark: str, request: bytes, work: Callable[[], Awaitable[Reply]], *, outlives: bool = False
    ) -> tuple[Reply, bool]:
        """Return the answer to this request, and whether it is a replay; failures are not kept.

        The same mark with another request is Invalid. An answer that `outlives` a clearing is kept through it.
        """
        await self._look()
        self._drop()
        while kept := self._all.get((owner, mark)):
            if kept.request != request:
                raise Invalid("this Idempotency-Key was used for another request: take a new one")
            try:
                return await asyncio.shield(kept.coming), True
            except asyncio.CancelledError:
                if not kept.coming.cancelled():
                    raise
        answer = _Answer(request, self._ticks(), asyncio.get_running_loop().create_future(), outlives)
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
        if self._all.get((owner, mark)) is answer:
            answer.size = len(reply.content)
            self._size += answer.size
        self._drop()
        return reply, False

    async def _look(self) -> None:
        """Forget where somebody has erased something since the last look."""
        if self._erased is not None:
            found, self._place = await self._erased(self._place)
            if found:
                self.clear()

    def clear(self) -> None:
        self._all = OrderedDict((name, answer) for name, answer in self._all.items() if answer.outlives)
        self._size = sum(answer.size for answer in self._all.values())

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
