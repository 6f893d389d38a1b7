"""In Redis, or Valkey, or what else speaks its protocol. `redis://[user:password@]host[:6379][/0]`

Over TLS it is `rediss:`. `?prefix=simonides` begins the name of every key: installations that share a Redis have one
each. `?timeout_ms=100` is what a call is waited for.

What must not come between two steps of a call is one script. Redis' own clock counts: those of the callers may differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..cache import VALUE_MAX, Lock, Room, digest, width
from ..errors import Invalid, Unavailable

TIMEOUT_MS = 100  # by default
CONNECTIONS_MAX = 64  # of this process; whoever comes then waits for one, within what a call is waited for
FLOOR_S = 3600  # for which a group remembers the generation that it was cleared for: longer than any answer is made
FENCE_S = 7 * 86_400  # for which a lock remembers its last token; then the clock says what is greater

# KEYS: the index of the group by when each value ends, its floor, the values. ARGV: generation, milliseconds, values.
SET = """
if tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[1]) then return 0 end
local time, long = redis.call('TIME'), tonumber(ARGV[2])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 3, #KEYS do
    redis.call('SET', KEYS[i], ARGV[i], 'PX', long)
    redis.call('ZADD', KEYS[1], now + long, KEYS[i])
end
if redis.call('PTTL', KEYS[1]) < long then redis.call('PEXPIRE', KEYS[1], long) end
return #KEYS - 2
"""

# KEYS: index, floor. ARGV: generation, seconds to remember it.
CLEAR = """
if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[2]) or '0') then
    redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
