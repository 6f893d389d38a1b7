"""Workers share what follows the log: everything is followed once, whoever dies, joins or leaves meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_in, open_store
from doors import House, house
from numpy.typing import NDArray

from simonides import AsyncMemory, NotFound, Unavailable, follow, leases, passes, worker
from simonides.cli import main
from simonides.derivers.vectors import Vectors
from simonides.embedders import hashing
from simonides.follow import EVERY, SHARDS, Follower, Patience, attempt, followed, settle, shard
from simonides.happened import status
from simonides.leases import Leases, holders, lease
from simonides.record import Record, Scope
from simonides.store import Batch, Cursor, Letter, Store
from simonides.stores import sqlite
from simonides.testing.records import ANA, every, said
from simonides.testing.stores.steps import SPRING
from simonides.worker import StoreSource, Worker

FAULTS_S = float(os.environ.get("FAULTS_SECONDS", "8"))  # for which workers are killed; `make test-faults`: 120
BETWEEN_S = (0.5, 2.5)  # from one kill to the next
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

    async def leave(self, one: Worker) -> None:
        one.stop()
        await self.tasks.pop(one)

    def die(self, one: Worker) -> None:
        """End without a word, as after kill -9: nothing is given back."""
        for source in one._sources.values():
            source.close = asyncio.sleep.__get__(0)  # type: ignore[attr-defined]
            source._beating.cancel()  # type: ignore[attr-defined]
        self.tasks.pop(one).cancel()


@pytest.fixture
async def crew(store: Store) -> AsyncIterator[Crew]:
    made = Crew(store)
    yield made
    for each in list(made.tasks):
        await made.leave(each)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
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
        found += [record.id for _, record, _ in owners]
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


async def test_both_kinds_at_once_lose_nothing_and_embed_nothing_twice(
    store: Store, crew: Crew, vectors: Vectors
) -> None:
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


# -- what cannot be followed -------------------------------------------------------------------------------------


async def test_only_the_poison_becomes_a_letter(store: Store, vectors: Vectors) -> None:
    lines = await store.commit(Batch(put=(*records(40), said("poison pill"), *records(30, "after"), said("poison"))))
    batch = await attempt(vectors, lines, store, QUICK)
    assert len(batch.embeddings) == 70
    assert [letter.change for letter in batch.letters] == [lines[40], lines[71]]
    [letter, _] = batch.letters
    assert (letter.follower, letter.tries) == (vectors.name, 3)
    assert letter.error.startswith("ValueError in embed (") and "poison" not in letter.error


async def test_what_fails_now_and_then_is_tried_again(store: Store, embedder: Picky, vectors: Vectors) -> None:
    lines = await store.commit(Batch(put=(*records(3), said("poison"))))
    patience = Patience(tries=4, first_s=0.2, most_s=0.2)
    asyncio.get_running_loop().call_later(0.01, setattr, embedder, "poison", "")
    batch = await attempt(vectors, lines, store, patience)
    assert (len(batch.embeddings), batch.letters) == (4, ())


async def test_where_the_embedder_is_away_nothing_becomes_a_letter(
    store: Store, embedder: Picky, vectors: Vectors
) -> None:
    lines = await store.commit(Batch(put=records(3)))
    embedder.there = False
    with pytest.raises(Unavailable, match="away"):
        await attempt(vectors, lines, store, QUICK)
    assert embedder.asked == 3


async def test_where_everything_fails_it_is_not_the_changes(store: Store, vectors: Vectors) -> None:
    lines = await store.commit(Batch(put=records(EVERY, "poison")))
    with pytest.raises(Unavailable, match="fails with every change: ValueError"):
        await attempt(vectors, lines, store, QUICK)
    assert len((await attempt(vectors, lines[1:], store, QUICK)).letters) == EVERY - 1


def test_pauses_grow_at_random_and_are_bounded() -> None:
    patience = Patience(first_s=1, most_s=10)
    for tried, most in ((1, 1), (2, 2), (4, 8), (5, 10), (5000, 10)):
        pauses = [patience.pause(tried) for _ in range(200)]
        assert 0 <= min(pauses) < most * 0.2 and most * 0.8 < max(pauses) <= most


async def test_a_memory_goes_on_behind_a_record_that_cannot_be_embedded(embedder: Picky) -> None:
    async with AsyncMemory("memory:", embedder=embedder) as memory:
        await memory.remember("poison", user="ana")
        for text in ("the ferry leaves at nine", "a bridge"):
            await memory.remember(text, user="ana")
        assert memory.behind is None
        assert (await memory.stats())["vectors"] == 2
        [letter] = await memory.letters()
        assert letter.change.seq == 1
        assert await memory.replay_letters() == 1  # it fails again
        assert [each.tries for each in await memory.letters()] == [3]
        embedder.poison = ""
        assert await memory.replay_letters([1], follower=letter.follower) == 1
        assert (await memory.letters(), (await memory.stats())["vectors"]) == ([], 3)
        with pytest.raises(NotFound, match="line 1"):
            await memory.replay_letters([1])


async def test_what_was_to_be_tried_again_is_when_the_memory_is_opened_next(tmp_path: Path, embedder: Picky) -> None:
    async with AsyncMemory(tmp_path / "m.db", embedder=embedder) as memory:
        await memory.remember("poison", user="ana")
        embedder.there = False
        with pytest.raises(Unavailable):
            await memory.replay_letters()
    embedder.there, embedder.poison = True, ""
    async with AsyncMemory(tmp_path / "m.db", embedder=embedder) as memory:
        await memory.settle()

        async def answered() -> bool:
            return not await memory.letters()

        await until(answered)
        assert (await memory.stats())["vectors"] == 1


async def test_a_letter_that_is_dropped_is_not_tried_again(embedder: Picky) -> None:
    async with AsyncMemory("memory:", embedder=embedder) as memory:
        await memory.remember(["poison one", "poison two"], user="ana")
        assert await memory.drop_letters([1]) == 1
        assert [letter.change.seq for letter in await memory.letters()] == [2]
        await memory.forget(user="ana")
        assert await memory.letters() == []


async def test_all_letters_are_dropped_where_a_page_ends_between_two_about_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncMemory("memory:", embedder="none") as memory:
        await memory.remember(["one", "two", "three"], user="ana")
        store = await memory._ready()
        lines = await store.changes()
        told = tuple(Letter(name, line, 5, SPRING, "ValueError") for line in lines for name in ("a", "b"))
        await store.commit(Batch(letters=told))
        monkeypatch.setattr(follow, "STEP", 3)
        assert await memory.drop_letters() == 6
        assert await memory.letters() == []


async def test_workers_put_poison_aside_and_try_it_again_when_asked(
    store: Store, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REPLAY_S", 0.05)
    picky = [Picky(), Picky()]
    one, two = [crew.join(Vectors(each)) for each in picky]
    await store.commit(Batch(put=(*records(60), *records(4, "poison"))))
    vectors = Vectors(Picky())
    await until(lambda: caught_up(store, vectors))
    letters = await store.letters()
    assert sorted(letter.change.seq for letter in letters) == [61, 62, 63, 64]

    async def counted() -> bool:
        return sum(made.letters for each in (one, two) for made in each.figures.values()) == 4

    await until(counted)
    for each in picky:
        each.poison = ""
    await store.commit(Batch(letters=tuple(dataclasses.replace(letter, tries=0) for letter in letters)))

    async def answered() -> bool:
        return not await store.letters()

    await until(answered)
    assert len(await embedded(store, vectors)) == 64


async def test_a_worker_whose_embedder_is_away_waits_and_goes_on(store: Store, crew: Crew) -> None:
    picky = Picky()
    picky.there = False
    made = crew.join(Vectors(picky))
    await store.commit(Batch(put=records(20)))
    vectors = Vectors(Picky())

    async def waits() -> bool:
        return made.figures[vectors.name].retries > 2

    await until(waits)
    assert made.figures[vectors.name].behind == "the embedder is away"
    picky.there = True
    await until(lambda: caught_up(store, vectors))
    assert await store.letters() == [] and len(await embedded(store, vectors)) == 20


# -- leases ------------------------------------------------------------------------------------------------------


class Clock:
    """A monotonic clock of one worker; it stands wherever it likes."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def party(store: Store, *clocks: Clock) -> list[Leases]:
    return [Leases(store, "reader", taken_over_s=10, clock=clock) for clock in clocks]


