"""A network between a client and a server that does what networks do: delays, cuts, swallows, closes one half."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Iterator


class Network:
    """A way to a port of this machine, through a thread of its own. What it does can be changed while it is used.

    `delay_s` holds back each piece; `swallow` takes what is sent and passes on nothing; `cut` ends every connection
    with a reset; `half_close` ends what comes from the server and keeps the client waiting with an open connection;
    while `down` is true nobody is let in.
    """

    def __init__(self, port: int) -> None:
        self.delay_s, self.swallow, self.down = 0.0, False, False
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._ended = weakref.WeakSet[asyncio.StreamWriter]()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="a network", daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._joined, "127.0.0.1", 0))
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _joined(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.down:
            back.transport.abort()
            return
        try:
            server, there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            back.transport.abort()
            return
        pair = (back, there)
        self._pairs.add(pair)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._carry(client, there), self._carry(server, back))
        self._pairs.discard(pair)
        for end in pair:
            end.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65_536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if not self.swallow and not target.is_closing() and target not in self._ended:
                target.write(piece)
                await target.drain()
        self._end(target)

    def _end(self, target: asyncio.StreamWriter) -> None:
        """Say that no more comes that way."""
        if target not in self._ended and not target.is_closing():
            self._ended.add(target)
            target.write_eof()

    def _do(self, what: str) -> None:
        def do() -> None:
            for back, there in list(self._pairs):
                if what == "cut":
                    back.transport.abort()
                    there.transport.abort()
                else:
                    self._end(back)

        self._loop.call_soon_threadsafe(do)

    def cut(self) -> None:
        self._do("cut")

    def half_close(self) -> None:
        self._do("half close")

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@contextlib.contextmanager
def network(port: int) -> Iterator[Network]:
    made = Network(port)
    try:
        yield made
    finally:
        made.close()
