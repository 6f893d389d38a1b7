"""What the stories of the suite are told with: the shortest ways to write, to ask, and to draw."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from ...query import Place, Query
from ...record import Record
from ...store import Batch, Change, Embedding, Store

MakeStore = Callable[[], Awaitable[Store]]

SPRING, SUMMER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)

rule = settings(  # the fixture only opens stores, so it may serve every example
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def put(store: Store, *kept: Record) -> list[Change]:
    return await store.commit(Batch(put=kept))


async def only(store: Store, query: Query) -> Record:
    [found] = await store.find(query)
    return found


async def found_texts(store: Store, query: Query) -> list[str]:
    return [record.text for record in await store.find(query)]


async def by_words(store: Store, query: Query, text: str) -> list[str]:
    return [record.text for record, _ in await store.words(query, text)]


async def complaints(store: Store) -> tuple[str, ...]:
    """Return what is wrong once an erase has run its course: a store may complain of bytes not scrubbed yet."""
    await store.scrub()
    return (await store.check()).complaints


def told(store_story: Coroutine[Any, Any, None]) -> None:
    """Run an example of a rule, which has a loop and a store of its own."""
    asyncio.run(store_story)


def unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def embedded(record: Record, *vectors: NDArray[np.float32], model: str = "small", tokens: bytes = b"") -> Embedding:
    return Embedding(record.ref, record.version, model, np.stack(vectors or (unit(1, 0),)), tokens)


def floats(vector: bytes) -> list[float]:
    return [float(number) for number in np.frombuffer(vector, "<f2")]


async def in_pages(store: Store, query: Query, limit: int) -> list[Record]:
    found = list[Record]()
    page = await store.find(dataclasses.replace(query, limit=limit))
    while page and len(found) < 1000:
        found += page
        page = await store.find(dataclasses.replace(query, limit=limit, after=Place.of(page[-1])))
    return found
