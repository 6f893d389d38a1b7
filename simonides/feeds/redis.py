"""The log in streams of Redis or Valkey. `redis://host:6379/0`
Each partition is a stream (`partitions`, default 16), named `stream` (default `simonides`), the store's identity and a
number; a consumer group for each follower, whose entries a worker acknowledges (XACK) once what it made of them is in
the store. Who reads which partition is agreed on in Redis, by its clock: whoever says nothing for `ttl` seconds
(default 10) loses its partitions to the others, with what it had not acknowledged (XAUTOCLAIM). A stream is cut to
about `maxlen` entries (default 10000). Also `user:password@` before the host, `tls=1`, `ca`, `cert` and `cert_key`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from ..address import Address
from ..errors import Damaged, Unavailable
from ..feed import Arrival, FeedSource, Parcel, ended
from ..follow import SHARDS
from ..sinks.redis import PORT, client
from ..store import Store

PARTITIONS, ENTRIES, TTL_S = 16, 10_000, 10
READ = 64  # entries of a partition that are read at a time
OPTIONS = ("stream", "partitions", "maxlen", "ttl")

# Who is alive, whose share is how much, and which partitions are this one's now: all by the server's clock.
SHARE = """
local members, owners = KEYS[1], KEYS[2]
local me, ttl, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', members, now, me)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - ttl)
local alive, place = redis.call('ZRANGE', members, 0, -1), 0
table.sort(alive)
for i, name in ipairs(alive) do if name == me then place = i end end
local share = math.floor(count / #alive)
if place <= count % #alive then share = share + 1 end
local mine, free = {}, {}
for p = 0, count - 1 do
    local owner = redis.call('HGET', owners, p)
    if owner == me then mine[#mine + 1] = p
    elseif not owner or not redis.call('ZSCORE', members, owner) then free[#free + 1] = p end
end
while #mine > share do redis.call('HDEL', owners, table.remove(mine)) end
while #mine < share and #free > 0 do
    local p = table.remove(free)
    redis.call('HSET', owners, p, me)
    mine[#mine + 1] = p
end
redis.call('PEXPIRE', members, 1000 * ttl)
redis.call('PEXPIRE', owners, 1000 * ttl)
return mine
"""
LEAVE = """
redis.call('ZREM', KEYS[1], ARGV[1])
for p = 0, tonumber(ARGV[2]) - 1 do
    if redis.call('HGET', KEYS[2], p) == ARGV[1] then redis.call('HDEL', KEYS[2], p) end
end
"""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("simonides.feed")


def answered(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Translate the errors of the client."""

    @functools.wraps(call)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        from redis.exceptions import RedisError

        try:
            return await call(*args, **kwargs)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis does not answer: {type(error).__name__}: {error}") from None

    return wrapped


class RedisCarrier:
    def __init__(self, url: str, identity: str) -> None:
        address = Address.of(url, PORT, OPTIONS)
        self.count = min(address.number("partitions", PARTITIONS), SHARDS)
        self._entries, self._ttl_s = address.number("maxlen", ENTRIES), address.number("ttl", TTL_S)
        self._stream = f"{address.options.get('stream', 'simonides')}:{{{identity}}}"  # one slot of a cluster
        self.name = f"{address.name}/{address.path or 0}/{self._stream}"
        self._client = client(address)
        self._me, self._group = uuid.uuid4().hex, ""
        self._held: dict[int, int] = {}
        self._claimed: dict[int, bytes | None] = {}  # where claiming what others left goes on; None: it is done
        self._gains = 0
        self._beating: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Sequence[Arrival]] | None = None

    async def partitions(self) -> int:
        return self.count

    @answered
    async def publish(self, parcels: Sequence[Parcel]) -> None:
        async with self._client.pipeline(transaction=True) as pipe:
            for parcel in parcels:
                fields = {"parcel": parcel.packed()}
                pipe.xadd(self._key(parcel.partition), fields, maxlen=self._entries, approximate=True)
            await pipe.execute()

    async def join(self, follower: str) -> None:
        self._group = follower
        await self._beat()
        self._beating = asyncio.create_task(self._beats())

    @property
    def held(self) -> Mapping[int, int]:
        return self._held

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 5)
            try:
                await self._beat()
            except Unavailable as error:  # what is ours stays ours: nobody else can take it meanwhile
                log.info("no heartbeat: %s", error)

    @answered
    async def _beat(self) -> None:
        """Say that we are alive, and learn which partitions are ours."""
        mine = await self._client.eval(SHARE, 2, *self._names(), self._me, self._ttl_s * 1000, self.count)
        for p in mine:
            if p not in self._held:
                await self._ready(p)
                self._gains += 1
                self._claimed[p] = b"0-0"
        self._held = {p: self._held.get(p, self._gains) for p in mine}

    async def _ready(self, p: int) -> None:
        """Make the partition and its group, where they are not there."""
        from redis.exceptions import ResponseError

        try:
            await self._client.xgroup_create(self._key(p), self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, wait_s: float) -> Sequence[Arrival]:
        """Read in a task of its own: what is under way when a caller is cancelled is the answer to the next."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(wait_s))
        await asyncio.wait({self._reading})
        done, self._reading = self._reading, None
        return done.result()

    async def _read(self, wait_s: float) -> Sequence[Arrival]:
        from redis.exceptions import ResponseError

        try:
            return await self._next(wait_s)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise Unavailable(f"Redis does not bring the log: {error}") from None
            await self._again()  # it has lost what it had
            return []

    @answered
    async def _again(self) -> None:
        for p in self._held:
            await self._ready(p)

    async def _next(self, wait_s: float) -> Sequence[Arrival]:
        from redis.exceptions import RedisError, ResponseError

        try:
            if left := [p for p in self._held if self._claimed[p] is not None]:
                return [arrival for p in left for arrival in await self._claim(p)]
            streams = {self._key(p): ">" for p in self._held}
            if not streams:
                await asyncio.sleep(wait_s)
                return []
            wait_ms = max(int(wait_s * 1000), 1)
            found = await self._client.xreadgroup(self._group, self._me, streams, count=READ, block=wait_ms)
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis does not answer: {type(error).__name__}: {error}") from None
        rows = found.items() if isinstance(found, dict) else found or ()
        return [
            arrival for key, entries in rows for arrival in self._arrivals(int(key.rpartition(b":")[2]), _flat(entries))
        ]

    async def _claim(self, p: int) -> list[Arrival]:
        """Take over what another has read and not acknowledged: it is not the other's partition any more."""
        answer = await self._client.xautoclaim(
            self._key(p), self._group, self._me, 0, start_id=self._claimed[p], count=READ
        )
        self._claimed[p] = None if answer[0] in (b"0-0", "0-0") else answer[0]
        return self._arrivals(p, answer[1])

    def _arrivals(self, p: int, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Arrival]:
        found = list[Arrival]()
        for token, fields in entries:
            with contextlib.suppress(Damaged, KeyError, TypeError):  # what is not ours is passed over
                found.append(Arrival(p, token, Parcel.unpacked(fields[b"parcel"])))
        return found

    @answered
    async def taken(self, arrivals: Iterable[Arrival]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for arrival in arrivals:
                pipe.xack(self._key(arrival.partition), self._group, arrival.token)
            await pipe.execute()

    async def close(self) -> None:
        if self._reading:
            await ended(self._reading)
        if self._beating:
            await ended(self._beating)
            self._beating = None
            with contextlib.suppress(Unavailable):
                await self._leave()
        self._held = {}
        with contextlib.suppress(OSError):
            await self._client.aclose()

    @answered
    async def _leave(self) -> None:
        await self._client.eval(LEAVE, 2, *self._names(), self._me, self.count)

    def _key(self, p: int) -> str:
        return f"{self._stream}:{p}"

    def _names(self) -> tuple[str, str]:
        return f"{self._stream}:{self._group}:members", f"{self._stream}:{self._group}:owners"


def _flat(entries: Any) -> Any:
    """Return the entries of one stream, however the client's version nests them."""
    return entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries


def source(url: str, store: Store, follower: str) -> FeedSource:
    return FeedSource(store, follower, RedisCarrier(url, store.identity))


open = source
