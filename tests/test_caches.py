"""Every cache passes the same suite, Redis' on a real server; and what is answered from a cache is what would be
answered without one, whatever is written, erased or revised, by whatever process, and whether it is there or gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import trustme
from common import DAY, JUNE, texts
from engines import Machine, Schemas, Valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simonides.answers
import simonides.memory
from simonides import AsyncMemory, Conflict, Invalid, Memory, NotFound, Unavailable, config
from simonides.access import Permit
from simonides.answers import packed, unpacked
from simonides.breaker import FAILURES_MAX, REST_S, Breaker, Guarded
from simonides.cache import Cache
from simonides.caches.process import ENTRY, ProcessCache
from simonides.caches.redis import RedisCache
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.embedders.hashing import HashingEmbedder
from simonides.errors import Limited, Unauthorized
from simonides.recall import Hits
from simonides.record import now
from simonides.servers import house
from simonides.servers.gate import Gate
from simonides.testing.caches import LONG, CacheSuite, until

PATIENT = "timeout_ms=20000"  # the tests' server flushes each command to the disk, and the machine may be busy
numbers = itertools.count()


def url_of(valkey: Valkey, *options: str) -> str:
    """Return the URL of a cache in which nobody has kept anything yet."""
    return f"{valkey.url}?{'&'.join((f'prefix=test-{next(numbers)}', *(options or (PATIENT,))))}"


class TestProcess(CacheSuite):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[Cache]:
        opened = ProcessCache()
        yield opened
        await opened.close()


class TestRedis(CacheSuite):
    @pytest.fixture
    async def cache(self, valkey: Valkey) -> AsyncIterator[Cache]:
        opened = config.open_cache(url_of(valkey))
        assert isinstance(opened, Guarded)
        yield opened
        await opened.close()


# -- in this process -----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


async def test_a_cache_in_the_process_keeps_within_its_bytes() -> None:
    cache = ProcessCache("process:?mb=1")
    for n in range(100):
        await cache.set("g", {f"{n}": b"x" * 50_000}, LONG)
        await cache.get("g", ["0"])  # whoever is asked for stays
        assert cache.size <= 2**20
    assert cache.count == 2**20 // (50_000 + ENTRY)
    assert [value is not None for value in await cache.get("g", ["0", "1", "98", "99"])] == [True, False, True, True]
    assert await cache.clear("g") == 20 and cache.size == cache.count == 0
    for n in range(10_000):
        await cache.set(f"{n}", {"a": b""}, LONG)
    assert cache.size <= 2**20
    await cache.close()


async def test_what_is_past_its_time_leaves_the_process_without_being_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simonides.caches.process.SWEEP_S", 0.01)
    cache = ProcessCache()
    await cache.set("g", {f"{n}": b"what was said" for n in range(10)}, 0.02)
    await cache.set("g", {"long": b"1"}, 0.1)
    assert cache.count == 11

    async def gone() -> bool:
        return cache.count == cache.size == 0

    await until(gone)
    await cache.close()


@given(
    limit=st.integers(1, 5),
    seconds=st.sampled_from([1, 60, 600]),
    waits=st.lists(st.sampled_from([0, 0.3, 0.7, 1, 7.5, 29.9, 59.9, 60, 61, 200]) | st.floats(0, 100), max_size=40),
)
async def test_in_no_window_are_more_let_through_than_allowed_and_who_waits_is_let_through(
    limit: int, seconds: int, waits: list[float]
) -> None:
    clock = Clock()
    cache, through = ProcessCache(ticks=clock), list[float]()
    part = max(1, seconds / 60)
    for wait in waits:
        clock.at += wait * seconds / 60
        looked = await cache.take("a", limit, seconds, count=0)
        assert 0 <= looked.remaining <= limit and (looked.reset == 0) == (looked.remaining == limit)
        room = await cache.take("a", limit, seconds)
        assert room.allowed == looked.allowed == (looked.remaining > 0)
        if room.allowed:
            through.append(clock.at)
        assert len([each for each in through if each > clock.at - seconds]) <= limit
        assert room.allowed or len([each for each in through if each > clock.at - seconds - 2 * part]) >= limit
    clock.at += (await cache.take("a", limit, seconds, count=0)).reset
    assert (await cache.take("a", limit, seconds)).allowed


async def test_counts_forget_whoever_was_longest_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simonides.caches.process.NAMES_MAX", 3)
    clock = Clock()
    cache = ProcessCache(ticks=clock)
    for name in "abcad":
        await cache.take(name, 5)
    assert cache.names == 3
    assert [(await cache.take(name, 5, count=0)).remaining for name in "abcd"] == [3, 5, 4, 4]
    clock.at += 100
    await cache.take("e", 5)
    assert cache.names == 1  # the others have nothing left to count


# -- in Redis ------------------------------------------------------------------------------------------------------


async def test_no_text_is_in_the_name_of_a_key(valkey: Valkey) -> None:
    url = url_of(valkey)
    cache = RedisCache(url)
    await cache.set("acme's group", {"where does Ana live?": b"1"}, LONG)
    await cache.take("key-of-ana", 5)
    await cache.lock("lock-of-ana", LONG)
    prefix = url.partition("prefix=")[2].partition("&")[0]
    with redis.Redis.from_url(valkey.url) as client:
        keys = [key.decode() for key in client.scan_iter(f"{prefix}:*")]
        assert len(keys) == 5
        assert all("ana" not in key.lower() and "acme" not in key and "live" not in key for key in keys)
        assert all(client.ttl(key) > 0 for key in keys)  # nothing stays
    await cache.close()


async def test_tokens_grow_where_redis_lost_everything(engines: Machine) -> None:
    server = engines.valkey()
    cache = RedisCache(f"{server.url}?{PATIENT}")
    with redis.Redis.from_url(server.url) as client:
        last = 0
        for _ in range(5):
            held = await cache.lock("n", LONG)
            assert held is not None and held.token > last
            last = held.token
            client.flushall()
            assert not await cache.release(held)
    await cache.close()
    server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "redis:",
        "redis://",
        "redis://host:port/0",
        "redis://host/zero",
        "redis://user:secret@host/0?timeout_ms=0",
        "redis://user:secret@host/0?timeout_ms=fast",
        "redis://user:secret@host/0?prefix=a%20b",
        "redis://user:secret@host/0?ssl_cert_reqs=none",
        "redis://user:secret@host/0?ca=/etc/made-up/ca.pem",
        "process:?mb=0",
        "process:?mb=big",
        "process:?gb=1",
        "process:///tmp",
        "cloud:",
    ],
)
def test_what_cannot_be_opened_is_said_without_the_password(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        config.open_cache(url)
    assert "secret" not in str(caught.value)


def test_off_is_no_cache() -> None:
    assert [config.open_cache(url) for url in ("none", "none:", "off")] == [None] * 3


async def test_a_cache_does_not_tell_its_password(engines: Machine) -> None:
    server = engines.valkey()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "s3cret")
    right, wrong = (
        config.open_cache(f"redis://:{word}@127.0.0.1:{server.port}/0?{PATIENT}") for word in ("s3cret", "guess!")
    )
    assert right and wrong
    await right.ping()
    with pytest.raises(Unavailable) as caught:
        await wrong.ping()
    assert "guess!" not in str(caught.value) and "s3cret" not in right.name
    for cache in (right, wrong):
        await cache.close()
    server.stop()


class Between:
    """A connection to the server that goes by way of a proxy, which passes on, swallows, or hangs up."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port, self.swallows = 0, False
        self._to, self._tls, self._tasks = port, tls, set[asyncio.Task[None]]()

    async def __aenter__(self) -> Between:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inside, out = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                await asyncio.gather(self._pump(reader, out), self._pump(inside, writer))
            finally:
                out.close()
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not self.swallows:
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_the_server_is_verified_over_tls_and_so_is_its_name(valkey: Valkey, tmp_path: Path) -> None:
    authority, contexts = trustme.CA(), dict[str, ssl.SSLContext]()
    for name in ("127.0.0.1", "elsewhere.example"):
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(contexts[name])
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        Between(valkey.port, contexts["127.0.0.1"]) as right,
        Between(valkey.port, contexts["elsewhere.example"]) as wrong,
    ):
        for port, options, works in (
            (right.port, f"&ca={tmp_path / 'ca.pem'}", True),
            (right.port, "", False),
            (wrong.port, f"&ca={tmp_path / 'ca.pem'}", False),
        ):
            cache = config.open_cache(f"rediss://127.0.0.1:{port}/0?{PATIENT}{options}")
            assert cache is not None and cache.shared
            with contextlib.nullcontext() if works else pytest.raises(Unavailable):
                await cache.ping()
            await cache.close()


