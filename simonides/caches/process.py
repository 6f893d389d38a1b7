"""In this process alone, bounded in bytes. `process:`, `process:?mb=64`

What has not been asked for longest makes room; what is past its time is gone within seconds, asked for or not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ..cache import VALUE_MAX, Lock, Room, digest, width
from ..errors import Invalid

MB = 32  # by default
ENTRY = 400  # bytes that an entry takes beside its value
NAMES_MAX = 10_000  # beyond so many names at once, the one that was longest away is forgotten
SWEEP_S = 2.0  # between two looks for what is past its time, while there is anything


@dataclass(slots=True)
class _Entry:
    value: bytes
    until: float


@dataclass(slots=True)
class _Window:
    """How often, by the parts of a window in order of time."""

    seconds: int
    parts: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def forget(self, at: float) -> None:
        before = _first(at, self.seconds)
        while self.parts and (oldest := next(iter(self.parts))) < before:
            self.count -= self.parts.pop(oldest)


class ProcessCache:
    """`ticks` says what time it is, in seconds from anywhere."""

    name, shared, patience_s = "process:", False, math.inf

    def __init__(self, url: str = "process:", ticks: Callable[[], float] = time.monotonic) -> None:
        self._room, self._ticks = _megabytes(url) * 2**20, ticks
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # whoever was asked for last is at the end
        self._groups: dict[str, set[str]] = {}
        self._floors: OrderedDict[str, int] = OrderedDict()  # the generation that each group was cleared for
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # whoever came last is at the end
        self._locks: dict[str, tuple[int, float]] = {}
        self._token = 0
        self._taken = 0
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Return how many values there are."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Return about how many bytes the values take."""
        return self._taken

    @property
    def names(self) -> int:
        """Return how many names there are that something is counted by."""
        return len(self._windows)

    # -- values --------------------------------------------------------------------------------------------------

    async def get(self, group: str, keys: Sequence[str]) -> list[bytes | None]:
        inside, at = digest(group), self._ticks()
        return [self._value((inside, digest(key)), at) for key in keys]

    def _value(self, place: tuple[str, str], at: float) -> bytes | None:
        entry = self._entries.get(place)
        if entry is None:
            return None
        if entry.until <= at:
            self._drop(place)
            return None
        self._entries.move_to_end(place)
        return entry.value

    async def set(self, group: str, values: Mapping[str, bytes], seconds: float, *, generation: int = 0) -> None:
        inside = digest(group)
        if seconds <= 0 or generation < self._floors.get(inside, 0):
            return
        until = self._ticks() + seconds
        for key, value in values.items():
            place = inside, digest(key)
            self._drop(place)
            if len(value) <= min(VALUE_MAX, self._room - ENTRY):
                self._entries[place] = _Entry(value, until)
                self._groups.setdefault(inside, set()).add(place[1])
                self._taken += len(value) + ENTRY
        while self._taken > self._room:
            self._drop(next(iter(self._entries)))
        self._sweep_later()

    async def clear(self, group: str, *, generation: int = 0) -> int:
        inside, at = digest(group), self._ticks()
        if generation > self._floors.get(inside, 0):
            self._floors[inside] = generation
            self._floors.move_to_end(inside)
            if len(self._floors) > NAMES_MAX:
                self._floors.popitem(last=False)
        places = [(inside, key) for key in self._groups.get(inside, ())]
        live = sum(self._entries[place].until > at for place in places)
        for place in places:
            self._drop(place)
        return live

    def _drop(self, place: tuple[str, str]) -> None:
        if entry := self._entries.pop(place, None):
            self._taken -= len(entry.value) + ENTRY
            group, key = place
            self._groups[group].discard(key)
            if not self._groups[group]:
                del self._groups[group]

    def _sweep_later(self) -> None:
        if self._entries and self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping, at = None, self._ticks()
        for place in [place for place, entry in self._entries.items() if entry.until <= at]:
            self._drop(place)
        self._sweep_later()

    # -- counts --------------------------------------------------------------------------------------------------

    async def take(self, name: str, rate: int, seconds: int = 60, *, count: int = 1) -> Room:
        key, at = digest(name, str(seconds)), self._ticks()
        window = self._windows.get(key) or _Window(seconds)
        window.forget(at)
        allowed = window.count + max(count, 1) <= rate
        if allowed and count:
            part = math.floor(at) // width(seconds)
            window.parts[part] = window.parts.get(part, 0) + count
            window.count += count
            self._windows[key] = window
            self._windows.move_to_end(key)
            self._forget(at)
        if not window.count:
            return Room(rate, rate, 0, allowed)
        past = (next(iter(window.parts)) + 1) * width(seconds) + seconds
        return Room(rate, max(0, rate - window.count), max(1, math.ceil(past - at)), allowed)

    def _forget(self, at: float) -> None:
        """Drop the names that were longest away: those with nothing left to count, and those beyond what is kept."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            before = _first(at, window.seconds)
            if len(self._windows) <= NAMES_MAX and next(reversed(window.parts), before) >= before:
                return
            del self._windows[key]

    # -- locks ---------------------------------------------------------------------------------------------------

    async def lock(self, name: str, seconds: float) -> Lock | None:
        at = self._ticks()
        self._locks = {held: (token, until) for held, (token, until) in self._locks.items() if until > at}
        if name in self._locks:
            return None
        self._token = max(self._token + 1, time.time_ns() // 1000)
        self._locks[name] = self._token, at + seconds
        return Lock(name, self._token)

    async def renew(self, lock: Lock, seconds: float) -> bool:
        if held := self._holds(lock):
            self._locks[lock.name] = lock.token, self._ticks() + seconds
        return held

    async def release(self, lock: Lock) -> bool:
        if held := self._holds(lock):
            del self._locks[lock.name]
        return held

    def _holds(self, lock: Lock) -> bool:
        token, until = self._locks.get(lock.name, (0, 0.0))
        return token == lock.token and until > self._ticks()

    # ------------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """It is there."""

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for kept in (self._entries, self._groups, self._floors, self._windows, self._locks):
            kept.clear()
        self._taken = 0


open = ProcessCache


def _first(at: float, seconds: int) -> int:
    """Return the first part of such a window that counts at that time."""
    return (math.floor(at) - seconds) // width(seconds)


def _megabytes(url: str) -> int:
    _, _, rest = url.partition(":")
    path, _, options = rest.partition("?")
    given = dict(parse_qsl(options, keep_blank_values=True))
    mb = given.pop("mb", str(MB))
    if path.strip("/") or given or not mb.isdecimal() or not 1 <= int(mb) <= 1_000_000:
        raise Invalid(f"{url!r}: the one option is mb=64, the megabytes (2²⁰ bytes) that it may take")
    return int(mb)
