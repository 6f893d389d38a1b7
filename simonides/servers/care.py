"""The care around the application: each request passes these on its way in, and its answer on its way out.

    Proxied     the client's own address, where a proxy that is trusted says so
    Watched     an id, a line in the log, what is counted; whatever goes wrong is answered
    Marked      headers that tell browsers what not to do
    Hosts       only by the server's own names: a page cannot reach it by a name that it makes point here
    Origins     only pages of these origins; where no key is asked for, others may not even send
    Compressed  gzip, brotli, zstd, as the client likes; streams of events are not
    Bodies      no more than is allowed, in no more time than is allowed; what is compressed is unpacked
    Endless     streams of events end when the server does

What needs no key is inside of all of it. Settings are read at each request where a running server takes new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware, add_compress_type, remove_compress_type
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ..serving import Serving
from .problems import REQUEST_ID, problem
from .unpacking import Refused, coding_of, unpacked

PASSED_ON = ("/v1",)  # doors behind which a body goes on as it came
STREAMED = ("/v1", "/mcp", "/api/v1/import", "/api/v1/export")  # doors that mind themselves how much they are sent
ALIVE = ("/health/live", "/health/ready")  # asked by addresses that nobody chose, and they tell nothing
PROBES = (*ALIVE, "/metrics")  # asked all the time: logged when debugging
SAFE = ("GET", "HEAD", "OPTIONS")
GONE = 499  # in the log and the metrics, not in an answer: the client went away
CODES = {408: "timeout", 413: "too_large", 415: "media_type", 422: "invalid"}  # of bodies that are not read on
AGENT_MAX = 120  # characters of a User-Agent in the log
EXPOSED = (
    "ETag", "Idempotency-Replayed", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After",
    "X-Request-ID", "Mcp-Session-Id", "X-Simonides-Session", "X-Simonides-Context-Count",
    "X-Simonides-Context-Tokens", "X-Simonides-Notes",
)  # fmt: skip
MARKS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}

log = logging.getLogger("simonides.requests")

remove_compress_type("text/event-stream")  # each event is on its way at once, and small
add_compress_type("application/x-ndjson")
add_compress_type("application/problem+json")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was answered, as far as it may be told."""

    id: str
    method: str
    route: str  # as it is declared, with the names of its parameters
    status: int
    seconds: float
    sent: int  # bytes
    client: str
    key: str  # the id of the key, never the key
    agent: str


class Watch(Protocol):
    """What is told of requests; see `observe.Observer`."""

    def began(self, scope: Scope) -> Any:
        """Return what `ended` is handed in the end."""
        ...

    def ended(self, begun: Any, seen: Seen) -> None: ...


def around(
    app: ASGIApp, serving: Callable[[], Serving], watch: Watch | None = None, closing: asyncio.Event | None = None
) -> ASGIApp:
    """Return the application with all the care around it. `closing` is set when the server is about to stop."""
    made: ASGIApp = Bodies(Endless(app, closing) if closing else app, serving)
    made = CompressMiddleware(made)
    made = Origins(made, serving)
    made = Hosts(made, serving())
    made = Marked(made)
    made = Watched(made, watch)
    trusted = serving().trusted_proxies
    return ProxyHeadersMiddleware(made, list(trusted)) if trusted else made  # type: ignore[arg-type,return-value]


# -- what is known of it afterwards --------------------------------------------------------------------------------


class Watched:
    """Gives each request an id, which is in the answer, in problem documents and in the log."""

    def __init__(self, app: ASGIApp, watch: Watch | None = None) -> None:
        self._app, self._watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        id, status, sent, start = request_id(headers.get("x-request-id")), 0, 0, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = id
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        mark = REQUEST_ID.set(id)
        begun = self._watch.began(scope) if self._watch else None
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            status = status or GONE
            raise
        except Exception as error:
            failed(error)
            if not status:
                await problem(500, "error", "something went wrong here; the log says what, under the request's id")(
                    scope, receive, sending
                )
        finally:
            principal = scope.get("state", {}).get("principal")
            seen = Seen(
                id=id, method=scope["method"], route=template(scope), status=status or GONE,
                seconds=time.perf_counter() - start, sent=sent, client=(scope.get("client") or ("",))[0],
                key=principal.name if principal else "", agent=headers.get("user-agent", "")[:AGENT_MAX],
            )  # fmt: skip
            if self._watch:
                self._watch.ended(begun, seen)
            _tell(seen)
            REQUEST_ID.reset(mark)


