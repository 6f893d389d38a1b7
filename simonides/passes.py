"""When the followers read on: after each write, one pass at a time; or elsewhere, and then how far they are."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from .errors import Conflict, Damaged, SimonidesError, Unavailable
from .follow import Follower, Progress, followed, replay, settle
from .index import Index
from .record import Record, Scope
from .store import Batch, Lines, Store

log = logging.getLogger("simonides")

FEW = 4  # who write at once; more are a crowd…
CROWD_S = 1.0  # …for so long
CATCH_UP = 5_000  # changes that gather before the index takes them in
LOOK_S = 0.05  # between two looks how far the workers are, while somebody waits for them
STILL_S = 5.0  # without a step of theirs, and nobody waits any longer
FRESH_S = 0.2  # for how long a look at the backlog holds
RETRY_S = (1.0, 60.0)  # what whoever is turned away is told, at least and at most

_waited_for = ContextVar("waited_for", default=False)


@contextlib.contextmanager
def waited_for(yes: bool = True) -> Iterator[None]:
    """Say of what is written within this that the caller waits until it is followed, whatever its memory does."""
    token = _waited_for.set(yes)
    try:
        yield
    finally:
        _waited_for.reset(token)


class Passes:
    """The followers of one store: a pass of them is under way, at most one more waits for it.

    Where `waits`, callers wait for the passes anyway: then what followers make of a record is written in the same
    transaction, as far as they can tell ahead, and no pass is needed for it.

    What was written stays written when a follower cannot read on; the next pass tries again. `behind` says why
    something has not been followed yet; None: all has. The index catches up with what has gathered in the realm that
    is home, so that no question has to wait for much of it. What the followers have to tidy when all is read is done
    in the background, once in an opening; where closing cuts it off, the next opening goes on with it.
    """

    def __init__(
        self, store: Store, followers: Sequence[Follower], index: Index | None, home: Scope, *, waits: bool = False
    ) -> None:
        self.behind: str | None = None
        self._store, self._followers, self._index, self._home = store, followers, index, home
        self._waits = waits
        self._place = 0  # the line of the log that every follower has read
        self._written = 0  # the last line that was written here
        self._done = False  # a pass, since this was opened
        self._writing = 0  # calls under way
        self._crowd = float("-inf")  # when there last were many
        self._gathered = 0  # changes followed since the index last caught up
        self._running = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None  # not begun yet
        self._tidying: asyncio.Task[None] | None = None
        self._all: set[asyncio.Task[None]] = set()  # not done; they outlive callers that are cancelled
        self._ending = False

    @property
    def waits(self) -> bool:
        return self._waits or _waited_for.get()

    async def ahead(self, records: Sequence[Record]) -> Batch:
        """Return what the followers make of new records, and that they need not read them; nothing where one of them
        cannot tell, or fails, or has to read on first: then a pass sees to it once they are written. So it does in a
        crowd, because one pass for all of them takes less.
        """
        found = Batch()
        if not records or not self.waits or self._left or self.behind or self._is_crowded:
            return found
        with self._counted():
            for follower in self._followers:
                try:
                    made = await follower.ahead(records, self._store)
                except Exception as error:
                    log.debug("%s is left to a pass: %s", follower.name, type(error).__qualname__)
                    return Batch()
                if made is None:
                    return Batch()
                found += made
        return found

    async def commit(self, batch: Batch) -> Lines:
        """Write the batch; what the followers made of it ahead is no reason for losing it."""
        with self._counted():
            try:
                lines = await self._store.commit(batch)
            except (Conflict, Unavailable, Damaged):
                raise
            except Exception:
                if not batch.followed:
                    raise
                lines = await self._store.commit(dataclasses.replace(batch, embeddings=(), followed=()))
        if lines:
            self._written = max(self._written, lines[-1].seq)
            if lines.followed.issuperset(follower.name for follower in self._followers):
                self._place = max(self._place, lines[-1].seq)
                self._gathered += len(lines)
        return lines

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._writing += 1
        if self._writing > FEW:
            self._crowd = time.monotonic()
        try:
            yield
        finally:
            self._writing -= 1

    @property
    def _is_crowded(self) -> bool:
        return time.monotonic() - self._crowd < CROWD_S

    @property
    def _left(self) -> bool:
        """Whether a pass has to follow what was written here, or earlier."""
        return self._written > self._place or not self._done

    async def finish(self) -> None:
        """Wait until what was written here is followed; in a crowd, with the others, so that all go on at once and the
        store has one transaction for what they write next.
        """
        if self._left or self._is_crowded or self._gathered >= CATCH_UP:
            await self.settle()

    def go_on(self) -> None:
        """See to it that what was written here is followed; wait for nothing."""
        if self._left or self._gathered >= CATCH_UP:
            self.begin()

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
        return line <= self._place or await _have_read(self._followers, self._store, line)

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
                self._place = max(self._place, await settle(self._followers, self._store, gathered))
                self.behind, self._done = None, True
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
                if not self._ending:  # of which somebody asked for it, and the embedder was away
                    await replay(follower, self._store)
        except SimonidesError as error:
            log.warning("what is no longer needed is still there: %s", error)


async def _have_read(followers: Sequence[Follower], store: Store, line: int) -> bool:
    return all([await followed(follower.name, store) >= line for follower in followers])


class Elsewhere:
    """The same where workers follow: nothing is followed here, and who waits is told how far they are.

    `behind` says so where they stood still for as long as somebody waited.
    """

    waits = False

    def __init__(self, store: Store, followers: Sequence[Follower]) -> None:
        self.behind: str | None = None
        self._store, self._followers = store, followers
        self._place = 0
        self._looking: asyncio.Task[None] | None = None
        self._waiting = 0
        self._looked = asyncio.Event()

    async def ahead(self, records: Sequence[Record]) -> Batch:
        """Nothing is made of them here."""
        return Batch()

    async def commit(self, batch: Batch) -> Lines:
        return await self._store.commit(batch)

    async def finish(self) -> None:
        await self.settle()

    def go_on(self) -> None:
        """Nothing is followed here."""

    def begin(self, progress: Progress | None = None) -> None:
        """Nothing begins here."""

    async def settle(self, progress: Progress | None = None) -> None:
        """Wait until what is written now is followed, or until nothing has moved for some seconds."""
        line = await self._store.head()
        if not self._followers or line <= self._place:
            return
        place, since, self._waiting = -1, time.monotonic(), self._waiting + 1
        try:
            while self._place < line:
                if self._looking is None or self._looking.done():
                    self._looking = asyncio.create_task(self._look())
                await self._looked.wait()
                if self._place > place:
                    if progress and place >= 0:
                        progress(self._place - place)
                    place, since = self._place, time.monotonic()
                elif time.monotonic() - since > STILL_S:
                    self.behind = f"no worker has followed the log for {STILL_S:g} s: see `simonides status`"
                    return
            self.behind = None
        finally:
            self._waiting -= 1

    async def _look(self) -> None:
        """Look again and again, for all who wait, as long as anybody does."""
        try:
            while self._waiting:
                with contextlib.suppress(Unavailable):
                    self._place = min([await followed(follower.name, self._store) for follower in self._followers])
                self._tell()
                await asyncio.sleep(LOOK_S)
        finally:
            self._tell()

    def _tell(self) -> None:
        self._looked.set()
        self._looked = asyncio.Event()

    async def have_read(self, line: int) -> bool:
        return line <= self._place or await _have_read(self._followers, self._store, line)

    async def keep_up(self) -> None:
        """Nobody waits for the workers before a question."""

    async def notice(self) -> None:
        """Nor are they told."""

    async def ended(self, patience_s: float | None = None) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)


class Backlog:
    """How many lines of the log wait for their slowest follower, as seen a moment ago at most."""

    def __init__(self, store: Store, followers: Sequence[Follower]) -> None:
        self._store, self._followers = store, followers
        self._count, self._seen = 0, float("-inf")
        self._place, self._rate = 0, 0.0  # lines a second that were followed lately
        self._look = asyncio.Lock()

    async def count(self) -> int:
        """Return how many lines there are, at most a moment ago."""
        if time.monotonic() - self._seen > FRESH_S and not (self._look.locked() and self._seen > 0):
            async with self._look:
                if time.monotonic() - self._seen > FRESH_S:
                    await self._renew()
        return self._count

    async def _renew(self) -> None:
        head = await self._store.head()
        place = min([await followed(follower.name, self._store) for follower in self._followers], default=head)
        present, passed = time.monotonic(), time.monotonic() - self._seen
        if passed < 100 * FRESH_S:
            rate = max(0, place - self._place) / passed
            self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
        self._count, self._place, self._seen = max(0, head - place), place, present

    def clears_s(self, most: int) -> float:
        """Return in how many seconds no more than so many will wait, as far as can be told from the rate seen."""
        least, longest = RETRY_S
        return min(longest, max(least, (self._count - most) / self._rate)) if self._rate else longest / 4
