"""Who waits for the log to grow, where a store can only look for what others write."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from conftest import open_store

from simonides import AsyncMemory, Invalid
from simonides.api.watch import Watch
from simonides.growth import Growth
from simonides.testing.records import said
from simonides.testing.stores.steps import put

LONG_S = 60.0  # nobody here waits for so long


async def test_what_another_handle_writes_to_a_file_is_soon_seen(tmp_path: Path) -> None:
    reader, writer = (open_store(f"sqlite:///{tmp_path}/m.db") for _ in range(2))
    try:
        waiting = asyncio.create_task(reader.grown(0, LONG_S))
        await asyncio.sleep(0.3)
        await put(writer, said("first"))
        assert await asyncio.wait_for(waiting, LONG_S / 2) == 1
    finally:
        await reader.close()
        await writer.close()


async def test_looks_become_rarer_and_rarer_up_to_a_bound() -> None:
    looks = list[float]()

    async def head() -> int:
        looks.append(time.monotonic())
        return 0

    assert await Growth((0.01, 0.08)).beyond(head, 0, 0.4) == 0
    assert len(looks) <= 9  # at once, after 0.01, 0.02, 0.04 and 0.08 seconds, and then every 0.08
    assert looks[-1] - looks[0] >= 0.39


async def test_who_waits_in_another_thread_is_told() -> None:
    growth, log, there = Growth((LONG_S, LONG_S)), [0], threading.Event()

    async def head() -> int:
        there.set()
        return log[0]

    waiting = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(growth.beyond(head, 0, LONG_S))))
    await asyncio.to_thread(there.wait)
    log[0] = 7
    growth.stir()
    assert await asyncio.wait_for(waiting, LONG_S / 2) == 7


async def test_what_is_written_while_somebody_looks_is_not_missed() -> None:
    growth, log = Growth((LONG_S, LONG_S)), [0]

    async def head() -> int:
        found = log[0]
        if not found:
            log[0] = 7
            growth.stir()
            await asyncio.sleep(0)
        return found

    assert await asyncio.wait_for(growth.beyond(head, 0, LONG_S), LONG_S / 2) == 7


async def test_closing_ends_every_wait_at_once() -> None:
    growth = Growth((LONG_S, LONG_S))

    async def head() -> int:
        return 0

    waiting = asyncio.create_task(growth.beyond(head, 0, LONG_S))
    await asyncio.sleep(0.01)
    growth.close()
    with pytest.raises(Invalid):
        await asyncio.wait_for(waiting, LONG_S / 2)


async def test_all_who_watch_a_log_are_told_and_it_is_looked_at_no_longer_than_one_does(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        watch = Watch()
        first = [watch.moves(memory, 0) for _ in range(3)]
        told = [asyncio.create_task(anext(each)) for each in first]
        await asyncio.sleep(0.2)
        await memory.remember("I moved to Lisbon")
        places = await asyncio.wait_for(asyncio.gather(*told), LONG_S / 2)
        assert set(places) == {(await memory.position()).written}
        for each in first:
            await each.aclose()
        looking = watch._looking
        assert looking is not None
        await asyncio.wait_for(looking, LONG_S / 2)
