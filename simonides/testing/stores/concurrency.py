"""Many callers at once: nothing is lost, nothing is doubled, and nobody sees half a batch."""

from __future__ import annotations

import asyncio
import dataclasses

from ...errors import Conflict
from ...kinds import Message
from ...query import Query
from ...store import Batch, Cursor, Store
from ..records import ANA, every, said
from .steps import embedded, put


class Concurrency:
    async def test_of_two_that_move_a_follower_at_once_one_does(self, store: Store) -> None:
        moves = [store.commit(Batch(put=(said(str(n)),)), cursor=Cursor("reader", 0, n + 1)) for n in range(8)]
        ends = await asyncio.gather(*moves, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 7
        assert len(await store.changes()) == 1

    async def test_fifty_commits_at_once_are_all_kept(self, store: Store) -> None:
        kept = [said(f"number {n}") for n in range(50)]
        await asyncio.gather(*(put(store, record) for record in kept))
        assert {record.id for record in await store.find(Query(scope=ANA))} == {record.id for record in kept}
        lines = await store.changes()
        assert len(lines) == len({line.seq for line in lines}) == 50

    async def test_of_twenty_identical_writes_at_once_one_is_a_line(self, store: Store) -> None:
        record = said("once")
        lines = await asyncio.gather(*(put(store, record) for _ in range(20)))
        assert sum(map(len, lines)) == 1
        assert await store.count(every(ANA)) == 1

    async def test_of_twenty_different_revisions_at_once_one_is_kept(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        rivals = [put(store, record.revise(body=Message(text=str(n)))) for n in range(20)]
        ends = await asyncio.gather(*rivals, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 19
        assert await store.count(every(ANA)) == 2

    async def test_a_conflict_does_not_undo_its_neighbours(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        bad = dataclasses.replace(record, body=Message(text="bad"))
        writes = [put(store, bad if n % 2 else said(f"good {n}")) for n in range(20)]
        ends = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 10
        assert await store.count(Query(scope=ANA)) == 11

    async def test_a_conflict_over_a_record_keeps_nothing_of_it_from_its_neighbours(self, store: Store) -> None:
        record = said("hello")
        await put(store, record)
        again = store.commit(Batch(put=(record,)), cursor=Cursor("nobody", 7, 8))
        vectors = store.commit(Batch(embeddings=(embedded(record),)), cursor=Cursor("reader", 0, 1))
        refused, taken = await asyncio.gather(again, vectors, return_exceptions=True)
        assert isinstance(refused, Conflict) and not isinstance(taken, BaseException)
        assert sum((await store.models()).values()) == 1 and await store.cursor("reader") == 1

    async def test_reading_and_writing_at_once_shows_whole_batches_only(self, store: Store) -> None:
        async def write(n: int) -> None:
            await put(store, said(f"left {n}"), said(f"right {n}"))

        async def read() -> int:
            return await store.count(Query(scope=ANA))

        counts = await asyncio.gather(*(step for n in range(20) for step in (write(n), read())))
        assert all(count is None or count % 2 == 0 for count in counts)
