"""`Memory`: the same memory for code that does not await. One event loop in one thread of its own runs the core.

`Waiting` is how, for every such face.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from .config import Settings
from .embedder import Embedder
from .errors import Invalid
from .memory import AsyncMemory

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Core")


def waiting(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Waiting[C], P], T]:
    """Return the method that waits for what this one of the core returns."""

    @functools.wraps(method)
    def call(self: Waiting[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._core, *args, **kwargs))

    return call


class Core(Protocol):
    """What is opened, asked and closed."""

    async def open(self) -> Any: ...

    async def close(self) -> None: ...


class Waiting(Generic[C]):
    """A face for code that does not await, over a core that is awaited in a thread of its own.

    Opens at once; close it, or use `with`. Safe to share between threads.
    """

    def __init__(self, core: C) -> None:
        self._core = core
        self._gate, self._closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simonides", daemon=True)
        self._thread.start()
        try:
            self._wait(core.open())
        except BaseException:
            self._stop()
            raise

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
            raise Invalid(f"{type(self).__name__} is for code that does not await: use Async{type(self).__name__} here")
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


class Memory(Waiting[AsyncMemory]):
    """A memory over one store: `Memory("sqlite:///me.db")`, `Memory("me.db")`, `Memory(":memory:")`, `Memory()`.

    See `AsyncMemory`, whose methods these are. Safe to share between threads. Opens at once; close it, or use `with`.
    """

    remember = waiting(AsyncMemory.remember)
    keep = waiting(AsyncMemory.keep)
    recall = waiting(AsyncMemory.recall)
    explain_missing = waiting(AsyncMemory.explain_missing)
    context = waiting(AsyncMemory.context)
    pack = waiting(AsyncMemory.pack)
    get = waiting(AsyncMemory.get)
    find = waiting(AsyncMemory.find)
    count = waiting(AsyncMemory.count)
    conversations = waiting(AsyncMemory.conversations)
    messages = waiting(AsyncMemory.messages)
    changes = waiting(AsyncMemory.changes)
    position = waiting(AsyncMemory.position)
    history = waiting(AsyncMemory.history)
    revise = waiting(AsyncMemory.revise)
    organise = waiting(AsyncMemory.organise)
    propose = waiting(AsyncMemory.propose)
    archive = waiting(AsyncMemory.archive)
    supersede = waiting(AsyncMemory.supersede)
    retract = waiting(AsyncMemory.retract)
    forget = waiting(AsyncMemory.forget)
    certificates = waiting(AsyncMemory.certificates)
    export = waiting(AsyncMemory.export)
    versions = waiting(AsyncMemory.versions)
    restore = waiting(AsyncMemory.restore)
    status = waiting(AsyncMemory.status)
    backlog = waiting(AsyncMemory.backlog)
    letters = waiting(AsyncMemory.letters)
    replay_letters = waiting(AsyncMemory.replay_letters)
    drop_letters = waiting(AsyncMemory.drop_letters)
    stats = waiting(AsyncMemory.stats)
    doctor = waiting(AsyncMemory.doctor)
    rebuild = waiting(AsyncMemory.rebuild)
    settle = waiting(AsyncMemory.settle)

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
        cache: str | None = None,
        sinks: Sequence[str] | None = None,
        zone: str | None = None,
    ) -> None:
        super().__init__(
            AsyncMemory(
                url,
                tenant=tenant,
                space=space,
                require=require,
                settled=settled,
                embedder=embedder,
                index=index,
                cache=cache,
                sinks=sinks,
                zone=zone,
            )
        )

    @property
    def settings(self) -> Settings:
        return self._core.settings

    @property
    def behind(self) -> str | None:
        """Why something remembered has no vectors yet; None where everything has."""
        return self._core.behind


async def _rest() -> None:
    """Let those who called at the last moment hear that the memory is closed."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)