def request_id(given: str | None) -> str:
    """Return the id that the client gave, if it is one; otherwise a new one."""
    return given if given and re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", given) else uuid4().hex


def template(scope: Scope) -> str:
    """Return the route that answered as it is declared: with names where values of the caller's are."""
    route = scope.get("route")
    if path := getattr(route, "path", ""):
        return str(path)
    first, below = re.fullmatch(r"/?([^/]*)(.*)", scope["path"], re.S).groups()  # type: ignore[union-attr]
    return f"/{first}{'/…' if below else ''}" if first and scope.get("endpoint") else "none"


def failed(error: Exception) -> None:
    """Log what nobody foresaw: what kind it was and where. Its message may hold what was remembered, so it is left."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log.error("unforeseen", extra={"error": type(error).__qualname__, "places": places, **_id()})
    log.debug("unforeseen: %s", error, extra=_id())


def _id() -> dict[str, str | None]:
    return {"request_id": REQUEST_ID.get()}


def _tell(seen: Seen) -> None:
    level = logging.DEBUG if seen.route in PROBES and seen.status < 400 else logging.INFO
    told = {
        "request_id": seen.id, "method": seen.method, "route": seen.route, "status": seen.status,
        "ms": round(seen.seconds * 1000, 2), "bytes": seen.sent, "client": seen.client, "key": seen.key,
        "agent": seen.agent,
    }  # fmt: skip
    log.log(level, "request", extra=told)


# -- browsers ------------------------------------------------------------------------------------------------------


class Marked:
    """Tells browsers not to guess, not to keep, not to show it inside of others' pages. What an answer says counts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in MARKS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sending)


class Hosts:
    """Answers only who calls the server by a name of its own."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._own = app, own_names(serving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own if scope["type"] == "http" and scope["path"] not in ALIVE else None
        if own and not own(host_of(Headers(scope=scope).get("host", ""))):
            said = "this server does not go by that name: call it by one that `allowed_hosts` in its settings names"
            await problem(421, "host", said)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def own_names(serving: Serving) -> Callable[[str], bool] | None:
    """Return what says whether a name is the server's own; None where any is."""
    allowed = tuple(each.casefold() for each in serving.allowed_hosts)
    if "*" in allowed or not (allowed or serving.loopback):
        return None

    def own(host: str) -> bool:
        return (serving.loopback and is_loopback(host)) or any(_goes_by(host, name) for name in allowed)

    return own


def _goes_by(host: str, name: str) -> bool:
    return host.endswith(name[1:]) if name.startswith("*.") else host == host_of(name)


