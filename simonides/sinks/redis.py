"""To a stream of Redis or Valkey. `redis://host:6379/0?stream=simonides`
Each entry has two fields: `event`, which is the whole event as one JSON object, and `key`, its scope. All entries of a
stream are in order. It is acknowledged once the server has answered XADD: how much it flushes before it answers is its
own setting (`appendfsync`). The stream is cut to about `maxlen` entries (default 1000000), the oldest first. Also
`user:password@` before the host, `tls=1`, `ca`, `cert` and `cert_key`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..address import Address
from ..errors import Invalid, Unavailable
from ..sink import Event

PORT, STREAM, ENTRIES = 6379, "simonides", 1_000_000
REQUEST_S = 10.0  # what the server has to answer
OPTIONS = ("stream", "maxlen")


class RedisSink:
    def __init__(self, url: str) -> None:
        address = Address.of(url, PORT, OPTIONS)
        self._stream = address.options.get("stream", STREAM)
        self._entries = address.number("maxlen", ENTRIES)
        self.name = f"{address.name}/{address.path or 0}/{self._stream}"
        self._client = client(address)

    async def send(self, events: Sequence[Event]) -> None:
        from redis.exceptions import RedisError

        try:
            async with self._client.pipeline(transaction=True) as pipe:
                for event in events:
                    fields = {"event": event.structured(), "key": event.key}
                    pipe.xadd(self._stream, fields, maxlen=self._entries, approximate=True)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise Unavailable(f"{self.name} does not take events: {type(error).__name__}: {error}") from None

    async def close(self) -> None:
        with contextlib.suppress(OSError):
            await self._client.aclose()


def client(address: Address) -> Any:
    """Return a client of the server, which connects when it is first asked something."""
    try:
        from redis import asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise Unavailable("Redis needs: pip install 'simonides[redis]'") from None
    if len(address.hosts) > 1 or not (address.path or "0").isdecimal():
        raise Invalid(f"{address.name} must be one server and the number of a database, as in redis://host:6379/0")
    (host, port), secured = address.hosts[0], dict[str, Any]()
    if address.flag("tls"):
        secured = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": address.options.get("ca")}
        secured |= {"ssl_certfile": address.options.get("cert"), "ssl_keyfile": address.options.get("cert_key")}
    return redis.Redis(
        host=host,
        port=port,
        db=int(address.path or 0),
        username=address.user or None,
        password=address.password or None,
        socket_timeout=REQUEST_S,
        socket_connect_timeout=REQUEST_S,
        retry=Retry(NoBackoff(), 0),  # who asks decides when to ask again
        **secured,
    )


open = RedisSink
