"""Who is let in, whichever door they come to: reads the key they show, and counts how often they come.

A key comes as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Whoever shows one must show a right one: a wrong key
is `Unauthorized` on a server that asks for none, too. Who keeps showing wrong ones is `Limited` for a minute, by
address; keys that came in lately go on working from there, as many clients may stand behind one address.

Where servers share a cache, they count together. While it does not answer, each counts for itself, from nothing on:
nobody is refused because a cache is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ..access import LOCAL, Principal
from ..cache import Cache, Room
from ..config import open_backend
from ..directory import Directory, Key, digest
from ..errors import Limited, SimonidesError, Unauthorized, Unavailable
from ..record import now

FAILURES_MAX = 10  # wrong keys a minute from one address
KNOWN_MAX = 10_000  # keys that came in lately, by their digests
AGAIN_S = 5.0  # after which to ask again where too much is open; nobody knows when it ends
NOTE_S = 5.0  # between two writes of when keys were used
SHOW = "show a key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entered:
    """Who came in, and how many calls that leaves it; None: as many as it likes."""

    principal: Principal
    room: Room | None


class Counts:
    """How often a name came within the last minute: with all who share the cache, or in this process alone."""

    def __init__(self, kind: str, cache: Cache | None, ticks: Callable[[], float]) -> None:
        own: Cache = open_backend("caches", "process:", ticks)
        self._kind, self._own = kind, own
        self._shared = cache if cache and cache.shared else None

    async def take(self, name: str, rate: int, *, count: int = 1) -> Room:
        """Count one more, unless there were so many; with a count of 0, only look. Return what is left."""
        if self._shared:
            with contextlib.suppress(Unavailable):
                return await self._shared.take(f"{self._kind}/{name}", rate, count=count)
        return await self._own.take(name, rate, count=count)


class Gate:
    """`require` asks for a key. `rate` is how many calls a minute a principal has that says nothing, 0: any number.

    `rate` and `failures_max` may be set anew while it is open. Keys expire by `clock`; calls are counted in `cache`
    where others share it, and otherwise by `ticks`, in seconds from anywhere.
    """

    def __init__(
        self,
        directory: Directory | None,
        *,
        require: bool,
        rate: int = 0,
        failures_max: int = FAILURES_MAX,
        cache: Cache | None = None,
        clock: Callable[[], datetime] = now,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate, self.failures_max = rate, failures_max
        self._directory, self._require, self._clock = directory, require, clock
        self._calls, self._failures = Counts("calls", cache, ticks), Counts("failures", cache, ticks)
        self._held = Counter[tuple[str, str]]()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._uses: dict[str, datetime] = {}
        self._noting: asyncio.Task[None] | None = None

    @property
    def requires(self) -> bool:
        """Whether whoever comes must show a key."""
        return self._require

    async def enter(self, headers: Mapping[str, str], client: str) -> Principal:
        """Return who comes with these headers from that address; see `admit`."""
        return (await self.admit(headers, client)).principal

    async def admit(self, headers: Mapping[str, str], client: str) -> Entered:
        """Return who comes with these headers from that address, and how many calls it has left.

        Raise Unauthorized where the key is wrong, expired or revoked, or missing where one is asked for; Limited, with
        when to come again, where there were too many calls or too many wrong keys.
        """
        address = network(client)
        try:
            secret = shown(headers)
        except Unauthorized:
            await self._fail(address)
            raise
        if secret is not None:
            principal = (await self._holder(secret, address)).principal
        elif self._require:
            raise Unauthorized(f"{SHOW}; `simonides keys create` makes one")
        else:
            principal = LOCAL
        return Entered(principal, await self._count(principal))

    @contextlib.contextmanager
    def hold(self, principal: Principal, what: str, most: int) -> Iterator[None]:
        """Count one more of what this principal has open ("streams", "imports") while it is; Limited beyond so many."""
        if self._held[principal.name, what] >= most:
            raise Limited(f"{most} {what} of this key are open already: end one of them first", retry_after=AGAIN_S)
        self._held[principal.name, what] += 1
        try:
            yield
        finally:
            self._held[principal.name, what] -= 1
            self._held += Counter()  # keeps what is above 0

    async def settle(self) -> None:
        """Note the uses that wait to be noted. Where the directory cannot, they wait on."""
        uses, self._uses = self._uses, {}
        if self._directory is None or not uses:
            return
        try:
            await self._directory.note(uses)
        except SimonidesError as error:
            self._uses = uses | self._uses
            log.warning("when keys were last used could not be noted: %s", error)

    async def close(self) -> None:
        """Note what waits. The directory stays open: it is its opener's."""
        if self._noting is not None:
            self._noting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._noting
        await self.settle()

    async def _holder(self, secret: str, address: str) -> Key:
        """Return the key of that secret, if it opens anything now."""
        seen, at = digest(secret), self._clock()
        if seen not in self._known:
            await self._bar(address)
        key = await self._directory.find(secret) if self._directory else None
        if key is None:
            await self._fail(address)
            raise Unauthorized("nobody is known by this key")
        if why := key.closed(at):
            raise Unauthorized(f"this key is {why}" if why == "revoked" else f"this key has {why}")
        self._remember(seen)
        self._use(key.id, at)
        return key

    async def _fail(self, address: str) -> None:
        await self._bar(address, count=1)

    async def _bar(self, address: str, count: int = 0) -> None:
        room = await self._failures.take(address, self.failures_max, count=count)
        if not room.allowed:
            raise Limited("too many wrong keys from this address", retry_after=room.reset)

    async def _count(self, principal: Principal) -> Room | None:
        most = principal.rate or self.rate
        if not most:
            return None
        room = await self._calls.take(principal.name, most)
        if not room.allowed:
            raise Limited(f"more than {most} calls a minute", retry_after=room.reset, rate=most)
        return room

    def _remember(self, seen: bytes) -> None:
        self._known[seen] = None
        self._known.move_to_end(seen)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _use(self, id: str, at: datetime) -> None:
        self._uses[id] = at
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note_soon())

    async def _note_soon(self) -> None:
        await asyncio.sleep(NOTE_S)
        await self.settle()


def shown(headers: Mapping[str, str]) -> str | None:
    """Return the secret in the headers, None where there is none; raise Unauthorized where it is not plain which.

    Names of headers and the scheme go in any case. A header that comes twice (as in starlette's `Headers`) counts
    twice.
    """
    found = set[str]()
    for name, value in headers.items():
        match name.lower():
            case "authorization":
                scheme, _, secret = value.strip().partition(" ")
                if scheme.lower() != "bearer":
                    raise Unauthorized(f"only keys are taken here: {SHOW}")
                found.add(secret.strip())
            case "x-api-key":
                found.add(value.strip())
    if len(found) > 1:
        raise Unauthorized("several keys are shown, and they differ: show one")
    if "" in found:
        raise Unauthorized(f"there is no key in the header: {SHOW}")
    return found.pop() if found else None


def network(client: str) -> str:
    """Return what failed attempts are counted by: of IPv6 the first 64 bits, as one machine has all the rest."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
