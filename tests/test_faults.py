"""A memory on PostgreSQL when the machine, the network or the disk fails: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from engines import AS_ROOT, NOBODY, Machine, Postgres, Schemas
from faults import Network, network

from simonides import AsyncMemory
from simonides.errors import Full, SimonidesError, Unavailable

PATIENCE_S = 60.0
HARSH = {"fsync": "on", "synchronous_commit": "on"}


@pytest.fixture
def between(postgres: Postgres) -> Iterator[Network]:
    with network(postgres.port) as made:
        yield made


@pytest.fixture
def url(schemas: Schemas, postgres: Postgres, between: Network) -> str:
    """The URL of a new store at the other end of the network."""
    return schemas.url().replace(f":{postgres.port}/", f":{between.port}/")


class Writer:
    """Remembers one text after another, and knows which were acknowledged; errors of our tree it takes and goes on."""

    def __init__(self, memory: AsyncMemory) -> None:
        self.memory, self.kept, self.refused = memory, list[str](), list[SimonidesError]()
        self._numbers, self._tasks = itertools.count(), list[asyncio.Task[None]]()

    async def _go_on(self) -> None:
        while True:
            text = f"entry {next(self._numbers)} of the log"
            try:
                await self.memory.remember(text, user="marta")
                self.kept.append(text)
            except SimonidesError as error:
                self.refused.append(error)
                await asyncio.sleep(0.05)

    async def some(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.kept) + more
        async with asyncio.timeout(PATIENCE_S):
            while len(self.kept) < goal:
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> Writer:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def check(self) -> None:
        """Everything acknowledged is there, once, and found."""
        found = [record.text async for record in everything(self.memory)]
        assert len(found) == len(set(found)) and set(self.kept) <= set(found)
        assert await self.memory.doctor() == []


async def everything(memory: AsyncMemory) -> AsyncIterator:
    after = None
    while page := await memory.find(user="marta", newest=False, after=after, limit=1000):
        for record in page:
            yield record
        after = page[-1]


# -- the disk -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not AS_ROOT, reason="a small disk is mounted by root alone")
async def test_the_disk_is_full(engines: Machine, home: Path) -> None:
    server = engines.postgres(settings={**HARSH, "max_wal_size": "32MB", "wal_keep_size": "0"}, start=False)
    disk = server.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=160m,uid={NOBODY},gid={NOBODY}", "none", disk]).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        server.data = disk / "data"
        server.start()
        server.sql("CREATE ROLE simonides LOGIN")
        server.sql("CREATE DATABASE memories OWNER simonides")
        async with AsyncMemory(server.url("memories", user="simonides", partitions="1")) as memory:
            await memory.remember("what was there before", user="marta")
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(os.urandom(1 << 20))
                    file.flush()
            kept, refused = ["what was there before"], None
            for number in range(200):
                try:
                    await memory.remember(f"{number} {'a long text about the harbour ' * 2_000}", user="marta")
                except SimonidesError as error:
                    refused = error
                    break
                kept.append(f"{number} ")
            assert isinstance(refused, Full | Unavailable), refused
            filler.unlink()
            if not server.running:  # where no WAL can be written, PostgreSQL ends itself
                server.start()
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        await memory.remember("what came after", user="marta")
                        break
                    except SimonidesError:
                        await asyncio.sleep(0.2)
            found = [record.text async for record in everything(memory)]
            assert all(any(text.startswith(start) for text in found) for start in [*kept, "what came after"])
            assert await memory.doctor() == []
    finally:
        server.kill()
        subprocess.run(["umount", "-l", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)


# -- the network --------------------------------------------------------------------------------------------------


async def test_a_slow_network_slows(between: Network, url: str, home: Path) -> None:
    async with AsyncMemory(url) as memory:
        async with Writer(memory) as writer:
            await writer.some(5)
            between.delay_s = 0.05
            await writer.some(5)
        between.delay_s = 0.0
        assert not writer.refused
        await writer.check()


@pytest.mark.parametrize(("what", "times"), [(Network.cut, 10), (Network.half_close, 5)])
async def test_connections_that_are_cut_or_half_closed_are_made_anew(
    between: Network, url: str, home: Path, what: Callable[[Network], None], times: int
) -> None:
    async with AsyncMemory(url) as memory:
        async with Writer(memory) as writer:
            for _ in range(times):
                await writer.some(20)
                what(between)
        assert all(isinstance(error, Unavailable) for error in writer.refused)
        await writer.check()


async def test_a_server_that_cannot_be_reached_for_a_while(between: Network, url: str, home: Path) -> None:
    async with AsyncMemory(url) as memory:
        async with Writer(memory) as writer:
            await writer.some(20)
            between.down = True
            between.cut()
            await asyncio.sleep(2)
            between.down = False
            await writer.some(20)
        await writer.check()
