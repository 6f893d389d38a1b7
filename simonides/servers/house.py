"""The whole server, made of its settings: a memory, the keys to it, the gate, and every door that is there.

A door is a module of this package with a function `mount(made: FastAPI)`; `http.app` says what it finds there. What is
not needed to be ready is imported when somebody first comes to its door.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.routing import Route

from ..api import Desk
from ..config import keys_url, open_backend
from ..directory import Directory
from ..errors import SimonidesError
from ..memory import AsyncMemory
from ..record import now
from ..serving import Serving, changed
from . import care, logs
from .gate import Gate
from .http import app

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ..observe import Observer

T = TypeVar("T")


@dataclass(slots=True)
class House:
    """A server that is open. `app` is what a web server runs: `made`, with the care around it."""

    desk: Desk
    gate: Gate
    made: FastAPI
    app: ASGIApp

    @property
    def serving(self) -> Serving:
        return self.desk.serving

    def take(self, new: Serving) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Go on with new settings; return the names of those taken over, and of those that need a restart."""
        taken, restart = changed(self.serving, new)
        self.desk.serving = dataclasses.replace(self.serving, **{name: getattr(new, name) for name in taken})
        self.gate.rate, self.gate.failures_max = self.serving.rate, self.serving.failures_max
        logs.take_level(self.serving)
        return taken, restart

    def stop(self) -> None:
        """Let what has no end of its own (streams of events) end."""
        self.made.state.closing.set()

    async def end(self) -> None:
        """Wait for what is still under way."""
        self.stop()
        await self.desk.tasks.ended()
        for ended in self.made.state.at_end:
            await ended()


@contextlib.asynccontextmanager
async def opened(
    store: str | Path | None = None,
    serving: Serving | None = None,
    *,
    tenant: str | None = None,
    space: str | None = None,
    embedder: str | None = None,
) -> AsyncIterator[House]:
    """Open everything, and close it in the end: what was begun is finished, and nothing that was answered is lost."""
    told = serving or Serving()
    async with contextlib.AsyncExitStack() as parts:
        observer = _observer(told, parts)
        memory = _Measured(observer, store, tenant=tenant, space=space, embedder=embedder, settled=False)
        parts.push_async_callback(memory.close)
        ready = asyncio.create_task(memory.open())  # while the routes are made
        parts.push_async_callback(_ended, ready)
        keys: Directory = open_backend("directories", keys_url(memory.settings.store_url, told.directory))
        parts.push_async_callback(keys.close)
        house = await asyncio.to_thread(built, Desk(memory, keys, told), observer)
        parts.push_async_callback(house.gate.close)
        parts.push_async_callback(house.end)
        await keys.count(now())  # whether it can be opened is said now, not to whoever shows the first key
        await ready
        await parts.enter_async_context(house.made.router.lifespan_context(house.made))
        warming = asyncio.create_task(_warm(memory))
        yield house
        warming.cancel()


async def _ended(opening: asyncio.Task[Any]) -> None:
    """Wait until a memory is open or not: where something else fails meanwhile, it is closed after that."""
    with contextlib.suppress(SimonidesError):
        await opening


async def _warm(memory: AsyncMemory) -> None:
    """Load the model while nobody waits for it."""
    with contextlib.suppress(SimonidesError):
        await memory.recall("warm", limit=1, min_relevance=1.0, effort="low")


def built(desk: Desk, observer: Observer | None = None) -> House:
    """Return the server around that desk, which stays its opener's."""
    serving = desk.serving
    gate = Gate(
        desk.directory, require=serving.keys_asked, rate=serving.rate, failures_max=serving.failures_max,
        cache=desk.memory.cache,
    )  # fmt: skip
    made = app(desk, gate, more=[*doors(), _openai, *([_metrics(observer)] if observer and serving.metrics else [])])
    return House(desk, gate, made, care.around(made, lambda: desk.serving, observer, made.state.closing))


# -- what is measured ----------------------------------------------------------------------------------------------


class _Measured(AsyncMemory):
    """A memory whose parts are measured, and which keeps answers for a while, as many may ask it the same. What waits
    to be embedded does not keep the server from ending.
    """

    _caches = True
    _patience_s = 5.0

    def __init__(self, observer: Observer | None, *args: Any, **kwargs: Any) -> None:
        self._observer = observer
        super().__init__(*args, **kwargs)

    def _opened(self, part: str, what: T) -> T:
        return self._observer.around(part, what) if self._observer else what


def _observer(serving: Serving, parts: contextlib.AsyncExitStack) -> Observer | None:
    """Return what measures, where anybody wants to know."""
    if not serving.metrics and not serving.tracing:
        return None
    from .. import observe

    if not serving.tracing:
        return observe.Observer()
    traces = observe.provider(serving.tracing)
    parts.push_async_callback(asyncio.to_thread, traces.shutdown)
    return observe.Observer(traces.get_tracer("simonides"))


def _metrics(observer: Observer) -> Callable[[FastAPI], None]:
    def mount(made: FastAPI) -> None:
        from .metrics import answer

        made.router.routes.append(Route("/metrics", answer(observer), methods=["GET"], include_in_schema=False))

    return mount


# -- doors ---------------------------------------------------------------------------------------------------------


@cache
def doors() -> tuple[Callable[[FastAPI], None], ...]:
    """Return what mounts each door of this package."""
    return tuple(importlib.import_module(name).mount for name in sorted(_names(__package__)))


def _names(package: str) -> Iterator[str]:
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path, f"{package}."):
        spec = importlib.util.find_spec(module.name)
        if spec and spec.origin and "\ndef mount(" in Path(spec.origin).read_text("utf-8"):
            yield module.name
        elif module.ispkg:
            yield from _names(module.name)


class Later:
    """An application that is made when somebody first asks it something."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make, self._made, self._making = make, None, asyncio.Lock()

    _made: ASGIApp | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(self._make)
        await self._made(scope, receive, send)


def _openai(made: FastAPI) -> None:
    def make() -> ASGIApp:
        from .proxy import Proxy

        proxy = Proxy(made.state.desk.memory, made.state.gate, lambda: made.state.desk.serving)
        made.state.at_end.append(proxy.drain)
        return proxy

    made.router.routes.append(Route("/v1/{path:path}", Later(make), include_in_schema=False))