# -- gone, and back ------------------------------------------------------------------------------------------------


def test_a_breaker_opens_after_some_failures_and_lets_one_try_now_and_then() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_MAX - 1):
        breaker.failed()
    assert breaker.asks() and not breaker.open
    breaker.worked()
    for _ in range(FAILURES_MAX):
        assert breaker.asks()
        breaker.failed()
    assert breaker.open and not breaker.asks()
    clock.at += REST_S
    assert [breaker.asks() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert not breaker.asks()
    clock.at += REST_S
    assert breaker.asks()
    breaker.worked()
    assert [breaker.asks() for _ in range(3)] == [True] * 3


async def test_a_connection_that_swallows_holds_nobody_up_and_mixes_up_nothing(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with Between(valkey.port) as between:
        own = valkey.url.replace(str(valkey.port), str(between.port))
        cache = config.open_cache(f"{own}?prefix=test-{next(numbers)}&timeout_ms=1000")
        assert cache is not None
        cache.patience_s = 5.0
        for n in range(10):
            await cache.set("g", {f"{n}": f"{n}".encode()}, LONG)
        cache.patience_s, between.swallows = 0.1, True
        with caplog.at_level(logging.WARNING, "simonides"):
            begun = time.monotonic()
            for _ in range(50):
                with pytest.raises(Unavailable):
                    await cache.get("g", ["0"])
            took = time.monotonic() - begun
            assert took < 3  # three that wait, and then one a second
            between.swallows, cache.patience_s = False, 5.0

            async def again() -> bool:
                with contextlib.suppress(Unavailable):
                    await cache.ping()
                    return True
                return False

            await until(again)
        assert [record.message for record in caplog.records if "without a cache" in record.message] != []
        assert len(caplog.records) == 2  # once when it goes, and once when it is back
        found = await asyncio.gather(*(cache.get("g", [f"{n}"]) for n in range(10)))
        assert found == [[f"{n}".encode()] for n in range(10)]
        await cache.close()


async def test_redis_may_be_killed_amid_recalls_and_counted_calls_and_come_back(
    engines: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = engines.valkey()
    url = f"{server.url}?prefix=faults&timeout_ms=300"
    memory = AsyncMemory(tmp_path / "m.db", embedder="hashing:", cache=url)
    directory = MemoryDirectory()
    _, secret = await directory.make(Grant(name="a", tenant="acme", permits=Permit.READ, rate=100_000))
    gate = Gate(directory, require=True, cache=memory.cache)
    await memory.remember([f"Ana was at place {n}" for n in range(30)], user="ana")
    expected = texts(await memory.recall("where was Ana?", user="ana"))
    ending, done, slowest = asyncio.Event(), 0, 0.0

    async def asks(n: int) -> None:
        nonlocal done, slowest
        while not ending.is_set():
            begun = time.monotonic()
            assert texts(await memory.recall("where was Ana?", user="ana", limit=10)) == expected
            await gate.enter({"X-API-Key": secret}, "192.0.2.1")
            with pytest.raises(Unauthorized):
                await gate.enter({"X-API-Key": f"wrong-{n}-{done}"}, f"10.0.{n}.{done % 250}")
            slowest, done = max(slowest, time.monotonic() - begun), done + 1
            await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, "simonides"):
        asking = [asyncio.create_task(asks(n)) for n in range(4)]
        for _ in range(2):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(server.kill)
            gone = done
            await asyncio.sleep(1.5)
            assert done > gone  # it goes on without
            await asyncio.to_thread(server.start)

            async def back() -> bool:
                assert memory.cache is not None
                with contextlib.suppress(Unavailable):
                    await memory.cache.ping()
                    return True
                return False

            await until(back)
        await asyncio.sleep(0.3)
        ending.set()
        await asyncio.gather(*asking)
    assert slowest < 5
    assert sum("without a cache" in record.message for record in caplog.records) <= 4
    await gate.close()
    await memory.close()
    server.stop()


# -- calls are counted together ------------------------------------------------------------------------------------


async def test_gates_of_several_servers_count_together(valkey: Valkey) -> None:
    url, directory = url_of(valkey), MemoryDirectory()
    _, secret = await directory.make(Grant(name="a", tenant="acme", permits=Permit.READ, rate=4))
    caches = [config.open_cache(url) for _ in range(2)]
    one, other = (Gate(directory, require=True, cache=cache, failures_max=4) for cache in caches)
    shown = {"X-API-Key": secret}
    rooms = [(await gate.admit(shown, "192.0.2.1")).room for gate in (one, other, one, other)]
    assert [room.remaining for room in rooms if room] == [3, 2, 1, 0]
    for gate in (one, other):
        with pytest.raises(Limited) as caught:
            await gate.enter(shown, "192.0.2.1")
        assert 0 < caught.value.retry_after <= 61
    for gate in (one, other, one, other):
        with pytest.raises(Unauthorized):
            await gate.enter({"X-API-Key": "wrong"}, "192.0.2.2")
    for gate in (one, other):
        with pytest.raises(Limited):
            await gate.enter({"X-API-Key": "wrong"}, "192.0.2.2")
    for gate, cache in zip((one, other), caches, strict=True):
        await gate.close()
        assert cache is not None
        await cache.close()


async def test_without_redis_each_gate_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    directory = MemoryDirectory()
    _, secret = await directory.make(Grant(name="a", tenant="acme", permits=Permit.READ, rate=2))
    cache = config.open_cache("redis://127.0.0.1:1/0")
    gate = Gate(directory, require=True, cache=cache)
    with caplog.at_level(logging.WARNING, "simonides"):
        for _ in range(2):
            await gate.enter({"X-API-Key": secret}, "192.0.2.1")
        for _ in range(5):
            with pytest.raises(Limited):
                await gate.enter({"X-API-Key": secret}, "192.0.2.1")
    assert len(caplog.records) == 1 and "without a cache" in caplog.text
    await gate.close()


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that were worked out, one after another."""
    asked, answer = list[str](), simonides.memory.answer

    async def counting(question: Any, *args: Any, **more: Any) -> Hits:
        asked.append(question.text)
        return await answer(question, *args, **more)

    monkeypatch.setattr(simonides.memory, "answer", counting)
    return asked


@pytest.fixture(params=["process", "redis"])
def cache_url(request: pytest.FixtureRequest) -> str:
    return "process:" if request.param == "process" else url_of(request.getfixturevalue("valkey"))


@pytest.fixture
async def memory(tmp_path: Path, cache_url: str, home: Path) -> AsyncIterator[AsyncMemory]:
    async with AsyncMemory(tmp_path / "m.db", embedder="hashing:", cache=cache_url) as opened:
        yield opened


def same(left: Hits, right: Hits) -> None:
    """What is answered is the same but for the clock, of which the boost for what is recent knows."""
    told = [
        [(hit.record, hit.by, hit.title, hit.also, [factor.name for factor in hit.why]) for hit in hits]
        for hits in (left, right)
    ]
    assert told[0] == told[1] and left.notes == right.notes
    for one, other in zip(left, right, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        for mine, theirs in zip(one.why, other.why, strict=True):
            assert (mine.value, mine.share) == pytest.approx((theirs.value, theirs.share), abs=1e-5)


async def kept(memory: AsyncMemory) -> None:
    """Wait until what was answered is in the cache."""
    assert memory._engine is not None and memory._engine.answers is not None
    await memory._engine.answers.settled()


async def test_the_same_question_is_worked_out_once(memory: AsyncMemory, counted: list[str]) -> None:
    await memory.remember(["I live in Porto", "I like tea"], user="ana", session="s", labels=["a"], metadata={"n": 1.0})
    first = await memory.recall("where do I live?", user="ana", explain=True)
    assert len(first) and counted == ["where do I live?"]
    for _ in range(3):
        again = await memory.recall("where do I live?", user="ana", explain=True)
        same(first, again)
        assert [hit.score for hit in again] == [hit.score for hit in first] and list(again) == list(first)
    assert len(counted) == 1
    context = await memory.context("where do I live?", user="ana")
    assert (await memory.context("where do I live?", user="ana")).text == context.text
    assert len(counted) == 2


async def test_what_is_done_to_an_answer_is_not_what_others_get(memory: AsyncMemory, counted: list[str]) -> None:
    await memory.remember("I live in Porto", user="ana", metadata={"project": "bridge"})
    [hit] = await memory.recall("where do I live?", user="ana")
    hit.record.metadata["project"] = "altered"  # type: ignore[index]
    await kept(memory)
    [again] = await memory.recall("where do I live?", user="ana")
    assert again.record.metadata == {"project": "bridge"} and len(counted) == 1


async def test_another_question_another_asker_and_another_filter_are_other_answers(
    memory: AsyncMemory, counted: list[str]
) -> None:
    await memory.remember("I live in Porto", user="ana", labels=["home"])
    await memory.remember("I live in Faro", user="bo", folder="work")
    asked: list[dict[str, Any]] = [
        {"user": "ana"}, {"user": "bo"}, {}, {"agent": "x"}, {"session": "x"}, {"space": "team"}, {"tenant": "other"},
        {"user": "ana", "shared": False}, {"user": "ana", "limit": 1}, {"user": "ana", "explain": True},
        {"user": "ana", "effort": "low"}, {"user": "ana", "min_relevance": 0.99}, {"labels": ["home"]},
        {"folder": "work"}, {"kinds": ["note"]}, {"archived": True}, {"ended": True}, {"pinned": False},
        {"importance_min": 3}, {"metadata": {"n": 1}}, {"metadata": {"n": True}}, {"since": "2020-01-01"},
        {"until": "2030-01-01"}, {"as_of": "2026-01-01"}, {"known_at": "2026-01-01"}, {"sources": ["caller"]},
        {"outside": ["work"]}, {"conversation": "c"},
    ]  # fmt: skip
    for more in asked:
        await memory.recall("where do I live?", **more)
        await memory.recall("where do I live?", **more)
    await memory.recall("where do I live? ", user="ana")
    assert len(counted) == len(asked) + 1


async def test_what_is_written_by_anybody_is_found_at_once(
    memory: AsyncMemory, tmp_path: Path, counted: list[str]
) -> None:
    other = AsyncMemory(tmp_path / "m.db", embedder="hashing:")
    record = await memory.remember("I live in Porto", user="ana")
    for _ in range(2):
        assert texts(await memory.recall("where do I live?", user="ana")) == ["I live in Porto"]
    await other.revise(record.id, text="I live in Faro", user="ana")
    for _ in range(2):
        assert texts(await memory.recall("where do I live?", user="ana")) == ["I live in Faro"]
    await other.forget(record.id, user="ana")
    assert texts(await memory.recall("where do I live?", user="ana")) == []
    asked = len(counted)
    await other.remember("elsewhere", space="team")  # another realm: what is kept here stays
    await memory.recall("where do I live?", user="ana")
    assert len(counted) == asked
    await other.close()


async def test_what_is_erased_leaves_the_cache_with_the_certificate_saying_so(
    engines: Machine, tmp_path: Path, home: Path
) -> None:
    server = engines.valkey()
    url = f"{server.url}?{PATIENT}"
    asking = AsyncMemory(tmp_path / "m.db", embedder="hashing:", cache=url)
    erasing = AsyncMemory(tmp_path / "m.db", embedder="hashing:", cache=url)  # in another process, say
    record = await asking.remember("the cormorant nests in Sagres", user="ana")
    for question in ("cormorant", "where does it nest?"):
        await asking.recall(question, user="ana")
    await kept(asking)
    with redis.Redis.from_url(server.url) as client:

        def there() -> bytes:
            keys = list(client.scan_iter("*:value:*"))
            return b"".join(client.mget(keys)) if keys else b""

        assert b"cormorant" in there()
        certificate = await erasing.forget(record.id, user="ana")
        assert certificate.places["cached"] == 4  # two answers, and the vectors of two questions
        assert there() == b""
        assert texts(await asking.recall("cormorant", user="ana")) == []
        assert b"cormorant nests" not in there()
    await asking.close()
    await erasing.close()
    server.stop()


async def test_an_answer_that_was_under_way_while_it_was_erased_is_not_kept(
    memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await memory.remember("the cormorant nests in Sagres", user="ana")
    answer, state = simonides.memory.answer, simonides.answers.Answers._state
    erased = False

    async def late(*args: Any, **more: Any) -> Hits:
        nonlocal erased
        hits = await answer(*args, **more)
        if not erased:
            erased = True
            await memory.forget(record.id, user="ana")
        return hits

    seen = list[Any]()

    async def stuck(self: Any, scope: Any, model: str) -> Any:
        """The look after the work sees what the one before it saw: as if the erase came between look and keeping."""
        seen.append(await state(self, scope, model))
        return seen[0]

    with monkeypatch.context() as patched:
        patched.setattr(simonides.memory, "answer", late)
        patched.setattr(simonides.answers.Answers, "_state", stuck)
        assert texts(await memory.recall("cormorant", user="ana"))
        await kept(memory)
        assert seen[0] != seen[1]
        assert texts(await memory.recall("cormorant", user="ana")) == []


async def test_without_redis_an_erase_is_certified_without_a_word_of_the_cache(tmp_path: Path, home: Path) -> None:
    async with AsyncMemory(tmp_path / "m.db", embedder="none", cache="redis://127.0.0.1:1/0") as memory:
        record = await memory.remember("the cormorant", user="ana")
        assert texts(await memory.recall("cormorant", user="ana")) == ["the cormorant"]
        assert "cached" not in (await memory.forget(record.id, user="ana")).places
        assert any("does not answer" in each or "did not answer" in each for each in await memory.doctor())


async def test_what_another_process_erased_leaves_this_one_at_the_next_question(tmp_path: Path, home: Path) -> None:
    async with AsyncMemory(tmp_path / "m.db", embedder="hashing:", cache="process:") as memory:
        record = await memory.remember("the cormorant", user="ana")
        await memory.recall("cormorant", user="ana")
        await kept(memory)
        assert isinstance(memory.cache, ProcessCache) and memory.cache.count == 1
        async with AsyncMemory(tmp_path / "m.db", embedder="hashing:") as other:
            await other.forget(record.id, user="ana")
        await memory.recall("anything else?", user="ana")
        await kept(memory)
        assert memory.cache.count == 1
        assert all(b"cormorant" not in entry.value for entry in memory.cache._entries.values())


async def test_an_answer_does_not_outlive_what_ends(memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    await memory.remember("the bridge is closed", user="ana", at="2026-01-01")
    [hit] = await memory.recall("bridge", user="ana")
    seconds_left = list[float]()
    cache = memory.cache
    assert cache is not None
    keep = cache.set

    async def keeping(group: str, values: Any, seconds: float, **more: Any) -> None:
        seconds_left.append(seconds)
        await keep(group, values, seconds, **more)

    monkeypatch.setattr(cache, "set", keeping)
    ends = now() + timedelta(seconds=2)
    await memory.supersede(hit.id, "the bridge is open", at=ends, user="ana")
    found = await memory.recall("bridge", user="ana", min_relevance=0.0)
    assert "the bridge is closed" in texts(found) and found.until == ends
    await kept(memory)
    assert 0 < seconds_left[-1] <= 2

    async def ended() -> bool:
        return texts(await memory.recall("bridge", user="ana")) == ["the bridge is open"]

    await until(ended)
    assert now() >= ends


async def test_an_answer_made_before_the_vectors_were_there_is_not_given_after(tmp_path: Path, home: Path) -> None:
    class Slow(HashingEmbedder):
        def __init__(self) -> None:
            super().__init__("hashing:")
            self.may = asyncio.Event()

        async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
            if not query:
                await self.may.wait()
            return await super().embed(texts, query=query)

    slow = Slow()
    async with AsyncMemory(tmp_path / "m.db", embedder=slow, cache="process:", settled=False) as memory:
        await memory.remember("walking along the harbour", user="ana")
        for _ in range(2):
            hits = await memory.recall("harbours", user="ana")
            assert all("near" not in hit.by for hit in hits)
        slow.may.set()
        await memory.settle()
        [hit] = await memory.recall("harbours", user="ana")
        assert "near" in hit.by


async def test_tomorrow_yesterday_is_another_day(
    memory: AsyncMemory, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.remember("tea in the harbour", user="ana")
    for day, worked_out in ((1, 1), (1, 1), (2, 2), (2, 2)):
        monkeypatch.setattr(simonides.memory, "now", lambda day=day: JUNE + day * DAY)
        await memory.recall("what did I drink yesterday?", user="ana")
        assert len(counted) == worked_out


async def test_what_fell_back_is_not_kept(tmp_path: Path, home: Path, counted: list[str]) -> None:
    class Broken(HashingEmbedder):
        fails = False

        async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
            if self.fails:
                raise Unavailable("gone")
            return await super().embed(texts, query=query)

    broken = Broken("hashing:")
    async with AsyncMemory(tmp_path / "m.db", embedder=broken, cache="process:") as memory:
        await memory.remember("walking along the harbour", user="ana")
        broken.fails = True
        for _ in range(2):
            assert (await memory.recall("harbour", user="ana")).notes
        broken.fails = False
        assert not (await memory.recall("harbour", user="ana")).notes
        assert len(counted) == 3
        await memory.recall("harbour", user="ana")
        assert len(counted) == 3


async def test_a_store_that_is_a_copy_does_not_get_the_answers_of_the_first(
    valkey: Valkey, tmp_path: Path, home: Path
) -> None:
    url = url_of(valkey)
    async with AsyncMemory(tmp_path / "a.db", embedder="none") as first:
        await first.remember("I live in Porto", user="ana")
    (tmp_path / "b.db").write_bytes((tmp_path / "a.db").read_bytes())
    async with (
        AsyncMemory(tmp_path / "a.db", embedder="none", cache=url) as one,
        AsyncMemory(tmp_path / "b.db", embedder="none", cache=url) as other,
    ):
        await one.remember("I moved to Faro", user="ana")
        await other.remember("I moved to Lisbon", user="ana")
        assert "I moved to Faro" in texts(await one.recall("where have I moved?", user="ana"))
        assert "I moved to Lisbon" in texts(await other.recall("where have I moved?", user="ana"))


async def test_seconds_of_zero_keep_no_answer(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    monkeypatch.setenv("SIMONIDES_CACHE_SECONDS", "0")
    async with AsyncMemory(tmp_path / "m.db", embedder="none", cache="process:") as memory:
        await memory.remember("tea")
        for _ in range(2):
            await memory.recall("tea")
        assert len(counted) == 2 and isinstance(memory.cache, ProcessCache) and not memory.cache.count


def test_an_embedded_memory_keeps_no_answers_unless_others_share_them(
    tmp_path: Path, home: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AsyncMemory(tmp_path / "m.db", embedder="none").cache is None
    monkeypatch.setenv("SIMONIDES_CACHE", url_of(valkey))
    cache = AsyncMemory(tmp_path / "m.db", embedder="none").cache
    assert cache is not None and cache.shared  # so that what is erased here leaves it
    with Memory(tmp_path / "m.db", embedder="none") as memory:
        memory.remember("tea")
        assert texts(memory.recall("tea")) == texts(memory.recall("tea")) == ["tea"]
        assert memory.doctor() == []


WORDS = ("bridge", "harbour", "tea", "walking", "Lisbon", "cormorant")
said = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
users = st.sampled_from(["ana", "bo", None])
steps = st.one_of(
    st.tuples(st.just("remember"), said, users),
    st.tuples(st.just("revise"), said, st.integers(0, 5)),
    st.tuples(st.just("forget"), st.integers(0, 5)),
    st.tuples(st.just("archive"), st.integers(0, 5)),
    st.tuples(st.just("supersede"), said, st.integers(0, 5)),
    *[st.tuples(st.just("recall"), said, users, st.sampled_from([1, 3, 10]), st.booleans())] * 3,
)


def _new(folders: pytest.TempPathFactory) -> str:
    return f"sqlite:///{folders.mktemp('agree') / 'm.db'}?durability=normal"


async def agree(path: str, url: str, story: Sequence[tuple[Any, ...]]) -> None:
    async with (
        AsyncMemory(path, embedder="hashing:", cache=url) as cached,
        AsyncMemory(path, embedder="hashing:") as plain,
    ):
        made = list[Any]()
        for turn, step in enumerate(story):
            writer = (cached, plain)[turn % 2]
            with contextlib.suppress(NotFound, Conflict):
                match step:
                    case "remember", text, user:
                        made.append(await writer.remember(text, **({"user": user} if user else {})))
                    case "revise", text, at if made:
                        await writer.revise(made[at % len(made)].id, text=text)
                    case "supersede", text, at if made:
                        made.append(await writer.supersede(made[at % len(made)].id, text))
                    case "forget" | "archive" as what, at if made:
                        await getattr(writer, what)(made[at % len(made)].id)
                    case "recall", text, user, limit, explain:
                        named = {"user": user} if user else {}
                        for _ in range(2):
                            got = await cached.recall(text, limit=limit, explain=explain, **named)
                            want = await plain.recall(text, limit=limit, explain=explain, **named)
                            same(got, want)


quick = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(story=st.lists(steps, min_size=4, max_size=16))
async def test_with_a_cache_the_same_is_answered_as_without(
    story: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    await agree(_new(tmp_path_factory), "process:", story)


@settings(quick, max_examples=6)
@given(story=st.lists(steps, min_size=8, max_size=16))
async def test_with_a_shared_cache_the_same_is_answered_as_without(
    story: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory, valkey: Valkey
) -> None:
    await agree(_new(tmp_path_factory), url_of(valkey), story)


@settings(quick, max_examples=5)
@given(story=st.lists(steps, min_size=8, max_size=16))
async def test_with_a_cache_before_postgresql_the_same_is_answered_as_without(
    story: list[tuple[Any, ...]], schemas: Schemas
) -> None:
    await agree(schemas.url(), "process:", story)


async def test_an_answer_is_packed_and_unpacked_as_it_was(tmp_path: Path, home: Path) -> None:
    async with AsyncMemory(tmp_path / "m.db", embedder="hashing:") as memory:
        await memory.remember(
            [{"role": "user", "content": "a cormorant 🌉", "name": "Ana"}, {"role": "assistant", "content": "Eh?"}],
            session="s", title="Birds", labels=["a"], metadata={"n": 1, "x": [1.0, {"y": None}], "big": 2**60},
        )  # fmt: skip
        await memory.remember("a cormorant", at="0001-01-01T00:00:00Z", pinned=True)
        hits = await memory.recall("cormorant", explain=True)
    assert len(hits) >= 2
    found = unpacked(packed(hits))
    assert found is not None and list(found) == list(hits) and found.notes == hits.notes and found.until == hits.until
    hits.until = now()
    assert unpacked(packed(hits)) is None  # it has ended, whatever the cache's clock says
    assert unpacked(b"") is unpacked(b"[]") is unpacked(packed(hits)[:-3]) is None


# -- questions' vectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [False, True])
async def test_a_question_is_embedded_once_among_all_who_share_a_cache(
    valkey: Valkey, tmp_path: Path, home: Path, tokens: bool
) -> None:
    class Plain(HashingEmbedder):
        def __init__(self) -> None:
            super().__init__("hashing:")
            self.asked = list[str]()

        async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
            self.asked += texts
            return await super().embed(texts, query=query)

    class Telling(Plain):
        async def encode(self, texts: Sequence[str]) -> tuple[Any, list[bytes]]:
            return await self.embed(texts), [bytes([len(text)]) * 96 for text in texts]

    kind, url = Telling if tokens else Plain, url_of(valkey)
    one, other = kind(), kind()
    question = "where is the harbour? And is there tea? " * 4
    async with (
        AsyncMemory(tmp_path / "m.db", embedder=one, cache=url) as first,
        AsyncMemory(tmp_path / "m.db", embedder=other, cache=url) as second,
    ):
        await first.remember("tea in the harbour", user="ana")
        found = await first.recall(question, user="ana", limit=5)
        asked, other.asked = list(one.asked), []
        again = await second.recall(question, user="ana", limit=6)  # another answer to the same question
        assert other.asked == []
        assert [(hit.id, hit.by) for hit in again] == [(hit.id, hit.by) for hit in found]
        assert again[0].score == pytest.approx(found[0].score, abs=1e-6)
        assert "tea in the harbour" not in str(one.asked[len(asked) :])
    parts = list(dict.fromkeys(asked))
    cache = RedisCache(url_of(valkey))
    vectors = simonides.answers.questioned(kind(), cache, "vectors/x", LONG)
    before = await vectors.embed(parts, query=True)
    assert np.array_equal(before, await vectors.embed(parts, query=True))
    assert np.array_equal(before, await kind().embed(parts, query=True)) and before.dtype == np.float32
    if tokens:
        assert (await vectors.encode(parts))[1] == (await vectors.encode(parts))[1] == (await kind().encode(parts))[1]
    await cache.close()


# -- a server ------------------------------------------------------------------------------------------------------


async def test_a_server_says_how_its_cache_does(engines: Machine, tmp_path: Path, home: Path, monkeypatch: Any) -> None:
    server = engines.valkey()
    monkeypatch.setenv("SIMONIDES_CACHE", f"{server.url}?{PATIENT}")
    async with house.opened(tmp_path / "m.db") as opened:
        memory = opened.desk.memory
        await memory.remember("tea")
        for _ in range(3):
            await memory.recall("tea")
        from simonides.api.system import parts

        [cache] = [part for part in await parts(opened.desk) if part["name"] == "cache"]
        assert cache["works"] and not cache["fallback"] and "shared" in cache["says"] and "60 s" in cache["says"]
        assert memory.cache is not None
        told = memory.cache._observer.told([cache]).decode()
        assert 'simonides_cache_hits_total{kind="answers"} 2.0' in told
        assert 'simonides_cache_duration_seconds_count{operation="get"}' in told
        await asyncio.to_thread(server.kill)
        [cache] = [part for part in await parts(opened.desk) if part["name"] == "cache"]
        assert not cache["works"] and cache["fallback"] and "counts calls for itself" in cache["says"]
        assert texts(await memory.recall("tea")) == ["tea"]
        assert 'simonides_part_errors_total{operation="ping",part="cache"}' in memory.cache._observer.told([]).decode()
    server.stop()