end
local keys, gone = redis.call('ZRANGE', KEYS[1], 0, -1), 0
for i = 1, #keys, 1000 do
    gone = gone + redis.call('UNLINK', unpack(keys, i, math.min(i + 999, #keys)))
end
redis.call('DEL', KEYS[1])
return gone
"""

# KEYS: the counts by the parts of the window. ARGV: rate, seconds, width of a part, count.
TAKE = """
local time, rate, count = redis.call('TIME'), tonumber(ARGV[1]), tonumber(ARGV[4])
local seconds, width = tonumber(ARGV[2]), tonumber(ARGV[3])
local at = time[1] + time[2] / 1000000
local first = math.floor((math.floor(at) - seconds) / width)
local parts, sum, oldest = redis.call('HGETALL', KEYS[1]), 0, nil
for i = 1, #parts, 2 do
    local part = tonumber(parts[i])
    if part < first then
        redis.call('HDEL', KEYS[1], parts[i])
    else
        sum = sum + tonumber(parts[i + 1])
        if oldest == nil or part < oldest then oldest = part end
    end
end
local allowed = 0
if sum + math.max(count, 1) <= rate then
    allowed = 1
    if count > 0 then
        local part = math.floor(math.floor(at) / width)
        redis.call('HINCRBY', KEYS[1], part, count)
        redis.call('EXPIRE', KEYS[1], seconds + width + 1)
        sum = sum + count
        if oldest == nil then oldest = part end
    end
end
local reset = 0
if oldest ~= nil then reset = math.max(1, math.ceil((oldest + 1) * width + seconds - at)) end
return {allowed, sum, reset}
"""

# KEYS: the lock, its last token. ARGV: milliseconds, seconds to remember the token.
LOCK = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local time = redis.call('TIME')
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, time[1] * 1000000 + time[2])
local told = string.format('%.0f', token)
redis.call('SET', KEYS[2], told, 'EX', ARGV[2])
redis.call('SET', KEYS[1], told, 'PX', ARGV[1])
return told
"""

# KEYS: the lock. ARGV: the holder's token, milliseconds to hold it on, 0 to let it go.
HELD = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisCache:
    shared = True

    def __init__(self, url: str) -> None:
        library = _library()
        place, self._prefix, timeout_ms = _parsed(url)
        self.name, self.patience_s = _shown(url), timeout_ms / 1000
        self._wrong = (library.exceptions.RedisError, OSError, TimeoutError)
        tls = {"ssl_check_hostname": True, "ssl_cert_reqs": "required", **_certificates(url)}
        pool = library.asyncio.BlockingConnectionPool.from_url(
            place,
            max_connections=CONNECTIONS_MAX,
            timeout=self.patience_s,
            socket_connect_timeout=self.patience_s,
            socket_timeout=self.patience_s,
            retry=library.asyncio.retry.Retry(library.backoff.NoBackoff(), 0),
            **(tls if place.startswith("rediss:") else {}),
        )
        self._redis = library.asyncio.Redis.from_pool(pool)
        scripts = (SET, CLEAR, TAKE, LOCK, HELD)
        self._set, self._clear, self._take, self._lock, self._held = map(self._redis.register_script, scripts)

    async def get(self, group: str, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        found: list[bytes | None] = await self._asked(self._redis.mget(self._values(group, keys)))
        return found

    async def set(self, group: str, values: Mapping[str, bytes], seconds: float, *, generation: int = 0) -> None:
        small = {key: value for key, value in values.items() if len(value) <= VALUE_MAX}
        long = math.floor(seconds * 1000)
        if small and long > 0:
            keys = [*self._about(group), *self._values(group, list(small))]
            await self._asked(self._set(keys=keys, args=[generation, long, *small.values()]))

    async def clear(self, group: str, *, generation: int = 0) -> int:
        return int(await self._asked(self._clear(keys=self._about(group), args=[generation, FLOOR_S])))

    async def take(self, name: str, rate: int, seconds: int = 60, *, count: int = 1) -> Room:
        key = f"{self._prefix}:count:{digest(name, str(seconds))}"
        args = [rate, seconds, width(seconds), count]
        allowed, sum, reset = await self._asked(self._take(keys=[key], args=args))
        return Room(rate, max(0, rate - sum), reset, bool(allowed))

    async def lock(self, name: str, seconds: float) -> Lock | None:
        keys = [self._locked(name), f"{self._locked(name)}:token"]
        token = await self._asked(self._lock(keys=keys, args=[_milliseconds(seconds), FENCE_S]))
        return None if token is None else Lock(name, int(token))

    async def renew(self, lock: Lock, seconds: float) -> bool:
        return await self._still(lock, _milliseconds(seconds))

    async def release(self, lock: Lock) -> bool:
        return await self._still(lock, 0)

    async def _still(self, lock: Lock, milliseconds: int) -> bool:
        keys, args = [self._locked(lock.name)], [lock.token, milliseconds]
        return bool(await self._asked(self._held(keys=keys, args=args)))

    async def ping(self) -> None:
        await self._asked(self._redis.ping())

    async def close(self) -> None:
        try:
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
        except self._wrong:
            pass  # it is gone already

    async def _asked(self, call: Any) -> Any:
        try:
            return await call
        except self._wrong as error:
            raise Unavailable(f"the cache {self.name} does not answer: {type(error).__name__}") from None

    # -- names -----------------------------------------------------------------------------------------------------
    # What is in braces decides where a key of a cluster lies: all that one script touches lies together.

    def _values(self, group: str, keys: Sequence[str]) -> list[str]:
        return [f"{self._prefix}:value:{{{digest(group)}}}:{digest(key)}" for key in keys]

    def _about(self, group: str) -> list[str]:
        return [f"{self._prefix}:{what}:{{{digest(group)}}}" for what in ("index", "floor")]

    def _locked(self, name: str) -> str:
        return f"{self._prefix}:lock:{{{digest(name)}}}"


open = RedisCache


def _milliseconds(seconds: float) -> int:
    return max(1, math.floor(seconds * 1000))


# -- the URL -----------------------------------------------------------------------------------------------------

FILES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
OPTIONS = ("prefix", "timeout_ms", *FILES)


def _options(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _parsed(url: str) -> tuple[str, str, int]:
    """Return the URL without our options, the prefix, and what a call is waited for in milliseconds."""
    try:
        parts, given = urlsplit(url), _options(url)
        sound = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or not re.fullmatch(r"/?\d*", parts.path) or set(given) - set(OPTIONS):
        raise Invalid(
            f"{_shown(url)!r}: write redis://host:6379/0, or rediss: for TLS; the options are {', '.join(OPTIONS)}"
        )
    if parts.scheme != "rediss" and set(given) & set(FILES):
        raise Invalid(f"{_shown(url)!r}: certificates are for TLS: write rediss:")
    prefix, timeout = given.get("prefix", "simonides"), given.get("timeout_ms", str(TIMEOUT_MS))
    if not re.fullmatch(r"[\w.:-]{1,100}", prefix):
        raise Invalid(f"{_shown(url)!r}: a prefix has letters, digits and . : _ -")
    if not timeout.isdecimal() or not 1 <= int(timeout) <= 60_000:
        raise Invalid(f"{_shown(url)!r}: timeout_ms is between 1 and 60000 milliseconds")
    return parts._replace(query="", fragment="").geturl(), prefix, int(timeout)


def _certificates(url: str) -> dict[str, str]:
    given = _options(url)
    return {theirs: unquote(given[ours]) for ours, theirs in FILES.items() if ours in given}


def _shown(url: str) -> str:
    """Return the URL without user, password and options."""
    bare = url.partition("?")[0]
    scheme, _, rest = bare.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _library() -> Any:
    try:
        import redis
        import redis.asyncio
        import redis.asyncio.retry
        import redis.backoff
    except ImportError as error:
        raise Unavailable(f"a cache in Redis needs {error.name}: pip install 'simonides[redis]'") from None
    return redis
