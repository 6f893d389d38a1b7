"""MCP, two ways in: over stdin and stdout for a client that starts us, and over HTTP at `/mcp`.

The SDK takes longer to import than the server to start, so over HTTP it is imported with the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route

from ..api import Desk
from ..errors import Invalid, Limited, SimonidesError
from ..memory import AsyncMemory
from ..serving import Serving
from .gate import Gate
from .problems import problem, refusal
from .tool import Visit

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from ..asked import Asked
    from .mcp_server import Context, Visitor

PATH = "/mcp"
MINE = frozenset({"localhost", "127.0.0.1", "::1"})
LEVELS = ("user", "agent", "session", "space")
DRAIN_S = 20.0  # that calls under way have when stdin ends
LOOKED_S = 0.02

log = logging.getLogger("simonides")


# -- over HTTP ----------------------------------------------------------------------------------------------------


def mount(app: FastAPI, desk: Desk | None = None) -> None:
    """Serve MCP at `/mcp`, to the principals that come through the app's own door; the desk is the app's, too.

    `/mcp?tools=all` shows other tools; `user`, `agent`, `session` and `space` say whose memory it is about, within what
    the key opens.
    """
    door = Door(desk or app.state.desk, app.state.gate)
    app.router.routes.append(Route(PATH, door, include_in_schema=False))
    before = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with before(app) as state:
            try:
                yield state
            finally:
                await door.close()

    app.router.lifespan_context = lifespan


class Door:
    """An ASGI application. A session belongs to whoever opened it: to any other key it does not exist."""

    def __init__(self, desk: Desk, gate: Gate) -> None:
        self._desk, self._gate = desk, gate
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._inside: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if refused := strange(request.headers, self._desk.serving):
            await problem(*refused)(scope, receive, send)
            return
        inside = await self._open()
        try:
            visitor = _visitor(request, self._desk)
        except SimonidesError as error:
            await refusal(error)(scope, receive, send)
            return
        scope["state"]["visitor"] = visitor
        scope["user"] = _owner(visitor.visit.principal.name)
        if request.method != "GET":
            await inside(scope, receive, send)
            return
        try:
            with self._gate.hold(visitor.visit.principal, "streams", self._desk.serving.streams_max):
                await inside(scope, receive, send)
        except Limited as error:
            await refusal(error)(scope, receive, send)

    async def close(self) -> None:
        """End the sessions."""
        self._closing.set()
        if self._running is not None:
            await self._running

    async def _open(self) -> Any:
        """Return the application of the SDK, imported by whoever comes first."""
        async with self._opening:
            if self._inside is None:
                await asyncio.to_thread(importlib.import_module, f"{__package__}.mcp_server")
                opened = asyncio.Event()
                self._running = asyncio.create_task(self._run(opened))
                await opened.wait()
        return self._inside

    async def _run(self, opened: asyncio.Event) -> None:
        """Hold the sessions, from first to last in one task, as the SDK asks."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from .mcp_server import made

        serving = self._desk.serving
        sessions = StreamableHTTPSessionManager(
            made(_who), max_request_body_size=serving.body_mb_max * 2**20, max_sessions=serving.connections_max
        )
        async with sessions.run():
            self._inside = sessions.handle_request
            opened.set()
            await self._closing.wait()


def _who(context: Context) -> Visitor:
    assert context.request is not None
    visitor: Visitor = context.request.state.visitor
    return visitor


