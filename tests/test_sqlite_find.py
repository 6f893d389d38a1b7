"""How SQLite goes about finding: by what few records have, and never through the whole realm for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simonides import words as language
from simonides.kinds import Conversation, Note
from simonides.query import Query
from simonides.record import Link, Record, Ref, Scope
from simonides.store import Batch, Embedding
from simonides.stores import sqlite

HERE = Scope()
ANA, BO, BOS_DRONE = Scope(user="ana"), Scope(user="bo"), Scope(user="bo", agent="drone")
FRIDAY, ANAS_FRIDAY = Scope(session="friday"), Scope(user="ana", session="friday")
SCOUT, SCOUTS_FRIDAY = Scope(agent="scout"), Scope(agent="scout", session="friday")
LEVELS = ("user", "agent", "session")
TALKS = frozenset({"conversation"})
NAMED: dict[str, dict[str, Any]] = {
    "id": {"ids": frozenset({"7", "8"})},
    "key": {"kinds": TALKS, "keys": frozenset({"trip"})},
    "part": {"part_of": frozenset({"trip", "work"})},
    "link": {"linked": ("about", frozenset({"0"}))},
    "label": {"labels": frozenset({"rare"})},
    "folder": {"folder": "attic"},
}
WHOSE = {"user": ANA, "agent": SCOUT, "session": FRIDAY, "both": ANAS_FRIDAY}
FEW: dict[str, Any] = {"labels": ("rare",), "folder": "attic", "part_of": "trip", "links": (Link("about", "0"),)}
NOTES = [
    Record(
        scope={3: HERE, 7: ANAS_FRIDAY, 9: ANA, 11: SCOUT, 12: SCOUTS_FRIDAY}.get(n, BOS_DRONE),
        id=f"{n}",
        body=Conversation(text="n", session="trip") if n == 8 else Note(text="n"),
        pinned=n % 7 == 0,
        **(FEW if n == 7 else {}),
    )
    for n in range(20)
]


async def filled() -> sqlite.SqliteStore:
    store = sqlite.open()
    await store.commit(Batch(put=tuple(NOTES)))
    vectors = np.ones((1, 4), np.float32)
    of = (Embedding(ref=Ref("default", "main", note.id), version=1, model="m", vectors=vectors) for note in NOTES)
    await store.commit(Batch(embeddings=tuple(of)))
    return store


async def planned(store: sqlite.SqliteStore, asked: Awaitable[Any]) -> tuple[Any, str]:
    """Return the answer, and how SQLite went about the last statement for it."""
    ran = list[tuple[str, Any]]()

    def note(_: Any, sql: str, values: Any) -> bool:
        ran.append((sql, values))
        return True

    def trace(db: Any) -> None:
        db.exec_trace = note

    def plan(db: Any) -> str:
        db.exec_trace = None
        return " ".join(step[3] for step in db.execute(f"EXPLAIN QUERY PLAN {ran[-1][0]}", ran[-1][1]))

    await store._read(trace)
    found = await asked
    return found, await store._read(plan)


def meant(query: Query) -> list[str]:
    """Return the ids of what matches, in the order asked for; one commit is one time, so that the id decides."""
    return sorted((note.id for note in NOTES if query.matches(note)), reverse=query.newest)


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("scope", [HERE, ANA, ANAS_FRIDAY])
@pytest.mark.parametrize("name", NAMED)
async def test_what_few_records_have_is_not_looked_for_in_all(name: str, scope: Scope, newest: bool) -> None:
    store = await filled()
    query = Query(scope=scope, newest=newest, **NAMED[name])
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert "(realm=?)" not in steps
    assert not any(f"records_{level}" in steps for level in LEVELS)
    assert "SCAN r" not in steps
    await store.close()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kinds", [None, frozenset({"note"})])
@pytest.mark.parametrize("whose", WHOSE)
async def test_whose_the_newest_are_is_read_in_their_order(
    whose: str, kinds: frozenset[str] | None, shared: bool
) -> None:
    store = await filled()
    query = Query(scope=WHOSE[whose], shared=shared, kinds=kinds, newest=True)
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert "(realm=?)" not in steps
    assert sum(steps.count(f"records_{level}") for level in LEVELS) == (2 if shared else 1)
    assert steps.count("TEMP B-TREE") == steps.count("TEMP B-TREE FOR LAST TERM")  # the versions of one record
    await store.close()


@pytest.mark.parametrize(("scope", "level"), [(ANAS_FRIDAY, "user"), (SCOUTS_FRIDAY, "agent")])
async def test_where_many_bear_no_session_a_session_is_read_with_whose_it_is(
    scope: Scope, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "FEW", 3)
    store = await filled()
    query = Query(scope=scope, newest=True)
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert (steps.count("records_session"), steps.count(f"records_{level}")) == (1, 2)
    await store.close()


@pytest.mark.parametrize("whose", ["user", "both"])
async def test_whose_pins_are_few_among_everybodys(whose: str) -> None:
    store = await filled()
    query = Query(scope=WHOSE[whose], pinned=True, newest=True)
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert steps.count("records_user_pinned (realm=? AND user=?)") == 2
    await store.close()


@pytest.mark.parametrize("whose", WHOSE)
async def test_what_is_somebodys_is_not_looked_for_in_all(whose: str) -> None:
    store = await filled()
    query = Query(scope=WHOSE[whose])
    found, by_id = await planned(store, store.find(query))
    count, counted = await planned(store, store.count(query))
    slots, by_slot = await planned(store, store.slots(query, "m"))
    assert [record.id for record in found] == meant(query)
    assert count == len(slots) == len(found)
    level = "user" if whose == "both" else whose
    assert all(f"records_{level} (realm=? AND {level}=?)" in steps for steps in (by_id, counted, by_slot))
    await store.close()


async def test_whoever_has_less_is_gone_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "NARROW", 9)
    store = await filled()
    query = Query(scope=Scope(user="bo", agent="scout"))
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert "records_agent (realm=? AND agent=?)" in steps
    await store.close()


async def test_what_is_of_a_session_alone_is_looked_for_there() -> None:
    store = await filled()
    query = Query(scope=ANAS_FRIDAY, shared=False)
    found, by_id = await planned(store, store.find(query))
    count, counted = await planned(store, store.count(query))
    assert [record.id for record in found] == meant(query) == ["7"]
    assert count == 1
    assert "records_session (realm=? AND session=?)" in by_id
    assert "records_session (realm=? AND session=?)" in counted
    await store.close()


async def test_who_has_very_many_by_id_is_read_in_that_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "NARROW", 2)
    store = await filled()
    query = Query(scope=BO)
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert "records_id" in steps
    assert "TEMP B-TREE" not in steps
    await store.close()


@pytest.mark.parametrize(
    ("scope", "narrow", "way"), [(HERE, 9, "talk"), (ANA, 9, "user"), (BO, 9, "talk"), (SCOUT, 9, "agent")]
)
async def test_conversations_are_listed_by_what_is_less(
    scope: Scope, narrow: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "NARROW", narrow)
    store = await filled()
    query = Query(scope=scope, kinds=TALKS, newest=True)
    found, steps = await planned(store, store.find(query))
    assert [record.id for record in found] == meant(query)
    assert f"records_{way}" in steps
    await store.close()


async def test_how_far_vectors_reach_is_read_again_only_after_a_commit_of_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unread(work: Any) -> None:
        raise AssertionError("nobody has written since it was read")

    mine, theirs = (sqlite.open(f"sqlite:///{tmp_path}/me.db") for _ in range(2))
    vectors = np.ones((1, 4), np.float32)
    for count, note in enumerate(NOTES[:3], 1):
        embedding = Embedding(ref=Ref("default", "main", note.id), version=1, model="m", vectors=vectors)
        await theirs.commit(Batch(put=(note,), embeddings=(embedding,)))
        assert (await mine.extent(HERE, "m")).slots == count
        assert (await mine.extent(HERE, "other")).slots == 0
        with monkeypatch.context() as patched:
            patched.setattr(mine, "_read", unread)
            assert (await mine.extent(HERE, "m")).slots == count
    assert (await mine.extent(Scope(space="else"), "m")).slots == 0
    for store in (mine, theirs):
        await store.close()


async def test_how_common_words_are_is_told_at_once_where_nobody_has_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unread(work: Any) -> None:
        raise AssertionError("it is known")

    mine, theirs = (sqlite.open(f"sqlite:///{tmp_path}/me.db") for _ in range(2))
    [term] = language.terms("ferry")
    for count in range(1, 4):
        await theirs.commit(Batch(put=(Record(scope=HERE, body=Note(text="the ferry")),)))
        assert (await mine.spread(HERE, [term]))[0] == count
        with monkeypatch.context() as patched:
            patched.setattr(mine, "_read", unread)
            versions, frequencies = await mine.spread(HERE, [term])
            assert (versions, list(frequencies)) == (count, [term])
            with pytest.raises(AssertionError, match="it is known"):
                await mine.spread(HERE, [term, "unmet"])
    assert await mine.spread(Scope(space="else"), [term]) == (0, {term: 0})
    for store in (mine, theirs):
        await store.close()


async def test_it_says_how_many_connections_are_at_work(tmp_path: Path) -> None:
    store = sqlite.open(f"sqlite:///{tmp_path}/m.db")
    assert store.connections == (0, 0)
    await store.find(Query(scope=HERE, limit=1))
    assert store.connections == (0, 1)
    looking = asyncio.create_task(store.find(Query(scope=HERE, limit=1)))
    await asyncio.sleep(0)
    assert sum(store.connections) >= 1 and store.connections[0] == 1
    await looking
    await store.close()
