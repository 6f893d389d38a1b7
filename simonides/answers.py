"""Answers that were worked out lately, for whoever asks the same again before anything was written.

What an answer is kept under holds the state of its realm: the last line of its log, and how far its vectors reach. So
a write, by whatever process, makes older answers unreachable rather than stale; none is looked for and removed. It also
holds everything that was asked: whose memory, every filter, the span of time that the question names as of today.

An answer is kept only where every follower had read that last line before it was worked out, where nothing was written
meanwhile, and where nothing fell back. It is kept for seconds, as recency goes on, and not beyond the end of anything
that was looked at. It holds what was said: an erase takes all answers of its realm away (see `forget`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from .cache import Cache, digest
from .embedder import Embedder
from .errors import Damaged, Invalid, SimonidesError, Unavailable
from .exports import line, record
from .query import Factor, Hit, Query
from .recall import WORDS_ALONE, Hits, Question, questioned
from .record import Scope, now
from .store import Store
from .version import VERSION

REALMS_MAX = 10_000  # whose state is at hand
VECTORS_S = 3600.0  # for which the vector of a question is shared

log = logging.getLogger("simonides")

Read = Callable[[int], Awaitable[bool]]  # whether every follower has read that line of the log
Kept = tuple[
    datetime | None,
    list[tuple[float, tuple[str, ...], tuple[Factor, ...], str | None, tuple[str, ...], msgspec.Raw]],
    tuple[str, ...],
]
_decode = msgspec.json.Decoder(Kept).decode


@dataclass(frozen=True, slots=True)
class State:
    """What an answer depends on beside what was asked: the realm's last line of the log, and its vectors."""

    head: int
    group: int
    slots: int
    holes: int


class Answers:
    """The answers over one store. `place` is its URL: two copies of a store may not take each other's answers."""

    def __init__(self, cache: Cache, store: Store, have_read: Read, place: str, seconds: float) -> None:
        self._cache, self._store, self._have_read = cache, store, have_read
        self._place, self._seconds = digest(place), seconds
        self._seen: OrderedDict[tuple[str, str], State] = OrderedDict()  # where only this process sees the cache
        self._keeping: dict[str, asyncio.Task[None]] = {}  # by the key of the answer

    async def of(
        self, question: Question, query: Query, model: str, more: tuple[Any, ...], work: Callable[[], Awaitable[Hits]]
    ) -> Hits:
        """Return the answer that is kept, or what `work` returns, which is kept then, while nobody waits for it. `more`
        is what else was asked.
        """
        if not self._seconds:
            return await work()
        group, state = self._group(query.scope), await self._state(query.scope, model)
        key = self._key(question, query, model, more, state)
        if keeping := self._keeping.get(key):
            await asyncio.wait({keeping})
        try:
            [kept] = await self._cache.get(group, [key])
        except Unavailable:
            return await work()
        if kept is not None and (hits := unpacked(kept)) is not None:
            return hits
        await self._left_behind(query.scope, group, state)
        followed = await self._have_read(state.head)
        hits = await work()
        if followed and set(hits.notes) <= {WORDS_ALONE} and key not in self._keeping:
            with contextlib.suppress(Invalid):  # it cannot be written down
                content = packed(hits)  # now: whoever gets it may change it
                left = self._seconds if hits.until is None else min(self._seconds, (hits.until - now()).total_seconds())
                task = asyncio.create_task(self._keep(group, key, content, left, query.scope, model, state))
                self._keeping[key] = task
        return hits

    async def _keep(
        self, group: str, key: str, content: bytes, seconds: float, scope: Scope, model: str, state: State
    ) -> None:
        try:
            if await self._state(scope, model) == state:
                await self._cache.set(group, {key: content}, seconds, generation=state.head)
        except SimonidesError:
            return  # it does not answer: it is worked out again
        except Exception as error:  # of whatever cache: nobody waits here who could be told
            log.warning("an answer was not kept: %s", type(error).__qualname__)
        finally:
            del self._keeping[key]

    async def settled(self) -> None:
        """Wait for what is being kept."""
        await asyncio.gather(*self._keeping.values(), return_exceptions=True)

    async def _left_behind(self, scope: Scope, group: str, state: State) -> None:
        """Remove what nobody can reach any more, where nobody else does: another process may have erased it."""
        if self._cache.shared or (before := self._seen.get(scope.realm)) == state:
            return
        if before is not None:
            await self._cache.clear(group, generation=state.head)
        self._seen[scope.realm] = state
        self._seen.move_to_end(scope.realm)
        if len(self._seen) > REALMS_MAX:
            self._seen.popitem(last=False)

    async def forget(self, scope: Scope) -> int | None:
        """Remove every answer of the realm, and the vectors of its questions, and let in none that was worked out
        before now; return how many they were, None where the cache does not answer.

        What it keeps then is out of reach, and gone when its seconds are.
        """
        await self.settled()
        head = await self._store.head(scope)
        try:
            answers = await self._cache.clear(self._group(scope), generation=head)
            return answers + await self._cache.clear(self._questions(scope))
        except Unavailable as error:
            log.warning("answers made before an erase stay in the cache for up to %g s: %s", self._seconds, error)
            return None

    def embedder(self, embedder: Embedder, scope: Scope) -> Embedder:
        """Return what embeds questions: by way of the cache, where others share it."""
        return questioned(embedder, self._cache, self._questions(scope), VECTORS_S) if self._cache.shared else embedder

    async def _state(self, scope: Scope, model: str) -> State:
        head = await self._store.head(scope)
        if not model:
            return State(head, 0, 0, 0)
        extent = await self._store.extent(scope, model)
        return State(head, extent.group, extent.slots, extent.holes)

    def _group(self, scope: Scope) -> str:
        return f"answers/{digest(self._store.identity, *scope.realm)}"

    def _questions(self, scope: Scope) -> str:
        return f"vectors/{digest(self._store.identity, *scope.realm)}"

    def _key(self, question: Question, query: Query, model: str, more: tuple[Any, ...], state: State) -> str:
        asked = (VERSION, self._place, question.text, question.window, query, model, more, state)
        return msgspec.json.encode(asked, order="deterministic").decode()


def packed(hits: Hits) -> bytes:
    """Return the answer as bytes; Invalid where it holds what cannot be written."""
    told = [(hit.score, hit.by, hit.why, hit.title, hit.also, msgspec.Raw(line(hit.record))) for hit in hits]
    return msgspec.json.encode((hits.until, told, hits.notes))


def unpacked(kept: bytes) -> Hits | None:
    """Return the answer that was packed; None where something of it has ended, or where it is none."""
    try:
        until, told, notes = _decode(kept)
        hits = [
            Hit(record=record(bytes(said)), score=score, by=by, why=why, title=title, also=also)
            for score, by, why, title, also, said in told
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, Damaged):
        return None
    if until is not None and until <= now():
        return None
    found = Hits(hits).noting(*notes)
    found.until = until
    return found
