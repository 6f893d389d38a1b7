"""Around a cache that may be gone: no call waits for long, and while it is gone, hardly any waits at all.

What several in a row did not get an answer to is not asked for a while. Then one asks; where that is answered, all do
again. Whoever is refused gets Unavailable, and goes on without a cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from .cache import Cache, Lock, Room
from .errors import Unavailable

FAILURES_MAX = 3  # in a row, before nothing is asked for a while
REST_S = 1.0

T = TypeVar("T")

log = logging.getLogger("simonides")


class Breaker:
    """Whether to ask. `ticks` says what time it is, in seconds from anywhere."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks, self._failures, self._next = ticks, 0, 0.0

    @property
    def open(self) -> bool:
        """Whether nothing is asked, but one call now and then."""
        return self._failures >= FAILURES_MAX

    def asks(self) -> bool:
        """Return whether to ask now. While it is open, whoever hears yes is the one that tries."""
        if not self.open:
            return True
        if self._ticks() < self._next:
            return False
        self._next = self._ticks() + REST_S
        return True

    def worked(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._next = self._ticks() + REST_S


class Guarded:
    """A cache that is not waited for longer than its patience, and left alone while it is gone."""

    def __init__(self, cache: Cache, ticks: Callable[[], float] = time.monotonic) -> None:
        self.name, self.shared, self.patience_s = cache.name, cache.shared, cache.patience_s
        self._cache, self._breaker = cache, Breaker(ticks)

    async def get(self, group: str, keys: Sequence[str]) -> list[bytes | None]:
        return await self._asked(lambda: self._cache.get(group, keys))

    async def set(self, group: str, values: Mapping[str, bytes], seconds: float, *, generation: int = 0) -> None:
        return await self._asked(lambda: self._cache.set(group, values, seconds, generation=generation))

    async def clear(self, group: str, *, generation: int = 0) -> int:
        return await self._asked(lambda: self._cache.clear(group, generation=generation))

    async def take(self, name: str, rate: int, seconds: int = 60, *, count: int = 1) -> Room:
        return await self._asked(lambda: self._cache.take(name, rate, seconds, count=count))

    async def lock(self, name: str, seconds: float) -> Lock | None:
        return await self._asked(lambda: self._cache.lock(name, seconds))

    async def renew(self, lock: Lock, seconds: float) -> bool:
        return await self._asked(lambda: self._cache.renew(lock, seconds))

    async def release(self, lock: Lock) -> bool:
        return await self._asked(lambda: self._cache.release(lock))

    async def ping(self) -> None:
        return await self._asked(self._cache.ping)

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(1.0, self.patience_s)):
                await self._cache.close()

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self._breaker.asks():
            raise Unavailable(f"the cache {self.name} did not answer lately; it is tried again every {REST_S:g} s")
        try:
            async with asyncio.timeout(self.patience_s):
                found = await call()
        except TimeoutError:
            missed = Unavailable(f"the cache {self.name} did not answer within {self.patience_s:g} s")
            self._failed(missed)
            raise missed from None
        except Unavailable as error:
            self._failed(error)
            raise
        self._worked()
        return found

    def _failed(self, error: Unavailable) -> None:
        before = self._breaker.open
        self._breaker.failed()
        if self._breaker.open and not before:
            log.warning("it goes on without a cache, and slower: %s", error)

    def _worked(self) -> None:
        if self._breaker.open:
            log.warning("the cache %s answers again", self.name)
        self._breaker.worked()
