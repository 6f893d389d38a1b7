"""The same journeys over a memory here, on either engine, and over one behind a server: a program cannot tell which."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from simonides import (
    AsyncMemory,
    Conflict,
    Fact,
    Invalid,
    Link,
    Memory,
    Note,
    NotFound,
    Place,
    SimonidesError,
    Unavailable,
    exports,
    remote,
)
from simonides.api import Desk
from simonides.forgetting import Preview
from simonides.remote import AsyncRemoteMemory, RemoteMemory
from simonides.servers.gate import Gate
from simonides.servers.http import app
from simonides.servers.streams import mount


@dataclasses.dataclass
class Served:
    url: str
    desk: Desk


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Served]]:
    """Start a server over an empty memory, as often as it is asked for; stop them all at the end."""
    started: list[tuple[uvicorn.Server, threading.Thread, AsyncMemory]] = []

    def start() -> Served:
        path = tmp_path_factory.mktemp("served") / "m.db"
        memory = AsyncMemory(path, settled=False, embedder="hashing:", zone="Europe/Lisbon")
        desk = Desk(memory)
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app(desk, Gate(None, require=False), more=[mount]), log_level="error", ws="none")
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        started.append((server, thread, memory))
        return Served(f"http://127.0.0.1:{listener.getsockname()[1]}", desk)

    yield start
    for server, thread, memory in started:
        server.should_exit = True
        thread.join(20)
        asyncio.run(memory.close())


@pytest.fixture(params=["here", "on PostgreSQL", "behind a server"])
def memory(request: pytest.FixtureRequest, tmp_path: Path, served: Callable[[], Served]) -> Iterator[Any]:
    if request.param == "here":
        with Memory(tmp_path / "m.db", embedder="hashing:", zone="Europe/Lisbon") as made:
            yield made
    elif request.param == "on PostgreSQL":
        store = request.getfixturevalue("schemas").url()
        with Memory(store, embedder="hashing:", zone="Europe/Lisbon") as made:
            yield made
    else:
        with RemoteMemory(served().url, zone="Europe/Lisbon") as made:
            yield made


TALK = [
    {"role": "user", "content": "I am allergic to walnuts", "at": "2026-05-02T09:00:00+01:00"},
    {"role": "assistant", "content": "No walnuts, then.", "name": "Ida"},
]


def test_what_is_remembered_is_recalled_with_who_and_when(memory: Any) -> None:
    kept = memory.remember(TALK, session="kitchen", user="ana", labels=["food"], title="The kitchen")
    [hit, *_] = memory.recall("walnuts allergic", user="ana", explain=True)
    assert hit.record == memory.get(kept[0].id, user="ana") == kept[0]
    assert hit.title == "The kitchen"
    assert hit.why and 0 < hit.score <= 1
    assert str(hit) == "I am allergic to walnuts  (user, 2026-05-02 08:00)"
    assert memory.recall("walnuts", user="bo") == []
    context = memory.context("walnuts", user="ana", budget=200)
    assert "[1]" in context.text and context.citations[0].id == kept[0].id and context.tokens <= 200


def test_a_correction_beats_what_it_corrects_and_the_past_stays(memory: Any) -> None:
    old = memory.remember("I live in Lisbon", user="ana", at="2026-01-01")
    new = memory.supersede(old.id, "I live in Porto", user="ana", at="2026-06-01")
    assert [hit.id for hit in memory.recall("where do I live", user="ana")] == [new.id]
    past = memory.recall("where do I live", user="ana", as_of=date(2026, 3, 1))
    assert past[0].id == old.id
    assert [each.version for each in memory.history(old.id, user="ana")] == [1, 2]
    assert memory.explain_missing(old.id, "where do I live", user="ana").reason == "superseded"
    revised = memory.revise(new.id, text="I live in Porto, by the river", user="ana", version=1)
    assert (revised.version, revised.text) == (2, "I live in Porto, by the river")
    with pytest.raises(Conflict):
        memory.revise(new.id, text="too late", user="ana", version=1)
    memory.retract(new.id, user="ana")
    assert new.id not in {hit.id for hit in memory.recall("where do I live", user="ana")}


def test_an_erase_shows_first_and_certifies_then(memory: Any) -> None:
    kept = memory.remember(TALK, session="kitchen", user="ana")
    preview = memory.forget(session="kitchen", user="ana", dry_run=True)
    assert isinstance(preview, Preview)
    assert {record.id for record in kept} < set(preview.ids)
    certificate = memory.forget(session="kitchen", user="ana")
    assert set(certificate.ids) == set(preview.ids)
    assert memory.certificates(user="ana") == [certificate]
    assert memory.find(user="ana") == [] and memory.count(user="ana") == 0
    with pytest.raises(NotFound):
        memory.get(kept[0].id, user="ana")


def test_certificates_come_in_order_however_many_there_are(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAGE", 2)
    made = [memory.forget(memory.remember(f"secret {n}", user="ana").id) for n in range(5)]
    assert memory.certificates(user="ana") == made


def test_pages_together_are_everything_once(memory: Any) -> None:
    kept = memory.remember([f"note {n}" for n in range(25)], user="ana")
    found, place = [], None
    while page := memory.find(limit=7, after=place, user="ana"):
        found += page
        place = Place.of(page[-1])
    assert [record.id for record in found] == [record.id for record in kept][::-1]
    assert memory.find(limit=3, after=found[2].id, user="ana") == found[3:6]
    assert memory.find(limit=1000, newest=False, user="ana") == kept


def test_every_filter_means_the_same(memory: Any) -> None:
    first = memory.remember(
        "a bridge over the Douro", user="ana", labels=["work", "bridge"], folder="work/bridge", importance=9,
        pinned=True, metadata={"n": 1, "ok": True, "who": None}, at="2026-05-02", source="mail",
    )  # fmt: skip
    memory.remember("a bridge elsewhere", user="ana", at="2026-05-09", folder="elsewhere/far")
    for which in (
        {"labels": ["work"]}, {"labels": "bridge"}, {"folder": "work"}, {"importance_min": 8}, {"pinned": True},
        {"metadata": {"n": 1}}, {"metadata": {"ok": True}}, {"metadata": {"who": None}}, {"sources": "mail"},
        {"until": "2026-05-03"}, {"outside": "elsewhere"},
        {"outside": ["elsewhere", "work/road"]}, {"until": datetime(2026, 5, 3, tzinfo=UTC)},
        {"until": date(2026, 5, 3)},
    ):  # fmt: skip
        assert [record.id for record in memory.find(user="ana", **which)] == [first.id], which
        assert [hit.id for hit in memory.recall("bridge", user="ana", **which)] == [first.id], which
        assert memory.count(user="ana", **which) == 1, which
    assert memory.count(user="ana", metadata={"n": True}) == 0


def test_a_whole_is_organised_with_its_parts(memory: Any) -> None:
    kept = memory.remember(TALK, session="kitchen", user="ana")
    [talk] = memory.conversations(user="ana")
    memory.organise(talk.id, labels=["home"], folder="private", archived=True, user="ana")
    assert memory.recall("walnuts", user="ana") == []
    assert {record.id for record in memory.find(user="ana", archived=True, labels="home", folder="private")} == {
        talk.id, *(record.id for record in kept)
    }  # fmt: skip
    assert [record.id for record in memory.messages(talk.id, user="ana")] == [record.id for record in kept]
    memory.organise(talk.id, archived=False, folder="", user="ana")
    assert memory.messages(talk.id, user="ana")[0].folder is None
    assert kept[0].id in {hit.id for hit in memory.recall("walnuts", user="ana")}


def test_what_is_out_of_use_is_proposed_archived_and_brought_back(memory: Any) -> None:
    old = [{"role": "user", "content": "which train to Sintra?", "at": "2024-03-01"}]
    said = memory.remember(old, session="trip", user="ana", importance=2)
    twin = memory.remember("the spare key is with Ana", user="ana", at="2024-03-01")
    kept = memory.remember("The spare key is with Ana.", user="ana", importance=8)
    found = memory.propose(user="ana", threshold_days=90, importance_threshold=5, limit=10)
    assert [(each.id, each.instead) for each in found] == [(twin.id, kept.id), (said[0].part_of, None)]
    assert "never recalled" in str(found[1]) and found[1].record == memory.get(found[1].id, user="ana")
    assert memory.propose(user="bo") == memory.propose(user="ana", labels="none") == []
    ids = [each.id for each in found]
    assert {each.status for each in memory.archive(ids, dry_run=True, user="ana")} == {"active"}
    with pytest.raises(NotFound):
        memory.archive([*ids, "nothing"], user="ana")
    gone = memory.archive(ids, user="ana")
    assert [record.id for record in gone] == [twin.id, said[0].part_of, said[0].id]
    assert memory.propose(user="ana") == [] and memory.count(user="ana") == 1
    assert memory.organise(ids[1], archived=False, user="ana")[1].id == said[0].id
    assert [hit.id for hit in memory.recall("train to Sintra", user="ana", kinds="message")] == [said[0].id]
    assert memory.propose(user="ana") == []  # it was recalled just now
    with pytest.raises(Invalid):
        memory.propose(threshold_days=-1)


def test_the_same_write_twice_is_one(memory: Any) -> None:
    assert memory.remember("once", id="mine", user="ana") == memory.remember("once", id="mine", user="ana")
    with pytest.raises(Conflict):
        memory.remember("otherwise", id="mine", user="ana")
    twice = [memory.remember(["a", "b", *TALK], session="s", once="mark-1", user="ana") for _ in range(2)]
    assert twice[0] == twice[1]
    assert memory.count(user="ana", session="s", kinds="message") == 4
    old = memory.remember("was", user="ana", at="2026-01-01")
    news = {memory.supersede(old.id, "is", once="mark-2", user="ana").id for _ in range(2)}
    assert len(news) == 1


@pytest.mark.parametrize("id", ["with space", "a/b", "ü✓", "q?x=1#y", "50%2F", "100%", "a+b", ".x"])
def test_any_id_names_its_record(memory: Any, id: str) -> None:
    record = memory.remember("named", id=id, user="ana")
    assert memory.get(id, user="ana") == record
    assert memory.history(id, user="ana") == [record]
    assert memory.revise(id, importance=7, user="ana").importance == 7
    assert memory.forget(id, user="ana").ids == (id,)


def test_every_kind_and_link_comes_back_as_it_was(memory: Any) -> None:
    note = memory.remember(Note(text=" kept\r\nas it\u2028was \x00\U0010ffff"), user="ana")
    fact = memory.remember(
        Fact(text="Ana owns a boat", predicate="owns"), links=[Link("derived_from", note.id)], user="ana",
        metadata={"deep": [{"x": 1.5, "y": None}]},
    )  # fmt: skip
    assert memory.get(note.id).text == " kept\r\nas it\u2028was \x00\U0010ffff"
    assert memory.get(fact.id) == fact
    assert fact.links == (Link("derived_from", note.id),) and fact.body.predicate == "owns"


def test_the_log_tells_what_happened(memory: Any) -> None:
    start = memory.position().written
    record = memory.remember("something", user="ana")
    memory.remember("else", user="bo")
    memory.forget(record.id, user="ana")
    found = memory.changes(after=start, user="ana")
    assert [(change.id, change.version) for change in found][:2] == [(record.id, 1), (record.id, 0)]
    assert {change.scope.user for change in found} <= {"ana", None}
    assert memory.changes(after=found.next, user="ana") == []


def test_an_export_is_restored_as_it_was(memory: Any, tmp_path: Path) -> None:
    kept = memory.remember(TALK, session="kitchen", user="ana")
    memory.revise(kept[0].id, text="I am allergic to hazelnuts", user="ana")
    before = memory.versions(user="ana")
    path = memory.export(tmp_path / "all.jsonl", user="ana")
    assert os.name == "nt" or not path.stat().st_mode & 0o077  # what was said is its owner's alone
    records = list(exports.read(path))
    assert sorted(records, key=lambda r: (r.id, r.version)) == list(before)
    memory.forget(everything=True)
    assert memory.restore(records) == len(records)
    assert memory.versions(user="ana") == before
    assert memory.restore(records) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda memory: memory.remember("  "),
        lambda memory: memory.remember("lone \ud800"),
        lambda memory: memory.remember("x", user="*"),
        lambda memory: memory.remember("x", at=datetime(2026, 1, 1)),
        lambda memory: memory.remember("x", at="yesterday"),
        lambda memory: memory.remember("x", bogus=1),
        lambda memory: memory.remember("x", importance=11),
        lambda memory: memory.remember([]),
        lambda memory: memory.remember({"role": "boss", "content": "x"}),
        lambda memory: memory.remember("x", metadata={"x": float("nan")}),
        lambda memory: memory.recall("x", limit=0),
        lambda memory: memory.recall("x", effort="huge"),
        lambda memory: memory.recall("x", user=""),
        lambda memory: memory.find(kinds=["nothing"]),
        lambda memory: memory.find(labels=[]),
        lambda memory: memory.forget(),
        lambda memory: memory.context("x", budget=0),
        lambda memory: memory.changes(after=-1),
    ],
)
def test_what_is_wrong_is_the_same_error(memory: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(Invalid):
        call(memory)


def test_what_is_not_there_is_not_found(memory: Any) -> None:
    for call in (memory.get, memory.history, memory.messages, memory.retract, memory.forget, memory.organise):
        with pytest.raises(NotFound):
            call("nothing")


def test_concurrent_callers_lose_nothing(memory: Any) -> None:
    threads = [
        threading.Thread(target=lambda n=n: [memory.remember(f"note {n}-{m}", user="ana") for m in range(5)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.count(user="ana") == 40


# -- what only a server can do ------------------------------------------------------------------------------------


def test_the_address_may_be_that_of_the_api(served: Callable[[], Served]) -> None:
    with RemoteMemory(f"{served().url}/api/v1/", user="nobody yet") as memory:
        assert memory.count(shared=False) == 0


def test_nobody_at_the_address_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simonides.remote.WAIT_S", (0.0, 0.0))
    with RemoteMemory("http://127.0.0.1:9") as memory, pytest.raises(Unavailable, match=r"does not answer.*run there"):
        memory.recall("x")
    with pytest.raises(Invalid):
        RemoteMemory("127.0.0.1:40020")


def test_the_levels_of_a_remote_memory_go_with_every_call(served: Callable[[], Served]) -> None:
    url = served().url
    with RemoteMemory(url, user="ana") as ana, RemoteMemory(url, user="bo") as bo:
        record = ana.remember("mine alone")
        assert record.scope.user == "ana"
        with pytest.raises(NotFound):
            bo.get(record.id)
        assert ana.stats()["records"] == 1 and bo.stats()["records"] == 0


async def test_events_come_as_they_happen_and_go_on_where_they_were_left(served: Callable[[], Served]) -> None:
    url = served().url
    async with AsyncRemoteMemory(url) as memory:
        first = await memory.remember("before")
        events = memory.events(after=0)
        assert (await asyncio.wait_for(anext(events), 10)).id == first.id
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        second = await memory.remember("meanwhile")
        change = await asyncio.wait_for(waiting, 10)
        assert change.id == second.id
        await events.aclose()
        again = memory.events(after=change.seq - 1)
        assert (await asyncio.wait_for(anext(again), 10)).id == second.id
        await again.aclose()


async def test_a_write_whose_answer_was_lost_is_tried_again_and_done_once(served: Callable[[], Served]) -> None:
    import httpx

    class Losing(httpx.AsyncHTTPTransport):
        lost = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.method == "POST" and self.lost < 2:
                self.lost += 1
                await response.aread()
                raise httpx.ReadError("the answer is lost")
            return response

    transport = Losing()
    async with AsyncRemoteMemory(served().url, transport=transport) as memory:
        await memory.remember("only once", user="ana")
        assert transport.lost == 2
        assert await memory.count(user="ana") == 1


def test_the_errors_of_the_tree_cross_the_wire() -> None:
    from simonides.remote import _KINDS
    from simonides.servers.problems import STATUS

    assert set(STATUS) | {"error"} == set(_KINDS)
    assert all(issubclass(kind, SimonidesError) for kind in _KINDS.values())


def test_who_calls_where_nobody_listens_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    begun = time.monotonic()
    with RemoteMemory(f"http://127.0.0.1:{port}") as memory, pytest.raises(Unavailable, match="simonides serve"):
        memory.count()
    assert time.monotonic() - begun < 2
