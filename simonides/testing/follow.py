"""What every sink and every feed owes. Subclass SinkSuite or FeedSuite, give it the fixtures named there, and run
pytest (asyncio_mode = "auto"); `tests/test_sinks.py` and `tests/test_feeds.py` do so with real brokers.

    class TestMySink(SinkSuite):
        pass
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ..errors import Conflict
from ..feed import FeedSource, ended, parcels
from ..follow import SHARDS, Portion, followed, place_name, shard
from ..plain import Json, record_of
from ..record import Scope, now
from ..sending import Sending, senders
from ..store import Batch, Certificate, Change, Cursor, Store
from .records import said

PATIENCE_S = 30.0
ANA, BO = Scope(tenant="acme", user="ana"), Scope(tenant="acme", user="bo/2 ß")
SECRET = "the spare key is under the third pot"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of an event: its attributes and data as one object, by what it was kept in order, and its bytes."""

    event: Json
    key: str
    raw: bytes


class Ear(Protocol):
    """Reads what a sink has sent, beside the sink."""

    async def heard(self) -> list[Heard]:
        """Return everything that came so far, those with the same key in the order they came."""
        ...


async def until(what: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not await what():
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def sending(store: Store, *urls: str) -> AsyncIterator[Sending]:
    """Send what happens in the store, until the end."""
    made = Sending(store, await senders(urls, store)).begun()
    try:
        yield made
    finally:
        await made.ended(PATIENCE_S)


async def told(ear: Ear, count: int) -> list[Heard]:
    """Wait until so many events came, and return all that did."""

    async def enough() -> bool:
        return len(await ear.heard()) >= count

    await until(enough)
    return await ear.heard()


def numbers(found: Sequence[Heard]) -> list[int]:
    return [each.event["data"]["seq"] for each in found]


def in_order(found: Sequence[Heard]) -> bool:
    """Whether the first coming of each event is in the order of the log, among those of one key."""
    last, seen = dict[str, int](), set[str]()
    for each in found:
        if each.event["id"] not in seen:
            if each.event["data"]["seq"] <= last.get(each.key, 0):
                return False
            last[each.key] = each.event["data"]["seq"]
        seen.add(each.event["id"])
    return True


class SinkSuite:
    """Everything that a sink owes. `store` is a new one. `sink_url` goes where nobody else sends, and has options
    already (a `?`); `ear` reads what came there.
    """

    async def test_what_happens_is_sent_as_it_happens(self, store: Store, sink_url: str, ear: Ear) -> None:
        one, other = said(SECRET, ANA, id="one/é"), said("of bo", BO)
        async with sending(store, sink_url) as sent:
            await store.commit(Batch(put=(one, other)))
            await store.commit(Batch(put=(one.revise(pinned=True),)))
            await store.commit(Batch(erase=(one.ref,)))
            await store.commit(Batch(certificate=_certificate(one.id)))
            sent.notice()
            found = await told(ear, 5)
        lines = {line.seq: line for line in await store.changes()}
        assert sorted(numbers(found)) == [1, 2, 3, 4, 5]
        assert in_order(found)
        for heard in found:
            line = lines[heard.event["data"]["seq"]]
            assert heard.event.pop("datacontenttype") == "application/json"
            assert datetime.fromisoformat(heard.event.pop("time")) == line.at
            assert heard.event == {
                "specversion": "1.0",
                "id": f"{store.identity}/{line.seq}",
                "type": _type(line),
                "source": f"urn:simonides:{store.identity}",
                "subject": line.id,
                "partitionkey": heard.key,
                "data": _data(line),
            }
        keys = {lines[seq].scope: heard.key for seq, heard in zip(numbers(found), found, strict=True)}
        assert keys == {ANA: "acme/main/ana", BO: "acme/main/bo%2F2%20%C3%9F"}

    async def test_no_text_is_sent_unless_it_is_asked_for(self, store: Store, sink_url: str, ear: Ear) -> None:
        async with sending(store, sink_url):
            await store.commit(Batch(put=(said(SECRET, metadata={"note": SECRET}, labels=("third pot",)),)))
            [heard] = await told(ear, 1)
        assert b"third pot" not in heard.raw

    async def test_with_content_a_record_is_as_programs_read_it(self, store: Store, sink_url: str, ear: Ear) -> None:
        one = said(SECRET)
        await store.commit(Batch(put=(one, one.revise(pinned=True), said("gone", id="gone"))))
        await store.commit(Batch(erase=(said("gone", id="gone").ref,)))
        async with sending(store, f"{sink_url}&from=start&content=1"):
            found = await told(ear, 4)
        records = [heard.event["data"].get("record") for heard in sorted(found, key=lambda each: numbers([each]))]
        first, second = (record_of(record) for record in records[:2] if record)
        assert (first.text, first.version, first.pinned) == (SECRET, 1, False)
        assert (second.text, second.version, second.pinned) == (SECRET, 2, True)
        assert records[2:] == [None, None], "what is erased is not sent"

    async def test_a_new_sink_hears_from_now_on(self, store: Store, sink_url: str, ear: Ear) -> None:
        await store.commit(Batch(put=(said("before"),)))
        async with sending(store, sink_url):
            await store.commit(Batch(put=(said("after"),)))
            assert numbers(await told(ear, 1)) == [2]

    async def test_nothing_is_missed_before_it_first_takes_anything(
        self, store: Store, sink_url: str, ear: Ear
    ) -> None:
        for sender in await senders([sink_url], store):  # and then the process ends
            await sender.sink.close()
        await store.commit(Batch(put=(said("one"), said("two"))))
        async with sending(store, sink_url):
            assert numbers(await told(ear, 2)) == [1, 2]

    async def test_it_goes_on_where_it_was(self, store: Store, sink_url: str, ear: Ear) -> None:
        for number in range(3):
            async with sending(store, sink_url):
                await store.commit(Batch(put=(said(f"{number}"), said("also", BO))))
                await told(ear, 2 * number + 2)
            await store.commit(Batch())
        assert sorted(numbers(await ear.heard())) == [1, 2, 3, 4, 5, 6]

    async def test_what_is_sent_again_is_known_by_its_id(self, store: Store, sink_url: str, ear: Ear) -> None:
        [sender] = await senders([f"{sink_url}&from=start"], store)
        await store.commit(Batch(put=tuple(said(f"{number}") for number in range(5))))
        await sender.follow(await store.changes(limit=3), store)  # and ends before its place is kept
        await sender.sink.close()
        async with sending(store, f"{sink_url}&from=start"):
            found = await told(ear, 8)
        assert numbers(found) == [1, 2, 3, 1, 2, 3, 4, 5]
        assert {heard.event["id"] for heard in found} == {f"{store.identity}/{seq}" for seq in range(1, 6)}
        assert in_order(found)

    async def test_many_events_come_whole_and_in_order(self, store: Store, sink_url: str, ear: Ear) -> None:
        scopes = [Scope(tenant="acme", user=f"user {number}") for number in range(7)]
        async with sending(store, sink_url) as sent:
            for start in range(0, 600, 100):
                kept = [said("x", scopes[number % 7]) for number in range(start, start + 100)]
                await store.commit(Batch(put=tuple(kept)))
                sent.notice()
            found = await told(ear, 600)
        assert sorted(numbers(found)) == list(range(1, 601))
        assert in_order(found)


def _certificate(id: str) -> Certificate:
    return Certificate("c-1", now(), ANA, (id,), (), {"records": 1}, "overwritten")


def _type(line: Change) -> str:
    if line.kind == "certificate":
        return "simonides.certificate.issued"
    return f"simonides.record.{'written' if line.version else 'erased'}"


def _data(line: Change) -> Json:
    scope: dict[str, Any] = {
        name: getattr(line.scope, name) for name in ("tenant", "space", "user", "agent", "session")
    }
    did = "certified" if line.kind == "certificate" else "written" if line.version else "erased"
    return {
        "seq": line.seq,
        "at": line.at.isoformat(),
        "did": did,
        "id": line.id,
        "version": line.version,
        "kind": line.kind,
        "scope": scope,
    }


# -- feeds -----------------------------------------------------------------------------------------------------------

FOLLOWER = "vectors/test"
SCOPES = tuple(Scope(tenant="acme", user=f"user {number}") for number in range(40))

MakeSource = Callable[[Store], FeedSource]


class Work:
    """What a worker does, beside others of the same store: it notes what it was given, once that is committed."""

    def __init__(self, store: Store, source: FeedSource) -> None:
        self.store, self.source = store, source
        self.found: list[Change] = []
        self.conflicts = 0
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self.source.begin()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            for portion in await self.source.take(64, 0.2):
                assert all(portion.was < change.seq <= portion.upto for change in portion.changes)
                assert all(shard(change.scope) == portion.shard for change in portion.changes)
                try:
                    cursor = Cursor(place_name(FOLLOWER, portion.shard), portion.was, portion.upto)
                    await self.store.commit(Batch(), cursor=cursor)
                except Conflict:
                    self.conflicts += 1
                    await self.source.back([portion])
                else:
                    self.noted(portion)
                    await self.source.done([portion])

    def noted(self, portion: Portion) -> None:
        self.found += portion.changes

    async def end(self) -> None:
        await self.die()
        await self.source.close()

    async def die(self) -> None:
        """Stop at once, as a killed process does: whoever shares the work is told nothing."""
        assert self._task is not None
        await ended(self._task, *self.source._tasks)
        assert self._task.cancelled() or self._task.exception() is None


def each_once_in_order(*works: Work) -> bool:
    """Whether nothing was followed twice, and each shard's changes in the order of the log."""
    everything = sorted(change.seq for work in works for change in work.found)
    ordered = True
    for work in works:
        for k in {shard(change.scope) for change in work.found}:
            mine = [change.seq for change in work.found if shard(change.scope) == k]
            ordered = ordered and mine == sorted(mine)
    return ordered and len(everything) == len(set(everything))


async def write(store: Store, count: int) -> None:
    for start in range(0, count, 50):
        kept = [said("x", SCOPES[number % len(SCOPES)]) for number in range(start, min(start + 50, count))]
        await store.commit(Batch(put=tuple(kept)))


async def followed_all(store: Store, *works: Work) -> None:
    async def all_of_them() -> bool:
        return {change.seq for work in works for change in work.found} >= set(range(1, await store.head() + 1))

    await until(all_of_them, 60)


class FeedSuite:
    """Everything that a feed owes. `store` is a new one; `make_source` returns what a worker of it takes changes from,
    which reads from the store what no parcel has brought within two seconds.
    """

    async def test_everything_arrives_once_and_in_order(self, store: Store, make_source: MakeSource) -> None:
        await write(store, 400)  # before there is anybody
        work = Work(store, make_source(store))
        await work.begin()
        await write(store, 600)
        await followed_all(store, work)
        await write(store, 1)
        await followed_all(store, work)
        assert len(work.source.held) == SHARDS

        async def settled() -> bool:
            return await followed(FOLLOWER, store) == 1001

        await until(settled)  # also where nothing happened in a shard
        await work.end()
        assert each_once_in_order(work) and not work.conflicts

    async def test_it_goes_on_where_it_was(self, store: Store, make_source: MakeSource) -> None:
        works = list[Work]()
        for _ in range(2):
            works.append(Work(store, make_source(store)))
            await works[-1].begin()
            await write(store, 100)
            await followed_all(store, *works)
            await works[-1].end()
            await write(store, 50)
        assert each_once_in_order(*works)

    async def test_without_a_word_from_the_broker_the_store_is_read(
        self, store: Store, make_source: MakeSource
    ) -> None:
        source = make_source(store)
        source._relay = None
        work = Work(store, source)
        await write(store, 3000)
        await work.begin()
        await followed_all(store, work)
        await work.end()
        assert each_once_in_order(work)

    async def test_what_was_not_committed_is_given_again(self, store: Store, make_source: MakeSource) -> None:
        source = make_source(store)
        await write(store, 60)
        await source.begin()
        given = list[Portion]()
        while sum(len(portion.changes) for portion in given) < 60:
            given += await source.take(64, 0.2)
        assert not [each for each in await source.take(64, 0.2) if each.shard in {portion.shard for portion in given}]
        await source.back(given)
        again = list[Portion]()
        while sum(len(portion.changes) for portion in again) < 60:
            again += await source.take(64, 0.2)
            assert len(again) <= SHARDS
        await source.close()
        first, second = ({change.seq for each in them for change in each.changes} for them in (given, again))
        assert first == second == set(range(1, 61))

    async def test_what_is_published_twice_is_followed_once(self, store: Store, make_source: MakeSource) -> None:
        work = Work(store, make_source(store))
        await work.begin()
        await write(store, 100)
        await followed_all(store, work)
        relay = work.source._relay
        assert relay is not None
        for _ in range(2):  # as after a crash between the broker's answer and the relay's new place
            changes = await store.changes(after=20, limit=40)
            await work.source._carrier.publish(parcels(changes, 20, work.source._carrier.count))
        await write(store, 100)
        await followed_all(store, work)
        await work.end()
        assert each_once_in_order(work) and not work.conflicts