def _owner(name: str) -> Any:
    """Return the principal as the SDK compares owners of sessions."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    return AuthenticatedUser(AccessToken(token="", client_id=name, scopes=[]))


def _visitor(request: Request, desk: Desk) -> Visitor:
    """Return who asks, by the key, and for what, by the address. Raise Invalid where the address says what is not."""
    from .mcp_server import Visitor
    from .tools import DEFAULT, chosen

    said = parse_qs(request.url.query, keep_blank_values=True)
    if unknown := sorted(set(said) - {"tools", *LEVELS}):
        raise Invalid(f"{PATH} takes no {unknown[0][:50]!r}; it takes: tools, {', '.join(LEVELS)}")
    if twice := [name for name, values in said.items() if len(values) > 1 and name != "tools"]:
        raise Invalid(f"{twice[0]} stands in the address twice")
    whose = {level: said[level][0] for level in LEVELS if level in said}
    return Visitor(Visit(desk, request.state.principal, whose), chosen(",".join(said.get("tools", [DEFAULT]))))


def strange(headers: Headers, serving: Serving) -> tuple[int, str, str] | None:
    """Return why a request is not for us: it calls us by another's name, or a web page sends it that may not.

    So no page that somebody happens to look at can speak to the memory on their machine.
    """
    host = urlsplit(f"//{headers.get('host', '')}").hostname if _plain(headers.get("host", "")) else None
    own = {name.casefold() for name in serving.allowed_hosts}
    if not own and serving.loopback:
        own = {*MINE, serving.host.strip("[]").casefold()}
    if host is None or (own and host not in own and headers["host"].casefold() not in own):
        return 421, "host", "this server does not go by that name: see the setting allowed_hosts"
    origin = headers.get("origin")
    if origin is None or "*" in serving.cors_origins or origin in serving.cors_origins:
        return None
    if origin.partition("://")[2].casefold() == headers["host"].casefold():
        return None
    return 403, "forbidden", "no web page of that origin may call: see the setting cors_origins"


def _plain(host: str) -> bool:
    try:
        return bool(urlsplit(f"//{host}").hostname) and not set(host) & set("/?#@")
    except ValueError:
        return False


# -- over stdin and stdout ----------------------------------------------------------------------------------------


def main_stdio(asked: Asked, tools: str = "memory") -> int:
    """Speak MCP over stdin and stdout until stdin ends; return the exit status.

    `asked` says which memory, and whose it is where a call names nobody. Nothing but the protocol goes to stdout.
    """
    from .tools import chosen

    shown = chosen(tools)
    memory = AsyncMemory(
        asked.store, tenant=asked.tenant, space=asked.space, embedder=asked.embedder, settled=False
    )  # fmt: skip
    visit = Visit(Desk(memory), whose={level: str(name) for level, name in asked.whose.items()})
    return asyncio.run(_spoken(visit, shown))


async def _spoken(visit: Visit, shown: Mapping[str, Any]) -> int:
    from mcp.server.stdio import stdio_server

    from .mcp_server import Visitor, made

    async with visit.desk.memory:
        server, calls = made(lambda context: Visitor(visit, shown)), Calls()
        server.middleware.append(calls)

        async def speak() -> None:
            lines: Any = Lines(calls)
            async with stdio_server(stdin=lines) as (heard, said):
                await server.run(heard, said, server.create_initialization_options())

        speaking = asyncio.create_task(speak())
        ended = _told_to_end(speaking)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([speaking])
            _rethrow(speaking)
        return 128 + ended[0] if ended and ended[0] == signal.SIGINT else 0


def _told_to_end(speaking: asyncio.Task[None]) -> list[int]:
    """Stop at SIGINT and SIGTERM; return the list in which it will stand which one it was."""
    told: list[int] = []

    def end(number: int) -> None:
        told.append(number)
        speaking.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            asyncio.get_running_loop().add_signal_handler(number, end, number)
    return told


def _rethrow(speaking: asyncio.Task[None]) -> None:
    """Raise what speaking failed with. That whoever listens is gone before the last answer is no failure."""
    error = None if speaking.cancelled() else speaking.exception()
    if isinstance(error, BaseExceptionGroup):
        _, error = error.split((BrokenPipeError, ConnectionResetError))
    if error is not None and not isinstance(error, BrokenPipeError | ConnectionResetError):
        raise error


class Calls:
    """Counts the requests that are under way, as a middleware of the SDK's server."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, ctx: Context, call_next: Any) -> Any:
        if ctx.request_id is None:
            return await call_next(ctx)
        self.count += 1
        try:
            return await call_next(ctx)
        finally:
            self.count -= 1

    async def ended(self) -> None:
        """Wait until none is under way, and none came of what was read last; at most DRAIN_S."""
        still = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while still < 3:
                    await asyncio.sleep(LOOKED_S)
                    still = still + 1 if self.count == 0 else 0


class Lines:
    """The lines of stdin, read by a thread of their own: waiting for the next one can be given up.

    The end of stdin is told once the calls under way are answered, as with it the SDK lets go of them.
    """

    def __init__(self, calls: Calls, stream: BinaryIO | None = None) -> None:
        self._calls = calls
        self._stream = stream or os.fdopen(os.dup(sys.stdin.fileno()), "rb")
        self._read: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._follow, daemon=True, name="stdin").start()

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        line = await self._read.get()
        if line:
            return line.decode("utf-8", "replace")
        await self._calls.ended()
        raise StopAsyncIteration

    def _follow(self) -> None:
        lines: Iterable[bytes] = iter(self._stream.readline, b"")
        with contextlib.suppress(RuntimeError, OSError, ValueError, asyncio.CancelledError):  # the loop is closed
            for line in lines:
                asyncio.run_coroutine_threadsafe(self._read.put(line), self._loop).result()
            asyncio.run_coroutine_threadsafe(self._read.put(b""), self._loop).result()