async def rounds(count: int, leases: Sequence[Leases], *clocks: Clock) -> None:
    for _ in range(count):
        for clock in clocks:
            clock.at += 1
        for each in leases:
            await each.beat()


def disjoint(leases: Sequence[Leases]) -> list[int]:
    """Return how many each holds; together they hold every shard once."""
    held = [shard for each in leases for shard in each.held]
    assert sorted(held) == list(range(SHARDS))
    return [len(each.held) for each in leases]


async def test_workers_that_come_and_go_share_fairly(store: Store) -> None:
    clocks = Clock(5), Clock(90_000), Clock(-7)  # no two need agree
    one, two, three = party(store, *clocks)
    await one.beat()
    assert disjoint([one]) == [64]
    await rounds(2, [one, two], *clocks)
    assert disjoint([one, two]) == [32, 32]
    await rounds(3, [one, two, three], *clocks)
    assert sorted(disjoint([one, two, three])) == [21, 21, 22]
    await two.leave()
    await rounds(2, [one, three], *clocks)
    assert disjoint([one, three]) == [32, 32]
    await one.leave()
    await three.leave()
    assert await store.cursors("") == {}


async def test_one_that_dies_is_missed_after_a_while_and_not_before(store: Store) -> None:
    clocks = Clock(0), Clock(50)
    one, two = party(store, *clocks)
    await rounds(3, [one, two], *clocks)
    await rounds(9, [two], *clocks)
    assert len(two.held) == 32
    await rounds(2, [two], *clocks)
    assert len(two.held) == 64
    await one.beat()  # it was only slow: it sees that it lost them, and gets its share again
    assert len(one.held) == 0
    await rounds(3, [one, two], *clocks)
    assert disjoint([one, two]) == [32, 32]


