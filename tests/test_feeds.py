"""Feeds on real brokers: the suite of all feeds, and what workers do when the broker or one of them fails."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from engines import Kafka, Machine, Server, Valkey

from simonides.config import open_backend
from simonides.errors import Damaged, Invalid
from simonides.feed import FeedSource, Parcel, mark_of, parcels
from simonides.follow import SHARDS, followed
from simonides.record import now
from simonides.store import Change, Store
from simonides.stores.memory import MemoryStore
from simonides.testing.follow import (
    FOLLOWER,
    SCOPES,
    FeedSuite,
    MakeSource,
    Work,
    each_once_in_order,
    followed_all,
    until,
    write,
)

QUIET_S = 2.0


def source(url: str, store: Store) -> FeedSource:
    made: FeedSource = open_backend("feeds", url, store, FOLLOWER)
    made._quiet_s = QUIET_S
    return made


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = MemoryStore()
    yield made
    await made.close()


class TestRedis(FeedSuite):
    @pytest.fixture
    def make_source(self, valkey: Valkey) -> MakeSource:
        return lambda store: source(f"{valkey.url}?ttl=2", store)


class TestKafka(FeedSuite):
    @pytest.fixture
    def make_source(self, kafka: Kafka) -> MakeSource:
        return lambda store: source(kafka.url, store)


# -- several workers, and faults -----------------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from simonides.config import open_backend
from simonides.testing.follow import FOLLOWER, Work

class Loud(Work):
    def noted(self, portion):
        super().noted(portion)
        for change in portion.changes:
            print(change.seq, flush=True)

async def main(path, url):
    store = open_backend("stores", path)
    work = Loud(store, open_backend("feeds", url, store, FOLLOWER))
    await work.begin()
    while True:
        await asyncio.sleep(0.1)
        print("held", len(work.source.held), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Child:
    """A worker in a process of its own."""

    def __init__(self, path: str, url: str) -> None:
        command = [sys.executable, "-c", WORKER, path, url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.held, self.found = 0, list[int]()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("held"):
                self.held = int(line.split()[1])
            elif line.endswith("\n"):
                self.found.append(int(line))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def children(path: str, url: str, count: int) -> Iterator[list[Child]]:
    made = [Child(path, url) for _ in range(count)]
    try:
        yield made
    finally:
        for child in made:
            if child.process.poll() is None:
                child.kill()


async def shared_and_killed(path: str, url: str) -> None:
    """Two workers share the work; one is killed while there is some; the other does all that is left."""
    store: Store = open_backend("stores", path)

    async def all_of_it() -> bool:
        return await followed(FOLLOWER, store) == await store.head()

    with children(path, url, 2) as (one, other):
        await until(lambda: so(one.held + other.held == SHARDS and min(one.held, other.held) > 0), 60)
        await write(store, 400)
        await until(all_of_it)
        assert one.found and other.found, "both did some"
        await write(store, 200)
        one.kill()
        await write(store, 200)
        await until(all_of_it, 60)
        assert other.held == SHARDS
    found = one.found + other.found
    assert len(found) == len(set(found)), "what is committed is not followed again"
    await store.close()


async def so(what: bool) -> bool:
    return what


async def test_redis_a_killed_workers_work_goes_to_the_others(valkey: Valkey, tmp_path: Path) -> None:
    await shared_and_killed(f"sqlite:///{tmp_path}/m.db", f"{valkey.url}?ttl=2")


async def test_kafka_a_killed_workers_work_goes_to_the_others(kafka: Kafka, tmp_path: Path) -> None:
    await shared_and_killed(f"sqlite:///{tmp_path}/m.db", kafka.url)


async def test_redis_gone_and_back_and_emptied(engines: Machine, store: Store) -> None:
    server = engines.valkey()
    work = Work(store, source(f"{server.url}?ttl=2", store))
    await gone_and_back(server, store, work)
    redis.Redis.from_url(server.url).flushall()
    await write(store, 100)
    await followed_all(store, work)
    await until(lambda: delivered(store, work))
    await work.end()
    assert each_once_in_order(work)
    server.stop()


async def gone_and_back(server: Server, store: Store, work: Work) -> None:
    """Work begins; then the broker is gone, and what is written is read off the store; then the broker is back."""
    await work.begin()
    for happens in (lambda: None, server.kill, server.start):
        happens()
        await write(store, 100)
        await followed_all(store, work)


async def delivered(store: Store, work: Work) -> bool:
    """Whether the broker brings what is written now, rather than the store."""
    before = len(work.found)
    begun = time.monotonic()
    await write(store, 10)
    await followed_all(store, work)
    return len(work.found) == before + 10 and time.monotonic() - begun < QUIET_S / 2


async def test_a_kafka_that_forgets_everything_misses_nothing(engines: Machine, store: Store) -> None:
    server = engines.kafka()
    work = Work(store, source(server.url, store))
    await gone_and_back(server, store, work)
    await until(lambda: delivered(store, work), 60)
    await work.end()
    assert each_once_in_order(work)
    server.stop()


async def test_a_broker_that_is_not_there_yet_is_waited_for(engines: Machine, store: Store) -> None:
    server = engines.valkey()
    server.kill()
    work = Work(store, source(f"{server.url}?ttl=2", store))
    await work.begin()
    await write(store, 10)
    assert not work.source.held
    server.start()
    await followed_all(store, work)
    await work.end()
    server.stop()


async def test_a_store_that_was_put_back_is_followed_on(valkey: Valkey, store: Store) -> None:
    """What the broker knows of a future that is gone hides nothing of what happens instead."""
    first = source(f"{valkey.url}?ttl=2", store)
    await write(store, 200)
    assert first._relay and await first._relay.step()
    await first.close()
    older = MemoryStore()
    older.identity = store.identity
    second = Work(older, source(f"{valkey.url}?ttl=2", older))
    await second.begin()
    await write(older, 50)
    await followed_all(older, second)
    await write(older, 250)  # and where as much has happened again
    await followed_all(older, second)
    await second.end()
    assert each_once_in_order(second)
    assert {change.id for change in second.found} == {change.id for change in await older.changes(limit=1000)}


def test_a_parcel_is_read_back_as_it_was() -> None:
    change = Change(7, now(), "one/é", 2, "note", SCOPES[3])
    [parcel] = parcels([change], 3, 1)
    assert Parcel.unpacked(parcel.packed()) == parcel == Parcel(0, 1, 3, 7, mark_of(change), (change,))
    for other in (b"", b"{}", b"[]", b'{"partition": 1}', b"\xff", parcel.packed().replace(b'"seq"', b'"sq"')):
        with pytest.raises(Damaged):
            Parcel.unpacked(other)


@pytest.mark.parametrize(
    "url",
    ["redis://one,two/0", "redis://host/0?partitions=0", "kafka://host/t?mode=binary", "kafka://a:b@host/t", "mail:"],
)
def test_what_cannot_be_a_feed_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        open_backend("feeds", url, MemoryStore(), FOLLOWER)
