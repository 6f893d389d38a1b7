"""Who waits for the log of a store to grow: told of what is written here, and looking for what others write."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from .errors import Invalid

LOOK_S = (0.01, 0.1)  # between two looks whether others have written: from, to


class Growth:
    """One a store, for all who wait in this process. `stir` tells them to look now; otherwise each looks after
    `look_s` seconds: after the first of them to begin with, then after twice as many each time, up to the last.

    A store that hears of what others write looks less often while it does.
    """

    def __init__(self, look_s: tuple[float, float] = LOOK_S) -> None:
        self.look_s = look_s
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    async def beyond(self, head: Callable[[], Awaitable[int]], after: int, wait_s: float) -> int:
        """Return the head once it is beyond `after`, or when so many seconds are over; Invalid where this is closed."""
        until, pause = time.monotonic() + wait_s, 0.0
        while not self._closed:
            stirred = asyncio.get_running_loop().create_future()
            self._waiting.add(stirred)  # before the look: what is written meanwhile is not missed
            try:
                found = await head()
                left = until - time.monotonic()
                if found > after or left <= 0:
                    return found
                pause = min(max(2 * pause, self.look_s[0]), self.look_s[1])
                await asyncio.wait([stirred], timeout=min(pause, left))
            finally:
                self._waiting.discard(stirred)
        raise Invalid("this memory is closed")

    def stir(self) -> None:
        """Have everybody look now, in whichever event loop they wait."""
        for each in tuple(self._waiting):
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                each.get_loop().call_soon_threadsafe(_stirred, each)

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed = True
        self.stir()


def _stirred(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
