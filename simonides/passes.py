"""When the followers read on: after each write, one pass at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from .errors import SimonidesError, Unavailable
from .follow import Follower, Progress, settle
from .index import Index
from .record import Scope
from .store import Store

log = logging.getLogger("simonides")

CATCH_UP = 5_000  # changes that gather before the index takes them in


class Passes:
    """The followers of one store: a pass of them is under way, at most one more waits for it.

    What was written stays written when a follower cannot read on; the next pass tries again. `behind` says why
    something has not been followed yet; None: all has. The index catches up with what has gathered in the realm that
    is home, so that no question has to wait for much of it. What the followers have to tidy when all is read is done
    in the background, once in an opening; where closing cuts it off, the next opening goes on with it.
    """

    def __init__(self, store: Store, followers: Sequence[Follower], index: Index | None, home: Scope) -> None:
        self.behind: str | None = None
        self._store, self._followers, self._index, self._home = store, followers, index, home
        self._place = 0  # the line of the log that every follower has read
        self._gathered = 0  # changes followed since the index last caught up
        self._running = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None  # not begun yet
        self._tidying: asyncio.Task[None] | None = None
        self._all: set[asyncio.Task[None]] = set()  # not done; they outlive callers that are cancelled
        self._ending = False

    def begin(self, progress: Progress | None = None) -> asyncio.Task[None]:
        """Return the pass that has not begun yet, which sees what is written now."""
        if self._next is None:
            self._next = self._begun(self._pass(progress))
        return self._next

    def _begun(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._all.add(task)
        task.add_done_callback(self._all.discard)
        return task

    async def settle(self, progress: Progress | None = None) -> None:
        """Wait until what is written now is followed."""
        if self._followers:
            await asyncio.shield(self.begin(progress))

    async def keep_up(self) -> None:
        """The same at next to no cost where nobody, in whatever process, has written since the last pass."""
        if self._followers and await self._store.head() > self._place:
            await self.settle()

    async def notice(self) -> None:
        """Begin a pass where somebody, in whatever process, has written since the last one; wait for nothing."""
        if self._followers and await self._store.head() > self._place:
            self.begin()

    async def have_read(self, line: int) -> bool:
        """Return whether every follower, in whatever process, has read up to this line of the log."""
        if not self._followers or line <= self._place:
            return True
        return min([await self._store.cursor(follower.name) for follower in self._followers]) >= line

    async def ended(self, patience_s: float | None = None) -> None:
        """Wait for the passes that were begun, however they end; what is being tidied may wait for the next time.

        A pass that takes longer than `patience_s` is cut off: what it had not written yet is left to the next opening.
        """
        self._ending = True
        if self._all:
            await asyncio.wait(self._all, timeout=patience_s)
        for task in self._all:
            task.cancel()
        await asyncio.gather(*self._all, return_exceptions=True)

    async def _pass(self, progress: Progress | None) -> None:
        def gathered(count: int) -> None:
            self._gathered += count
            if progress:
                progress(count)

        async with self._running:
            self._next = None
            try:
                self._place = await settle(self._followers, self._store, gathered)
                self.behind = None
                await self._catch_up()
                if self._tidying is None and not self._ending:
                    self._tidying = self._begun(self._tidy())
            except Unavailable as error:
                self.behind = str(error)
                log.warning("what was remembered is kept, but not embedded yet: %s", error)

    async def _catch_up(self) -> None:
        if self._index and self._gathered >= CATCH_UP:
            self._gathered = 0
            await self._index.catch_up(self._home)

    async def _tidy(self) -> None:
        try:
            for follower in self._followers:
                while not self._ending and await follower.tidy(self._store):
                    pass
        except SimonidesError as error:
            log.warning("what is no longer needed is still there: %s", error)