async def test_who_did_not_look_cannot_say_that_a_lease_stood_still(store: Store) -> None:
    clocks = Clock(0), Clock(0)
    one, two = party(store, *clocks)
    await rounds(3, [one, two], *clocks)
    for clock in clocks:
        clock.at += 3600  # the store was away for all
    await two.beat()
    await one.beat()
    assert disjoint([one, two]) == [32, 32]


async def test_a_busy_shard_is_given_back_once_it_is_done(store: Store) -> None:
    clocks = Clock(0), Clock(0)
    one, two = party(store, *clocks)
    await one.beat()
    one.busy |= set(range(SHARDS))
    await rounds(2, [two, one], *clocks)
    assert (len(one.held), len(one.leaving), len(two.held)) == (64, 32, 0)
    await one.release(range(SHARDS))
    await two.beat()
    assert disjoint([one, two]) == [32, 32]


async def test_followers_do_not_share_their_leases(store: Store) -> None:
    one, two = Leases(store, "reader"), Leases(store, "reader/1")
    await one.beat()
    await two.beat()
    assert len(one.held) == len(two.held) == 64
    held = holders("reader", await store.cursors(lease("reader")))
    assert held == dict.fromkeys(range(SHARDS), one.worker)


def test_no_wall_clock_is_read_for_the_sharing() -> None:
    source = Path(leases.__file__).read_text("utf-8")
    assert not re.search(r"datetime|\bnow\(|time\.time|record import", source)
    assert "time.monotonic" in source


# -- many workers ------------------------------------------------------------------------------------------------


async def test_workers_die_join_and_leave_and_nothing_is_lost_or_twice(store: Store, crew: Crew) -> None:
    vectors, rng = Vectors(Picky()), random.Random(7)
    for _ in range(3):
        crew.join(at_once=2)
    for n in range(25):
        await store.commit(Batch(put=records(rng.randint(1, 40), f"round {n}")))
        await asyncio.sleep(rng.random() * 0.1)
        if n % 4 == 3:
            victim = rng.choice(list(crew.tasks))
            crew.die(victim) if n % 8 == 3 else await crew.leave(victim)
            crew.join(at_once=rng.choice((1, 3)))
    await until(lambda: caught_up(store, vectors))
    everything = sorted(record.id for record in await store.find(every(Scope(tenant="acme"), shared=False)))
    assert await embedded(store, vectors) == everything
    assert await store.letters() == []


async def test_two_workers_halve_the_work(store: Store, crew: Crew) -> None:
    vectors = Vectors(Picky())
    both = [crew.join(), crew.join()]

    async def shared() -> bool:
        found = list(holders(vectors.name, await store.cursors(lease(vectors.name))).values())
        return sorted(map(found.count, set(found))) == [32, 32]

    await until(shared)
    made = tuple(said(f"the ferry {n}", Scope(tenant="acme", user=f"user {n % 500}")) for n in range(1000))
    await store.commit(Batch(put=made))
    await until(lambda: caught_up(store, vectors), 20)

    async def counted() -> bool:
        return sum(each.figures[vectors.name].followed for each in both) == 1000

    await until(counted)
    assert max(each.figures[vectors.name].followed for each in both) <= 1000 / 1.6


