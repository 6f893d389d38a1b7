"""How often something happened within the last minute, by name, in memory that is bounded.

Kept by whole seconds, so that a name costs at most 61 numbers however often it comes; what happened within a second
counts until all of that second is past the window. So never more than the limit is let through in any 60 seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60
NAMES_MAX = 10_000  # beyond so many names at once, the one that was longest away is forgotten


@dataclass(frozen=True, slots=True)
class Room:
    """How much there is to spend: `reset` says in how many whole seconds there will be more, 0 where all is there."""

    limit: int
    remaining: int
    reset: int


@dataclass(slots=True)
class _Window:
    seconds: dict[int, int] = field(default_factory=dict)  # in order of time
    count: int = 0

    def forget(self, before: int) -> None:
        while self.seconds and (oldest := next(iter(self.seconds))) < before:
            self.count -= self.seconds.pop(oldest)


class Windows:
    """`ticks` says what time it is, in seconds from anywhere."""

    def __init__(self, ticks: Callable[[], float], names_max: int = NAMES_MAX) -> None:
        self._ticks, self._names_max = ticks, names_max
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # whoever came last is at the end

    def __len__(self) -> int:
        return len(self._windows)

    def room(self, name: str, limit: int) -> Room:
        """Return what is left of so many a minute."""
        at = self._ticks()
        window = self._windows.get(name, _NOTHING)
        window.forget(_first(at))
        if not window.count:
            return Room(limit, limit, 0)
        oldest = next(iter(window.seconds))
        return Room(limit, max(0, limit - window.count), max(1, math.ceil(oldest + WINDOW_S + 1 - at)))

    def take(self, name: str, limit: int) -> bool:
        """Count one more, unless there were so many within the last minute; return whether it was counted."""
        if not self.room(name, limit).remaining:
            return False
        second = math.floor(self._ticks())
        window = self._windows.setdefault(name, _Window())
        window.seconds[second] = window.seconds.get(second, 0) + 1
        window.count += 1
        self._windows.move_to_end(name)
        self._forget()
        return True

    def _forget(self) -> None:
        """Drop the names that were longest away: those with nothing left to count, and those beyond what is kept."""
        before = _first(self._ticks())
        while self._windows:
            name, window = next(iter(self._windows.items()))
            if len(self._windows) <= self._names_max and next(reversed(window.seconds), before) >= before:
                return
            del self._windows[name]


_NOTHING = _Window()


def _first(at: float) -> int:
    """Return the first second that counts at that time."""
    return math.floor(at) - WINDOW_S