def host_of(header: str) -> str:
    """Return the name in a Host header, without the port."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](:\d*)?|([^:/?#@\s]+)(:\d*)?", header.strip())
    return (found[1] or found[3]).casefold().rstrip(".") if found else ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Origins:
    """CORS, where it is switched on. Where no key is asked for, pages of other origins may not even send something:
    a browser would do that for them without asking.
    """

    def __init__(self, app: ASGIApp, serving: Callable[[], Serving]) -> None:
        self._app, self._serving = app, serving
        self._origins: tuple[str, ...] = ()
        self._open: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving, origin = self._serving(), Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is None:
            await self._app(scope, receive, send)
        elif serving.cors_origins and _allowed(origin, serving.cors_origins):
            await self._answers(serving.cors_origins)(scope, receive, send)
        elif not serving.keys_asked and scope["method"] not in SAFE and not _own(origin, scope):
            said = (
                "pages of that origin may not call here: `cors_origins` in the server's settings names those that may"
            )
            await problem(403, "origin", said)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _answers(self, origins: tuple[str, ...]) -> ASGIApp:
        if origins != self._origins:
            self._origins = origins
            self._open = CORSMiddleware(
                self._app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
            )
        return self._open


def _allowed(origin: str, origins: Iterable[str]) -> bool:
    return any(each in ("*", origin) for each in origins)


def _own(origin: str, scope: Scope) -> bool:
    """Whether the page came from this server itself."""
    try:
        return urlsplit(origin).netloc.casefold() == Headers(scope=scope).get("host", "").casefold()
    except ValueError:
        return False


# -- compression and bodies ----------------------------------------------------------------------------------------


class Bodies:
    """Reads no more of a body than is allowed, as it comes, whatever it says about its length, and waits for it no
    longer than a call may take. What is compressed counts as what it unpacks to.
    """

    def __init__(self, app: ASGIApp, serving: Callable[[], Serving]) -> None:
        self._app, self._serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packed = scope["type"] == "http" and coding_of(scope) and not _within(scope["path"], PASSED_ON)
        streamed = scope["type"] != "http" or _within(scope["path"], STREAMED)
        if streamed and not packed:
            await self._app(scope, receive, send)
            return
        serving = self._serving()
        most = math.inf if streamed else serving.body_mb_max * 2**20
        until = math.inf if streamed else time.monotonic() + serving.seconds_max
        if (length := Headers(scope=scope).get("content-length", "")).isdecimal() and int(length) > most:
            await _problem(_too_large(serving))(scope, receive, send)
            return
        got, whole, refused, begun = 0, False, list[Refused](), False
        if packed:
            scope, receive = unpacked(scope, receive)

        async def receiving() -> Message:
            nonlocal got, whole
            if whole:
                return await receive()
            try:
                left = None if until == math.inf else max(0.0, until - time.monotonic())
                async with asyncio.timeout(left):
                    message = await receive()
            except Refused as error:
                refused.append(error)
                raise
            except TimeoutError:
                refused.append(Refused(408, f"the body did not come within {serving.seconds_max:g} seconds"))
                raise refused[0] from None
            got += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if got > most:
                refused.append(_too_large(serving))
                raise refused[0]
            return message

        async def sending(message: Message) -> None:
            nonlocal begun
            if not refused or begun:
                begun = True
                await send(message)

        with contextlib.suppress(Refused):
            await self._app(scope, receiving, sending)
        if refused and not begun:
            await _problem(refused[0])(scope, receive, send)


class Endless:
    """Ends what has no end of its own when the server is about to stop: streams of events that were asked for by GET.
    Streams that answer something (by POST) have an end, and are waited for.
    """

    def __init__(self, app: ASGIApp, closing: asyncio.Event) -> None:
        self._app, self._closing = app, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        request, watching, ended = asyncio.current_task(), None, False
        assert request is not None

        async def sending(message: Message) -> None:
            nonlocal watching, ended
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if kind.startswith("text/event-stream"):
                    watching = asyncio.create_task(self._cancel(request))
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if not watching or not watching.done() or request.uncancel():
                raise
            if not ended:
                await send({"type": "http.response.body", "body": b""})
        finally:
            if watching:
                watching.cancel()

    async def _cancel(self, request: asyncio.Task[object]) -> None:
        await self._closing.wait()
        request.cancel()


def _too_large(serving: Serving) -> Refused:
    return Refused(413, f"a request may have {serving.body_mb_max} MB; send it in parts, or as an import")


def _problem(refused: Refused) -> ASGIApp:
    headers = {"Connection": "close", **(refused.headers or {})}
    again = refused.status_code == 408
    return problem(refused.status_code, CODES[refused.status_code], refused.detail, retryable=again, headers=headers)


def _within(path: str, doors: Iterable[str]) -> bool:
    return any(path == door or path.startswith(f"{door}/") for door in doors)
