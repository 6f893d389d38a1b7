"""What may be lost at any moment, kept where it is quick to reach: answers, how often somebody came, who holds what.

Nothing here is the truth of anything. To add a cache, add one file to `caches/` and run the suite in
`testing/caches.py` against it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

VALUE_MAX = 2**20  # bytes of a value; a larger one is not kept
BUCKETS = 60  # what a window is counted by: this many parts of it, and of a second at least each


@dataclass(frozen=True, slots=True)
class Room:
    """How much there is to spend: `reset` says in how many whole seconds there will be more, 0 where all is there."""

    limit: int
    remaining: int
    reset: int
    allowed: bool = True  # whether what was asked for was counted; asked for nothing, whether anything remains


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that somebody holds. Whoever held it before has a smaller `token`, and whoever will, a greater one.

    So what is written to under the lock can refuse one who holds it no longer and does not know yet.
    """

    name: str
    token: int


class Cache(Protocol):
    """All methods may be called at once, from any task; none blocks the event loop.

    Groups, keys and names are any texts: what they are kept under is a digest of them. One that does not answer raises
    Unavailable, and then nothing is known of what was asked for.
    """

    name: str  # for people: its URL without what is secret in it
    shared: bool  # whether other processes see the same
    patience_s: float  # what a call is waited for at most

    async def get(self, group: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is kept under each of the keys, None where nothing is."""
        ...

    async def set(self, group: str, values: Mapping[str, bytes], seconds: float, *, generation: int = 0) -> None:
        """Keep the values for so long, or shorter, or not at all: there is only so much room.

        They are of that generation. What comes after a `clear` of the group that is of a later one is not kept.
        """
        ...

    async def clear(self, group: str, *, generation: int = 0) -> int:
        """Remove everything of the group, and see to it that nothing of an earlier generation gets in any more; return
        how many values that were.
        """
        ...

    async def take(self, name: str, rate: int, seconds: int = 60, *, count: int = 1) -> Room:
        """Count so many more by that name, all or none, unless they would be more than `rate` within the last so many
        seconds; return what is left then. With a count of 0 nothing is counted.

        In no stretch of so many seconds is more let through. It is counted by parts of the window (see BUCKETS), so
        what was let through may count for up to a part longer.
        """
        ...

    async def lock(self, name: str, seconds: float) -> Lock | None:
        """Return the lock, held for so long unless it is renewed; None where somebody holds it."""
        ...

    async def renew(self, lock: Lock, seconds: float) -> bool:
        """Hold it for so long from now on; return whether it was still held by this holder."""
        ...

    async def release(self, lock: Lock) -> bool:
        """Let it go; return whether it was still held by this holder. Another's lock stays."""
        ...

    async def ping(self) -> None:
        """Raise Unavailable where it does not answer."""
        ...

    async def close(self) -> None: ...


def digest(*parts: str) -> str:
    """Return what these texts are kept under."""
    made = hashlib.blake2b(digest_size=20)
    for part in parts:
        told = part.encode("utf-8", "surrogatepass")
        made.update(len(told).to_bytes(8) + told)
    return made.hexdigest()


def width(seconds: int) -> int:
    """Return how many seconds each part of such a window has."""
    return max(1, math.ceil(seconds / BUCKETS))
