"""Runs the server in this process: binds, says where it is, reloads, and ends without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .. import config, terminal
from ..errors import Forbidden, SimonidesError, Unavailable
from ..record import now
from ..serving import Serving, hide
from ..version import VERSION
from . import logs, spool
from .house import House, opened

BACKLOG = 2048
NAMES = {"api": "API", "docs": "Docs", "mcp": "MCP", "openai": "OpenAI", "metrics": "Metrics", "grpc": "gRPC"}
WATCH_S = 2.0  # between two looks at the files with the settings
GARBAGE = (25_000, 20, 20)  # see `gc`: a recall makes thousands of objects, and next to none of them is garbage

Stamps = dict[str, tuple[int, int] | None]  # of each file, what tells that it is another than before

log = logging.getLogger(__name__)


def serve(store: str | None, flags: Mapping[str, Any], *, as_json: bool = False, **given: str | None) -> None:
    """Serve until a signal says to stop. `flags` are the settings given by hand, the rest says which memory."""
    seen, serving = _stamps(flags), config.serving(flags)
    with logs.logged(serving), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(store, serving, flags, seen, as_json, **given))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(
    store: str | None, serving: Serving, flags: Mapping[str, Any], seen: Stamps, as_json: bool, **given: str | None
) -> None:
    sockets = bound(serving.host, serving.port)
    sweeping = asyncio.create_task(asyncio.to_thread(spool.sweep))
    try:
        async with opened(store, serving, **given) as house:
            await _check_keys(house)
            gc.freeze()  # what is there now stays: it is not looked through again and again
            gc.enable()
            gc.set_threshold(*GARBAGE)
            async with _grpc(house) as port:
                server = Server(house, lambda: _tell(house, _url(serving.host, sockets), port, as_json))
                with _signals(server, lambda: reload(house, flags)):
                    async with _watching(house, flags, seen):
                        await server.serve(sockets)
    finally:
        await sweeping
        for each in sockets:
            each.close()


@contextlib.asynccontextmanager
async def _grpc(house: House) -> AsyncIterator[int | None]:
    """Open the door of gRPC where one is asked for, and give its port."""
    serving = house.serving
    if not serving.grpc_port:
        yield None
        return
    try:
        from .grpc import start
    except ModuleNotFoundError as error:
        raise Unavailable(f"gRPC needs {error.name}: pip install 'simonides[grpc]', or leave out --grpc-port") from None
    replays = house.made.state.replays
    door = await start(house.desk, house.gate, host=serving.host, port=serving.grpc_port, replays=replays)
    try:
        yield door.port
    finally:
        await door.stop(serving.drain_seconds)


class Patient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """A connection on which a whole request has begun within the time that one is kept open without.

    uvicorn itself counts only from the first answer on: whoever connects and says nothing, or never ends the headers,
    would take one of the connections that there are, without a key, for as long as they like.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(no_more=True)
        super().connection_lost(exc)

    def _wait(self, no_more: bool = False) -> None:
        if no_more or not self._silent():
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _silent(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self._waiting = None
        if self._silent() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, which leaves the signals to us, and says when it is ready."""

    def __init__(self, house: House, ready: Callable[[], None]) -> None:
        serving = house.serving
        super().__init__(
            uvicorn.Config(
                house.app,
                http=Patient,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=serving.connections_max,
                timeout_keep_alive=int(serving.idle_seconds),
                timeout_graceful_shutdown=serving.drain_seconds,  # type: ignore[arg-type]
            )
        )
        self._house, self._ready = house, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Stop; asked a second time, wait for nobody."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: what is under way has %g s to end", self._house.serving.drain_seconds)
        self._house.stop()
        await super().shutdown(sockets)


# -- where it listens --------------------------------------------------------------------------------------------


def bound(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at every address of that host; raise Unavailable where that cannot be."""
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Unavailable(f"{host} is no address of this machine: {error.strerror}") from None
    made: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        taken = made[0].getsockname()[1] if made else port
        try:
            made.append(_bound(family, (address[0], taken, *address[2:])))
        except OSError as error:
            if made and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name of both families, on a machine that has one
            for each in made:
                each.close()
            raise _cannot(host, port, error) from None
    return made


def _bound(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's delay on
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _cannot(host: str, port: int, error: OSError) -> Unavailable:
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            f"port {port} at {host} is taken: another server listens there. Choose another with --port, or --port 0 "
            "for a free one"
        )
    if error.errno == errno.EACCES:
        return Unavailable(f"port {port} may not be used by you: choose one above 1023 with --port")
    return Unavailable(f"{host} port {port} cannot be listened at: {error.strerror}")


def _url(host: str, sockets: Sequence[socket.socket]) -> str:
    name = host.strip("[]")
    return f"http://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}"


# -- what it says ------------------------------------------------------------------------------------------------


async def _check_keys(house: House) -> None:
    """Refuse to stand open to others without a key that could be asked for."""
    serving = house.serving
    if not serving.keys_asked and (serving.trusted_proxies or serving.allowed_hosts):
        log.warning("whoever reaches the proxy in front of this server may do everything: ask for keys, --require-key")
    if not serving.keys_asked or house.desk.directory is None or await house.desk.directory.count(now()):
        return
    if not serving.loopback:
        raise Forbidden(
            f"{serving.host} can be reached from other machines, and there is no key yet that opens anything: make one "
            "with `simonides keys create`, or serve this machine alone with --host 127.0.0.1"
        )
    log.warning("keys are asked for, and there is none yet: make one with `simonides keys create`")


def _tell(house: House, url: str, grpc_port: int | None, as_json: bool) -> None:
    """Say where it is, and whether keys are asked: to people as a text, to a log that is JSON as a line of it."""
    asked, store = house.serving.keys_asked, hide(house.desk.memory.settings.store_url)
    doors = {door: f"{url}{path}" for door, path in _doors(house).items()}
    if grpc_port is not None:
        doors["grpc"] = f"{url.removeprefix('http://').rpartition(':')[0]}:{grpc_port}"
    if logs.as_json(house.serving, sys.stderr):
        log.info("ready", extra={"doors": doors, "keys": asked})
    else:
        keys = "asked of everybody" if asked else "none asked: whoever is on this machine may do everything"
        rows = [*((NAMES[door], where) for door, where in doors.items()), ("Keys", keys), ("Memory", store)]
        told = "\n".join(f"  {name:<8} {value}" for name, value in rows)
        terminal.tell(f"Simonides {VERSION} is ready. Ctrl+C stops it.\n{told}")
    if as_json:
        terminal.say_json({"url": url, **doors, "keys": asked, "store": store})


def _doors(house: House) -> dict[str, str]:
    paths = {getattr(route, "path", "") for route in house.made.routes}
    doors = {"api": "/api/v1", "docs": "/docs", "mcp": "/mcp", "openai": "/v1", "metrics": "/metrics"}
    return {door: path for door, path in doors.items() if any(found.startswith(path) for found in paths)}


# -- signals and new settings ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(server: Server, reloaded: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT stop it, and SIGHUP read the settings again."""
    loop = asyncio.get_running_loop()
    wanted: dict[str, Callable[[], None]] = {"SIGTERM": server.stop, "SIGINT": server.stop, "SIGHUP": reloaded}
    wanted |= {"SIGBREAK": server.stop}
    there = {getattr(signal, name): act for name, act in wanted.items() if hasattr(signal, name)}
    try:
        for number, act in there.items():
            loop.add_signal_handler(number, act)
        undo: Callable[[int], Any] = loop.remove_signal_handler
    except NotImplementedError:  # Windows
        before = {n: signal.signal(n, lambda *_, act=act: loop.call_soon_threadsafe(act)) for n, act in there.items()}

        def undo(number: int) -> Any:
            return signal.signal(number, before[number])

    try:
        yield
    finally:
        for number in there:
            undo(number)


@contextlib.asynccontextmanager
async def _watching(house: House, flags: Mapping[str, Any], seen: Stamps) -> AsyncIterator[None]:
    watching = asyncio.create_task(_watch(house, flags, seen))
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _watch(house: House, flags: Mapping[str, Any], seen: Stamps) -> None:
    """Read the settings again when a file changes that they come from."""
    while True:
        await asyncio.sleep(WATCH_S)
        if (found := _stamps(flags)) != seen:
            seen = found
            reload(house, flags)


def _stamps(flags: Mapping[str, Any]) -> Stamps:
    def stamp(path: Any) -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    try:
        files = config.watched(flags)
    except SimonidesError:
        files = (config.settings_file(),)
    return {str(path): stamp(path) for path in files}


def reload(house: House, flags: Mapping[str, Any]) -> None:
    """Read the settings again and go on with them. Where they are wrong, go on with the old ones and say why."""
    try:
        taken, restart = house.take(config.serving(flags))
    except SimonidesError as error:
        log.warning("the settings stay as they were: %s", error.message)
        return
    if taken:
        log.info("settings taken over: %s", ", ".join(taken))
    if restart:
        log.warning("these settings need a restart: %s", ", ".join(restart))
