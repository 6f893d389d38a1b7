"""Servers to test against: a real one in a thread of this process, or one that `simonides serve` starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from simonides.directory import Grant
from simonides.servers.house import House, opened
from simonides.servers.run import Server, bound
from simonides.serving import Serving

T = TypeVar("T")

PATIENCE_S = 60  # for a machine that has much else to do


def until(what: Callable[[], bool]) -> None:
    """Wait until it is so."""
    patience = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < patience, "it never came to be"
        time.sleep(0.05)


@dataclass
class Served:
    """A server in a thread. `url` is where it is, `house` what it is made of; `keys` are the secrets that it knows."""

    url: str
    house: House
    keys: tuple[str, ...]
    loop: asyncio.AbstractEventLoop

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's own loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_S)


@contextlib.contextmanager
def served(
    store: str | Path = ":memory:", serving: Serving | None = None, *, grants: tuple[Grant, ...] = (), **more: Any
) -> Iterator[Served]:
    """Serve a memory at a free port of this machine, with a key for each grant."""
    told = serving or Serving(port=0, directory="memory:")
    found: list[Served] = []
    failed: list[BaseException] = []
    ready, stopping = threading.Event(), []

    async def serve() -> None:
        sockets = bound(told.host, 0)
        async with opened(store, told, **{"embedder": "hashing:", **more}) as house:
            directory = house.desk.directory
            assert directory is not None
            keys = tuple([(await directory.make(grant))[1] for grant in grants])
            server = Server(house, ready.set)
            url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
            found.append(Served(url, house, keys, asyncio.get_running_loop()))
            stopping.append(server.stop)
            await server.serve(sockets)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="a server", daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S), "the server did not begin"
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        for stop in stopping:
            stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the server did not end"
    if failed:
        raise failed[0]


@dataclass
class Child:
    """A process that runs `simonides serve`. `said` is what it printed when it was ready."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    log: Path

    @property
    def url(self) -> str:
        url: str = self.said["url"]
        return url

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def lines(self) -> list[dict[str, Any]]:
        """Return what is in its log."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]


@contextlib.contextmanager
def child(folder: Path, *flags: str, **environment: str) -> Iterator[Child]:
    """Run `simonides serve` at a free port, in the machine that the fixture `home` made; killed in the end."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "simonides", "serve", "--json", "--port", "0", *flags]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = ""
            while not said.endswith("}\n") and (line := process.stdout.readline()):
                said += line
            assert said, f"it did not begin: {log.read_text()}"
            yield Child(process, json.loads(said), log)
        finally:
            if process.poll() is None:
                process.kill()
