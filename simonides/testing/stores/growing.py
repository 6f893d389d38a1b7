"""Who waits for the log to grow is told, once there is something, and not before."""

from __future__ import annotations

import asyncio
import time

import pytest

from ...errors import Invalid
from ...store import Batch, Cursor, Store
from ..records import said
from .steps import MakeStore, embedded, put

LONG_S = 60.0  # nobody here waits for so long


async def _soon(waiting: asyncio.Task[int]) -> int:
    return await asyncio.wait_for(waiting, LONG_S / 2)


async def _begun(store: Store, after: int) -> asyncio.Task[int]:
    """Return one who waits for more than so many lines, and has looked already."""
    waiting = asyncio.create_task(store.grown(after, LONG_S))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    return waiting


class Growing:
    async def test_who_waits_is_told_when_the_log_has_grown(self, store: Store) -> None:
        waiting = [await _begun(store, 0) for _ in range(3)]
        await put(store, said("first"))
        assert [await _soon(each) for each in waiting] == [1, 1, 1]

    async def test_who_is_behind_does_not_wait(self, store: Store) -> None:
        await put(store, said("first"), said("second"))
        assert await asyncio.wait_for(store.grown(1, LONG_S), LONG_S / 2) == 2
        assert await store.grown(0, 0) == 2

    async def test_where_nothing_is_written_the_wait_has_an_end(self, store: Store) -> None:
        await put(store, said("first"))
        for wait_s in (0.0, 0.05):
            begun = time.monotonic()
            assert await store.grown(1, wait_s) == 1
            assert time.monotonic() - begun >= wait_s

    async def test_nobody_is_told_of_what_is_no_line_of_the_log(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        waiting = await _begun(store, 1)
        await put(store, record)
        await store.commit(Batch(embeddings=(embedded(record),)), cursor=Cursor("reader", 0, 1))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await put(store, said("second"))
        assert await _soon(waiting) == 2

    async def test_who_no_longer_waits_is_in_nobodys_way(self, store: Store) -> None:
        gone, waiting = await _begun(store, 0), await _begun(store, 0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await put(store, said("first"))
        assert await _soon(waiting) == 1

    async def test_a_snapshot_does_not_grow(self, store: Store) -> None:
        async with store.snapshot() as frozen:
            await put(store, said("first"))
            assert await frozen.grown(0, 0.05) == 0

    async def test_closing_ends_the_wait(self, make_store: MakeStore) -> None:
        store = await make_store()
        waiting = await _begun(store, 0)
        await store.close()
        with pytest.raises(Invalid):
            await _soon(waiting)