async def test_status_says_who_works_and_how_far_it_is(store: Store, crew: Crew, embedder: Picky) -> None:
    embedder.there = False
    await store.commit(Batch(put=records(5)))
    made = [crew.join(Vectors(embedder)), crew.join(Vectors(embedder))]
    ids = {str(each._sources[Vectors(embedder).name].worker) for each in made}

    async def shared() -> bool:
        [found] = (await status(store, [Vectors(embedder)])).followers
        return dict(found.workers) == dict.fromkeys(ids, 32) and found.lag == 5 and found.shared

    await until(shared, 20)


# -- servers that leave it to workers ----------------------------------------------------------------------------


@pytest.fixture
async def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("SIMONIDES_WORK", "elsewhere")
    monkeypatch.setattr(passes, "STILL_S", 0.3)
    async with house(tmp_path / "m.db") as opened:
        await opened.memory.open()
        yield opened


async def test_a_server_leaves_it_to_workers_and_asks_how_far_they_are(elsewhere: House) -> None:
    memory = elsewhere.memory
    async with elsewhere.client() as client:
        kept = await client.post("/api/v1/memories", json={"content": "the ferry", "user": "ana"})
        assert (kept.status_code, kept.json()["indexed"], kept.json()["task"]) == (202, False, "log-1")
        assert (await client.get("/api/v1/tasks/log-1")).json()["status"] == "running"
        assert [(await client.get(f"/api/v1/tasks/log-{never}")).status_code for never in (0, 2)] == [404, 404]
        assert "worker" in str(memory.behind)
        store = await memory._ready()
        crew = Crew(store)
        crew.join(Vectors(hashing.open("hashing:")))
        again = await client.post("/api/v1/memories", json={"content": "a bridge", "user": "ana"})
        assert (again.status_code, again.json()["indexed"]) == (201, True)
        assert (await client.get("/api/v1/tasks/log-1")).json()["status"] == "done"
        assert memory.behind is None
        assert (await client.get("/api/v1/position")).json() == {"written": 2, "indexed": 2}
        assert (await memory.stats())["vectors"] == 2
        for each in list(crew.tasks):
            await crew.leave(each)


