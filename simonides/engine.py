"""What a memory runs on: its store, its embedding models, whoever follows its log, what is kept beside it.

All of it is opened together, and closed in the order that loses nothing. Where two embedding models are known, both go
on following, and the one that was chosen last answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .answers import Answers
from .cache import Cache
from .config import ELSEWHERE, OFF, Settings, open_backend, open_store
from .derivers.vectors import Vectors
from .embedder import Embedder
from .follow import Follower, Progress
from .forgetting import Forgets, finish
from .index import Index
from .models import Working, answering, check_told
from .passes import Backlog, Elsewhere, Passes
from .recalls import Recalls
from .record import Scope
from .sending import Sending, senders
from .store import Store

T = TypeVar("T")

SENT_S = 5.0  # that closing gives the sinks to take what was written


class Around(Protocol):
    """Returns what a store, index, embedder or cache is used through: itself, unless somebody measures it."""

    def __call__(self, part: str, what: T, /) -> T: ...


class Engine:
    """`model` answers, `other` only follows; without `model` there are words alone. `waits`: whoever writes waits until
    it is followed. `remark` is what whoever asks should know of the store's models.
    """

    sending: Sending  # once begun

    def __init__(
        self,
        store: Store,
        model: Working | None,
        other: Working | None,
        passes: Passes | Elsewhere,
        *,
        waits: bool,
        remark: str | None = None,
    ) -> None:
        self.store, self.other, self.remark = store, other, remark
        self.recalls = Recalls(store)
        self.answers: Answers | None = None
        self._waits = waits
        self._use(model, passes)

    def _use(self, model: Working | None, passes: Passes | Elsewhere) -> None:
        self.model, self.passes = model, passes
        self.followers: tuple[Follower, ...] = (model.vectors,) if model else ()
        self.backlog = Backlog(self.store, self.followers)

    @property
    def embedder(self) -> Embedder | None:
        return self.model.embedder if self.model else None

    @property
    def index(self) -> Index | None:
        return self.model.index if self.model else None

    @property
    def models(self) -> list[Working]:
        return [each for each in (self.model, self.other) if each]

    @property
    def forgets(self) -> Forgets | None:
        return self.answers.forget if self.answers else None

    async def have_read(self, line: int) -> bool:
        """Return whether every follower, in whatever process, has read up to this line of the log."""
        return await self.passes.have_read(line)

    async def turn(self) -> None:
        """Go on with the model that was chosen last: calls under way end with the one that they began with."""
        model, other = self.model, self.other
        if not (model and other) or await answering(self.store, (model.name, other.name)) == model.name:
            return
        if self.other is other:  # and nobody was faster
            self.other = model
            self._use(other, other.passes)

    async def follow(self, progress: Progress | None = None, *, wait: bool = False, told: bool = False) -> None:
        """See to it that what was just written here is followed. `told`: it was written through `passes`, which then
        tell whether there is anything to do.
        """
        self.sending.notice()
        if self._waits or wait:
            await (self.passes.finish() if told else self.passes.settle(progress))
        elif told:
            self.passes.go_on()
        else:
            self.passes.begin(progress)

    async def keep_up(self) -> None:
        """See to it that what was written in other processes is followed before a question."""
        await (self.passes.keep_up() if self._waits else self.passes.notice())

    async def close(self, patience_s: float | None = None) -> None:
        """Finish what runs in the background, and close everything. A pass that takes longer than `patience_s` is cut
        off: what it had not written yet is left to the next opening.
        """
        for passes in (self.passes, self.other and self.other.passes):
            if passes:
                await passes.ended(patience_s)
        await self.sending.ended(SENT_S)
        await self.recalls.close()
        if self.answers:
            await self.answers.settled()
        for each in self.models:
            await each.index.close()
            await each.embedder.close()
        await self.store.close()


async def opened(
    settings: Settings,
    url: str,
    home: Scope,
    *,
    embedder: Embedder | None,
    cache: Cache | None,
    waits: bool,
    around: Around,
) -> Engine:
    """Open what the settings name over the store at this URL; where that fails, nothing of it stays open.

    `embedder` is one that the caller has made: an engine closes it, too. `cache` stays the caller's.
    """
    async with contextlib.AsyncExitStack() as undo:
        work = _Opening(settings, home, waits, around, undo)
        if embedder is None and settings.embedder != OFF:
            embedder = await work.embedder(settings.embedder)
        second = await work.embedder(settings.embedder_next) if settings.embedder_next else None
        store = await work.store(url)
        model = other = remark = None
        if embedder:
            remark = await check_told(store, embedder.name)
            model = work.working(store, embedder)
            if second and second.name != embedder.name:
                remark, other = None, work.working(store, second)
        if second and not other:
            await second.close()
        passes = model.passes if model else work.passing(store, (), None)
        engine = Engine(store, model, other, passes, waits=waits, remark=remark)
        if cache:
            engine.answers = Answers(cache, store, engine.have_read, url, settings.cache_seconds)
        await finish(store, [each.index for each in engine.models], engine.forgets)
        engine.sending = Sending(store, await senders(settings.sinks, store))
        undo.pop_all()
    if settings.work != ELSEWHERE:
        engine.sending.begun()
    return engine


@dataclass(frozen=True, slots=True)
class _Opening:
    settings: Settings
    home: Scope
    waits: bool
    around: Around
    undo: contextlib.AsyncExitStack

    async def store(self, url: str) -> Store:
        opening: asyncio.Task[Store] = asyncio.create_task(asyncio.to_thread(open_store, url, self.settings.read_url))
        self.undo.push_async_callback(_closed, opening)
        return self.around("store", await asyncio.shield(opening))

    async def embedder(self, url: str) -> Embedder:
        embedder: Embedder = open_backend("embedders", url)
        self.undo.push_async_callback(embedder.close)
        await asyncio.to_thread(embedder.tokens, "ready")  # says now, not after a write, what is missing
        return self.around("embedder", embedder)

    def working(self, store: Store, embedder: Embedder) -> Working:
        vectors = Vectors(embedder)
        url, model, dimension = self.settings.index_url, vectors.model, embedder.dimension
        index: Index = self.around("index", open_backend("indexes", url, store, model, dimension))
        self.undo.push_async_callback(index.close)
        return Working(embedder, index, vectors, self.passing(store, (vectors,), index))

    def passing(self, store: Store, followers: Sequence[Follower], index: Index | None) -> Passes | Elsewhere:
        if self.settings.work == ELSEWHERE:
            return Elsewhere(store, followers)
        return Passes(store, followers, index, self.home, waits=self.waits)


async def _closed(opening: asyncio.Task[Store]) -> None:
    """Close what was being opened: a thread goes on with it where the caller has given up."""
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
