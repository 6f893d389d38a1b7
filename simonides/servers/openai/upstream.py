"""The model's side of the proxy: where a call goes, which headers go along, and how the answer comes back.

An answer is passed on as it comes, chunk by chunk, and its bytes are not touched. What speaks of one connection alone
stays on it; what is between a client and this server (its key, cookies, addresses) goes no further.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ...errors import Invalid, SimonidesError, Unavailable

METHODS = ("GET", "HEAD", "POST", "DELETE")
CONNECT_SECONDS = 10.0
BESIDE = "x-simonides-"  # how our own headers begin

# What speaks of one connection (RFC 9110, section 7.6.1).
_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade".split()
)
_STAYS = _HOP | frozenset(
    "host content-length expect x-api-key cookie origin referer forwarded via x-real-ip x-forwarded-for "
    "x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-prefix".split()
)
_KEPT = _HOP | frozenset("set-cookie server date alt-svc strict-transport-security".split())
_OUR_KEY = re.compile(r"\s*bearer\s+sim_", re.IGNORECASE)
_ODD = re.compile(r"[\x00-\x20\x7f\\]")


class Gone(SimonidesError):
    """The upstream did not answer."""

    code = "upstream_unavailable"
    retryable = True


class Late(Gone):
    """The upstream did not answer in time."""

    code = "upstream_timeout"


# -- there -------------------------------------------------------------------------------------------------------


def bears_our_key(authorization: str) -> bool:
    return _OUR_KEY.match(authorization) is not None


def shown(headers: Headers) -> Headers:
    """Return the headers for the gate: what another's key is in `Authorization` is no attempt to come in here."""
    ours = [(name, value) for name, value in headers.items() if name != "authorization" or bears_our_key(value)]
    return Headers(raw=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in ours])


def outgoing(headers: Headers, key: str) -> list[tuple[str, str]]:
    """Return the headers that go to the upstream, with its key where we have one, otherwise with the client's own."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    passed = [
        (name, value)
        for name, value in headers.items()
        if name not in _STAYS | named
        and not name.startswith(BESIDE)
        and not (name == "authorization" and (key or bears_our_key(value)))
    ]
    return [*passed, ("authorization", f"Bearer {key}")] if key else passed


def uncompressed(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a call whose answer will be listened to."""
    return [*((name, value) for name, value in headers if name != "accept-encoding"), ("accept-encoding", "identity")]


def target(base: str, scope: Scope) -> str:
    """Return the URL for what was asked for below /v1, spelt as the client spelt it.

    Raise Invalid where it leads out of it, Unavailable where there is no upstream.
    """
    if not base:
        raise Unavailable("no upstream is set: name the base URL of an OpenAI API as `upstream`")
    raw = scope.get("raw_path", b"").decode("latin-1").partition("?")[0] or f"/v1/{quote(scope['path_params']['path'])}"
    before, _, path = raw.removeprefix(scope.get("root_path", "")).partition("/v1/")
    plain = unquote(unquote(path))
    if before or _ODD.search(plain) or any(part in ("", ".", "..") for part in plain.rstrip("/").split("/")):
        raise Invalid("this path leads nowhere")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{base.rstrip('/')}/{path}{'?' if query else ''}{query}"


class Upstream:
    """Connections that are kept open between calls. Settings of the environment (proxies, netrc) have no say."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def call(
        self, method: str, url: str, headers: list[tuple[str, str]], body: bytes, seconds: float
    ) -> AsyncIterator[httpx.Response]:
        """Begin a call and yield its answer, of which nothing was read yet but the headers."""
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=limits)
            self._client.headers.clear()
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        try:
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            request = self._client.build_request(method, url, headers=raw, content=body or None, timeout=timeout)
            answer = await self._client.send(request, stream=True)
        except httpx.TimeoutException:
            raise Late from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Gone(
                f"the model's server, which the setting `upstream` names, cannot be reached: {type(error).__name__}"
            ) from None
        try:
            yield answer
        finally:
            await answer.aclose()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client:
            await client.aclose()


# -- and back ----------------------------------------------------------------------------------------------------


def readable(answer: httpx.Response) -> bool:
    """Return whether its bytes are its text."""
    return str(answer.headers.get("content-encoding", "identity")).lower() == "identity"


def incoming(answer: httpx.Response, ours: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    named = {name.strip().lower() for name in answer.headers.get("connection", "").split(",")}
    passed = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if (low := name.decode("latin-1").lower()) not in _KEPT | named and not low.startswith("access-control-")
    ]
    return passed + [(name.lower().encode(), value.encode()) for name, value in ours.items()]


async def send_on(answer: httpx.Response, send: Send, headers: list[tuple[bytes, bytes]]) -> AsyncIterator[bytes]:
    """Send the answer on as it comes, and yield each chunk that was sent. The end is for the caller to send."""
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    async for chunk in answer.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        yield chunk


async def while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; drop it as soon as the client goes."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.wait({doing, gone})
    if not doing.cancelled():
        doing.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
