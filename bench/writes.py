"""Adding: one by one, by many callers at once, and by the thousand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import texts
from clock import Figure, Lap, Watch, rate, timed
from report import ONCE, Report

from simonides import AsyncMemory, Memory
from simonides.embedder import Embedder

ADDS, CALLERS, EACH, ROUNDS = 200, 64, 10, 5
BULK_WORDS_MAX = 100_000  # records that are imported without vectors
PAGE = 4096

Url = str


def flush(folder: Path, report: Report) -> None:
    """Measure what the disk alone takes to make a page durable, by the call that SQLite makes."""
    sync = getattr(os, "fdatasync", os.fsync)
    with (folder / "flush").open("wb", buffering=0) as file:

        def write(number: int) -> None:
            file.write(os.urandom(PAGE))
            sync(file.fileno())

        report.put("flush", ONCE, timed(write, ADDS))
    (folder / "flush").unlink()


def bulk(url: Url, size: int, embedder: str | Embedder, first: int = 0) -> Figure:
    """Import `size` texts by the thousand; the rare ones of each thousand are a call of their own."""
    laps = list[Lap]()
    with Memory(url, embedder=embedder) as memory:
        for number in range(first, first + size // texts.THOUSAND):
            said = texts.thousand(number)
            watch = Watch()
            memory.remember(said[: texts.RARE], user=texts.RARE_NAME, labels=[texts.RARE_NAME])
            memory.remember(said[texts.RARE :], user=texts.COMMON_NAME)
            laps.append(watch.lap())
    whole = Lap(sum(lap.wall_s for lap in laps), sum(lap.cpu_s for lap in laps))
    return rate(len(laps) * texts.THOUSAND, [whole])


def adds(url: Url, size: int, embedder: Embedder, report: Report) -> None:
    said = texts.fresh()
    report.put("add", size, _add(url, embedder, said))
    report.put("add_relaxed", size, _add(f"{url}?durability=normal", embedder, said))
    report.put("callers", size, asyncio.run(_callers(url, embedder, said)))
    report.put("add_words", size, _add(url, "none", said))
    report.put("add_words_relaxed", size, _add(f"{url}?durability=normal", "none", said))
    report.put("callers_words", size, asyncio.run(_callers(url, "none", said)))


def _add(url: Url, embedder: str | Embedder, said: Iterator[str]) -> Figure:
    with Memory(url, embedder=embedder) as memory:
        return timed(lambda _: memory.remember(next(said), user=texts.COMMON_NAME), ADDS)


async def _callers(url: Url, embedder: str | Embedder, said: Iterator[str]) -> Figure:
    """Let so many callers add their texts one after another, each waiting until its own is there."""
    async with AsyncMemory(url, embedder=embedder) as memory:

        async def call(mine: list[str]) -> None:
            for text in mine:
                await memory.remember(text, user=texts.COMMON_NAME)

        laps = list[Lap]()
        for number in range(ROUNDS + 1):
            everybody = [list(islice(said, EACH)) for _ in range(CALLERS)]
            watch = Watch()
            await asyncio.gather(*(call(mine) for mine in everybody))
            if number:  # the first round warms up
                laps.append(watch.lap())
    return rate(CALLERS * EACH, laps)
