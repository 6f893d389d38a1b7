"""`Memory`: the same memory for code that does not await. One event loop in one thread of its own runs the core."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from .config import Settings
from .embedder import Embedder
from .errors import Invalid
from .memory import AsyncMemory

P = ParamSpec("P")
T = TypeVar("T")


def _waiting(
    method: Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Memory, P], T]:
    @functools.wraps(method)
    def call(self: Memory, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._core, *args, **kwargs))

    return call


class Memory:
    """A memory over one store: `Memory("sqlite:///me.db")`, `Memory("me.db")`, `Memory(":memory:")`, `Memory()`.

    See `AsyncMemory`, whose methods these are. Safe to share between threads. Opens at once; close it, or use `with`.
    """

    remember = _waiting(AsyncMemory.remember)
    keep = _waiting(AsyncMemory.keep)
    recall = _waiting(AsyncMemory.recall)
    explain_missing = _waiting(AsyncMemory.explain_missing)
    context = _waiting(AsyncMemory.context)
    get = _waiting(AsyncMemory.get)
    find = _waiting(AsyncMemory.find)
    count = _waiting(AsyncMemory.count)
    conversations = _waiting(AsyncMemory.conversations)
    messages = _waiting(AsyncMemory.messages)
    changes = _waiting(AsyncMemory.changes)
    position = _waiting(AsyncMemory.position)
    history = _waiting(AsyncMemory.history)
    revise = _waiting(AsyncMemory.revise)
    organise = _waiting(AsyncMemory.organise)
    supersede = _waiting(AsyncMemory.supersede)
    retract = _waiting(AsyncMemory.retract)
    forget = _waiting(AsyncMemory.forget)
    certificates = _waiting(AsyncMemory.certificates)
    export = _waiting(AsyncMemory.export)
    versions = _waiting(AsyncMemory.versions)
    restore = _waiting(AsyncMemory.restore)
    stats = _waiting(AsyncMemory.stats)
    doctor = _waiting(AsyncMemory.doctor)
    rebuild = _waiting(AsyncMemory.rebuild)
    settle = _waiting(AsyncMemory.settle)

    def __init__(
        self,
        url: str | Path | None = None,
        *,
        tenant: str | None = None,
        space: str | None = None,
        require: str | Iterable[str] | None = None,
        settled: bool = True,
        embedder: str | Embedder | None = None,
        index: str | None = None,
        zone: str | None = None,
    ) -> None:
        self._core = AsyncMemory(
            url,
            tenant=tenant,
            space=space,
            require=require,
            settled=settled,
            embedder=embedder,
            index=index,
            zone=zone,
        )
        self._gate, self._closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simonides", daemon=True)
        self._thread.start()
        try:
            self._wait(self._core.open())
        except BaseException:
            self._stop()
            raise

    @property
    def settings(self) -> Settings:
        return self._core.settings

    @property
    def behind(self) -> str | None:
        """Why something remembered has no vectors yet; None where everything has."""
        return self._core.behind

    def close(self) -> None:
        """Finish the calls under way and what runs in the background, and close everything. Closing twice is fine."""
        if not self._closed:
            try:
                self._wait(self._core.close())
            finally:
                self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            asked.close()
            raise Invalid("Memory is for code that does not await: use AsyncMemory here")
        with self._gate:
            if self._closed:
                asked.close()
                raise Invalid("this memory is closed")
            future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    def _stop(self) -> None:
        with self._gate:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_rest(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _rest() -> None:
    """Let those who called at the last moment hear that the memory is closed."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)
