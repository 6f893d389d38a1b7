"""Workers share what follows the log: everything is followed once, whoever dies, joins or leaves meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import open_store
from numpy.typing import NDArray

from simonides import Unavailable
from simonides.derivers.vectors import Vectors
from simonides.embedders import hashing
from simonides.errors import Conflict
from simonides.follow import (
    SHARDS,
    Follower,
    Patience,
    Step,
    attempt,
    followed,
    place_name,
    reached,
    replay,
    settle,
    shard,
    step,
)
from simonides.leases import Leases, holders, lease, member
from simonides.record import Record, Scope
from simonides.store import Batch, Change, Cursor, Store
from simonides.testing.records import ANA, every, said
from simonides.worker import StoreSource, Worker

QUICK = Patience(tries=3, first_s=0.001, most_s=0.01)
USERS = [f"user {n}" for n in range(40)]


def records(count: int, text: str = "the ferry number") -> tuple[Record, ...]:
    return tuple(
        said(f"{text} {n}", Scope(tenant="acme", user=user))
        for n, user in zip(range(count), itertools.cycle(USERS), strict=False)
    )


class Picky(hashing.HashingEmbedder):
    """Cannot embed what is poison, counts what it was asked for, and answers only while it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.poison, self.asked = True, "poison", 0

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        self.asked += len(texts)
        if not self.there:
            raise Unavailable("the embedder is away")
        if self.poison and any(self.poison in text for text in texts):
            raise ValueError(f"cannot embed {texts}")
        return await super().embed(texts, query=query)


@pytest.fixture
def embedder() -> Picky:
    return Picky()


@pytest.fixture
def vectors(embedder: Picky) -> Vectors:
    return Vectors(embedder)


class Crew:
    """Workers in this process, each with an embedder of its own."""

    def __init__(self, store: Store) -> None:
        self.store, self.tasks = store, dict[Worker, asyncio.Task[None]]()

    def join(self, follower: Follower | None = None, taken_over_s: float = 1.0, at_once: int = 1) -> Worker:
        made = Worker(
            self.store,
            [follower or Vectors(Picky())],
            lambda each: StoreSource(self.store, each.name, taken_over_s=taken_over_s, at_once=at_once),
            at_once=at_once,
            patience=QUICK,
        )
        self.tasks[made] = asyncio.create_task(made.run(5.0))
        return made

    async def leave(self, worker: Worker) -> None:
        worker.stop()
        await self.tasks.pop(worker)

    def die(self, worker: Worker) -> None:
        """End without a word, as after kill -9: nothing is given back."""
        for source in worker._sources.values():
            source.close = asyncio.sleep.__get__(0)  # type: ignore[attr-defined]
            source._beating.cancel()  # type: ignore[attr-defined]
        self.tasks.pop(worker).cancel()


@pytest.fixture
async def crew(store: Store) -> AsyncIterator[Crew]:
    made = Crew(store)
    yield made
    for worker in list(made.tasks):
        await made.leave(worker)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def caught_up(store: Store, follower: Follower) -> bool:
    return await followed(follower.name, store) >= await store.head()


async def embedded(store: Store, vectors: Vectors) -> list[str]:
    """Return the ids of what has vectors, once for each vector."""
    found = list[str]()
    for scope in await store.realms():
        extent = await store.extent(scope, vectors.model)
        owners = await store.owners(every(scope), vectors.model, range(extent.slots))
        found += [id for _, id, _ in owners]
    return sorted(found)


# -- shards and places -------------------------------------------------------------------------------------------


def test_a_shard_is_the_same_in_every_process_and_every_release() -> None:
    scopes = [ANA, Scope(tenant="acme"), Scope(tenant="acme", user="ana", session="s"), Scope(tenant="ä", space="b")]
    assert [shard(scope) for scope in scopes] == FOREVER
    assert {shard(Scope(tenant="acme", user=str(n))) for n in range(1000)} == set(range(SHARDS))


FOREVER = [14, 46, 27, 58]


async def test_one_who_follows_alone_sees_what_workers_did_as_done(store: Store, crew: Crew, embedder: Picky) -> None:
    await store.commit(Batch(put=records(50)))
    alone = Vectors(embedder)
    worker = crew.join()
    await until(lambda: caught_up(store, alone))
    await crew.leave(worker)
    assert await store.cursor(alone.name) == await store.head()
    await settle([alone], store)
    assert embedder.asked == 0


async def test_workers_go_on_where_one_who_followed_alone_stopped(store: Store, crew: Crew, vectors: Vectors) -> None:
    await store.commit(Batch(put=records(50)))
    await settle([vectors], store)
    await store.commit(Batch(put=records(30, "another")))
    picky = Picky()
    crew.join(Vectors(picky))
    await until(lambda: caught_up(store, vectors))
    assert picky.asked == 30
    assert len(await embedded(store, vectors)) == 80


async def test_both_kinds_at_once_lose_nothing_and_embed_nothing_twice(store: Store, crew: Crew, vectors: Vectors) -> None:
    crew.join(), crew.join()
    for n in range(12):
        await store.commit(Batch(put=records(17, f"round {n}")))
        if n % 3 == 0:
            await settle([vectors], store)
        await asyncio.sleep(0.02)
    await until(lambda: caught_up(store, vectors))
    await settle([vectors], store)
    everything = sorted(record.id for record in await store.find(every(Scope(tenant="acme"), shared=False)))
    assert len(everything) == 12 * 17
    assert await embedded(store, vectors) == everything