async def test_a_full_queue_refuses_writes_or_does_not_wait_and_lets_erases_through(elsewhere: House) -> None:
    desk = elsewhere.desk
    write = {"url": "/api/v1/memories", "json": {"content": "a note", "user": "ana"}, "params": {"wait": "stored"}}
    async with elsewhere.client() as client:
        for _ in range(4):
            assert (await client.post(**write)).status_code == 202
        desk.serving = dataclasses.replace(desk.serving, queue_max=3)
        await asyncio.sleep(0.25)
        refused = await client.post(**write)
        assert (refused.status_code, refused.json()["code"]) == (429, "limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        lines = b'{"content": "x"}\n'
        sent = await client.post("/api/v1/import", content=lines, headers={"content-type": "application/x-ndjson"})
        assert sent.status_code == 429
        assert (await client.post("/api/v1/recall", json={"text": "note"})).status_code == 200
        said = (await client.get("/api/v1/status")).json()
        assert (said["waiting"], said["queue_max"], said["when_full"]) == (4, 3, "refuse")
        desk.serving = dataclasses.replace(desk.serving, when_full="accept")
        begun = asyncio.get_running_loop().time()
        kept = await client.post("/api/v1/memories", json={"content": "a note", "user": "bo"})
        assert (kept.status_code, kept.json()["task"]) == (202, "log-5")
        assert asyncio.get_running_loop().time() - begun < 0.3
        desk.serving = dataclasses.replace(desk.serving, when_full="refuse")
        assert (await client.post("/api/v1/memories/forget", json={"user": "ana"})).status_code == 200


async def test_the_backlog_is_looked_at_a_few_times_a_second_at_most(store: Store) -> None:
    asked = 0

    class Counting:
        async def head(self) -> int:
            nonlocal asked
            asked += 1
            return 100

        async def cursors(self, prefix: str) -> dict[str, int]:
            return {prefix: 40}

    found: Any = Counting()
    backlog = passes.Backlog(found, [Vectors(Picky())])
    assert set(await asyncio.gather(*(backlog.count() for _ in range(500)))) == {60}
    assert asked == 1
    assert backlog.clears_s(10) == 15.0


# -- processes ---------------------------------------------------------------------------------------------------


class Process:
    """`simonides worker` over a store; `clock_h` is how many hours its wall clock is wrong."""

    def __init__(self, url: str, *more: str, clock_h: float = 0) -> None:
        main = "from simonides.cli import main; main()"
        code = f"{WRONG_CLOCK.format(seconds=clock_h * 3600)}; {main}" if clock_h else main
        flags = ("--store", url, "--embedder", "hashing:", "--lease-seconds", "1", *more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "worker", *flags], stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        self._ready = False

    def ready(self) -> None:
        assert self.process.stderr is not None
        while not self._ready:
            line = self.process.stderr.readline()
            assert line, "it ended before it was ready"
            self._ready = "ready" in line

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, said
        return said


WRONG_CLOCK = (
    "import time, datetime, simonides.record as r; real, at = time.time, r.now;"
    " time.time = lambda: real() + {seconds}; r.now = lambda: at() + datetime.timedelta(seconds={seconds})"
)


@pytest.mark.parametrize("kind", ["sqlite:///<tmp>/m.db", "postgresql://<schema>"])
async def test_processes_killed_at_random_lose_nothing_and_a_wrong_clock_does_no_harm(
    kind: str, request: pytest.FixtureRequest, home: Path
) -> None:
    url, rng, vectors = filled_in(kind, request), random.Random(3), Vectors(hashing.open("hashing:"))
    store = open_store(url)
    await store.commit(Batch(put=records(10, "before")))
    crew, killed = [Process(url), Process(url, clock_h=1), Process(url, clock_h=-1)], 0
    try:
        for each in crew:
            await asyncio.to_thread(each.ready)
        end = time.monotonic() + FAULTS_S
        doomed = time.monotonic() + 1
        for n in itertools.count():
            await store.commit(Batch(put=records(rng.randint(1, 60), f"round {n}")))
            await asyncio.sleep(0.1)
            if time.monotonic() > end and killed >= 3:
                break
            if time.monotonic() > doomed:
                victim = rng.randrange(len(crew))
                crew[victim].kill()
                crew[victim], killed = Process(url, clock_h=rng.choice((0, 1, -1))), killed + 1
                doomed = time.monotonic() + rng.uniform(*BETWEEN_S)
        await until(lambda: caught_up(store, vectors), 60)
        everything = sorted(record.id for record in await store.find(every(Scope(tenant="acme"), shared=False)))
        assert await embedded(store, vectors) == everything
        assert (await store.check()).complaints == ()
        for each in crew:
            await asyncio.to_thread(each.ready)
            assert "stopped" in each.stop()
        assert await store.cursors("lease/") == {}
        print(f"{kind.partition(':')[0]}: {killed} workers killed in {FAULTS_S:g} s, {len(everything)} records written")
    finally:
        for each in crew:
            each.process.kill()
            each.process.communicate()
        await store.close()


async def test_a_worker_answers_probes_and_says_how_it_does(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = sqlite.open(f"sqlite:///{home / 'm.db'}")
    await store.commit(Batch(put=records(5)))
    made = Process(str(home / "m.db"), "--port", str(port))
    try:
        await asyncio.to_thread(made.ready)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            vectors = Vectors(hashing.open("hashing:"))
            await until(lambda: caught_up(store, vectors))
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health/ready")).text == "ready"
            said = (await client.get("/metrics")).text
        for row in ('lag_changes{follower="%s"} 0.0', 'followed_total{follower="%s"} 5.0'):
            assert f"simonides_follower_{row % vectors.name}" in said
        assert f'simonides_leases_held{{follower="{vectors.name}"}} 64.0' in said
        made.stop()
    finally:
        made.process.kill()
        made.process.communicate()
        await store.close()


def test_letters_and_status_at_the_command_line(home: Path) -> None:
    async def written() -> None:
        store = sqlite.open(f"sqlite:///{home / 'm.db'}")
        [line] = await store.commit(Batch(put=(said("poison"),)))
        letter = Letter("reader", line, 5, SPRING, "ValueError in embed (x.py:1)")
        await store.commit(Batch(letters=(letter,)), cursor=Cursor("reader", 0, 1))
        await store.close()

    def run(*asked: str) -> Any:
        found = CliRunner().invoke(main, [*asked, "--store", str(home / "m.db"), "--json"])
        return found.exit_code, json.loads(found.stdout) if found.stdout else None

    asyncio.run(written())
    assert run("letters")[1][0]["error"] == "ValueError in embed (x.py:1)"
    assert run("letters", "show", "1")[1][0]["follower"] == "reader"
    assert run("letters", "show", "2")[0] == 3
    assert run("letters", "replay", "--all") == (0, {"count": 1})
    assert run("letters", "list")[1][0]["tries"] == 0
    status, found = run("status")
    assert (status, found["head"], found["followers"][0]["letters"]) == (0, 1, 1)
    assert run("letters", "drop", "1") == (0, {"count": 1})
    assert run("letters") == (1, [])
    assert run("letters", "drop")[0] == 2
