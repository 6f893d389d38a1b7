"""The whole server, made of its settings: a memory, the keys to it, the gate, and every door that is there.

A door is a module of this package with a function `mount(made: FastAPI)`; `http.app` says what it finds there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..api import Desk
from ..config import directory_url, open_backend
from ..directory import Directory
from ..memory import AsyncMemory
from ..serving import Serving, changed
from .gate import Gate
from .http import app

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp


@dataclass(slots=True)
class House:
    """A server that is open. `app` is what a web server runs."""

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
        return taken, restart

    def stop(self) -> None:
        """Tell what has no end of its own (streams) to end."""
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
    memory = AsyncMemory(store, tenant=tenant, space=space, embedder=embedder, settled=False)
    async with contextlib.AsyncExitStack() as open_:
        await memory.open()
        open_.push_async_callback(memory.close)
        keys: Directory = open_backend("directories", told.directory or directory_url(memory.settings.store_url))
        open_.push_async_callback(keys.close)
        house = built(Desk(memory, keys, told))
        open_.push_async_callback(house.gate.close)
        open_.push_async_callback(house.end)
        yield house


def built(desk: Desk) -> House:
    """Return the server around that desk, which stays its opener's."""
    gate = Gate(desk.directory, require=desk.serving.keys_asked, rate=desk.serving.rate, failures_max=desk.serving.failures_max)
    made = app(desk, gate, more=[*doors(), _proxy])
    return House(desk, gate, made, made)


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


def _proxy(made: FastAPI) -> None:
    from .proxy import Proxy

    proxy = Proxy(made.state.desk.memory, made.state.gate, lambda: made.state.desk.serving)
    made.router.routes.extend(proxy.routes())
    made.state.at_end.append(proxy.drain)
