"""What is remembered by a caller who waits is embedded before it is written, and written together with its vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors import house
from numpy.typing import NDArray

from simonides import AsyncMemory, Conflict, Unavailable, passes
from simonides.derivers import vectors
from simonides.embedders import hashing
from simonides.record import NEVER, Scope
from simonides.store import Batch, Cursor, Lines, Store
from simonides.testing.records import every

HERE = Scope()
Make = Callable[[], Store]


class Counting(hashing.HashingEmbedder):
    """Notes what it embeds. `fails` is raised in place of that, `slow` seconds are taken for it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fails: Exception | None = None
        self.slow = 0.0
        self.shape = slice(None)

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        self.texts += texts if not query else []
        await asyncio.sleep(self.slow)
        if self.fails:
            raise self.fails
        return (await super().embed(texts, query=query))[:, self.shape]


@pytest.fixture
def embedder() -> Counting:
    return Counting()


class Watched:
    """The commits of a memory's store."""

    def __init__(self, memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch) -> None:
        assert memory._engine is not None
        self.store = memory._engine.store
        self.batches: list[Batch] = []
        self.cursors: list[Cursor] = []
        commit = self.store.commit

        async def watched(batch: Batch, *, cursor: Cursor | None = None) -> Lines:
            self.batches.append(batch)
            self.cursors += [cursor] if cursor else []
            return await commit(batch, cursor=cursor)

        monkeypatch.setattr(self.store, "commit", watched)

    async def embedded(self) -> list[tuple[str, int]]:
        [model] = await self.store.models()
        return [(e.ref.id, e.version) for _, e in await self.store.embedded(HERE, model, start=0, limit=100)]

    async def is_followed(self) -> bool:
        [place] = (await self.store.cursors("vectors/")).values()
        return place == await self.store.head()


async def opened(memory: AsyncMemory, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Return the commits that come, after the first write of an opening, which begins with a pass."""
    await memory.remember("the bridge is out")
    await memory.settle()
    return Watched(memory, monkeypatch)


async def test_an_add_is_one_commit(home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        note = await memory.remember("the ferry goes")
        talk = await memory.remember([{"role": "user", "content": "where to?"}, {"role": "user", "content": "home"}])
        new = await memory.revise(note.id, text="the ferry goes at nine")
        assert [(len(batch.put), len(batch.embeddings)) for batch in seen.batches] == [(1, 1), (3, 3), (1, 1)]
        assert seen.cursors == [] and await seen.is_followed()
        there = await seen.embedded()
        assert {(note.id, 1), (new.id, 2), *((record.id, 1) for record in talk)} < set(there)
        assert len(there) == len(set(there)) == len(embedder.texts) == 6
        assert "near" in (await memory.recall("ferry at nine"))[0].by


async def test_vectors_made_ahead_are_those_that_a_pass_makes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, settled in (("ahead", True), ("later", False)):
        async with AsyncMemory(f"{name}.db", embedder="hashing:", settled=settled) as memory:
            seen = await opened(memory, monkeypatch)
            note = await memory.remember("the ferry goes", id="note")
            await memory.remember("the ferry went", at="2024-03-01", id="dated")
            said = {"role": "user", "content": "where to?", "name": "Bo", "at": "2024-05-06T07:08:09Z", "id": "said"}
            await memory.remember([said], user="ana")
            await memory.revise(note.id, labels=["harbour"])
            await memory.retract("dated")
            await memory.settle()
            assert any(batch.put and batch.embeddings for batch in seen.batches) is settled
            [model] = await seen.store.models()
            its = {
                (record.text, record.version, record.valid == NEVER): embedding.vectors.tobytes()
                for _, embedding in await seen.store.embedded(HERE, model, start=0, limit=100)
                for record in await seen.store.find(every(HERE, ids=frozenset({embedding.ref.id})))
                if record.version == embedding.version
            }
            found.append(its)
    assert found[0] == found[1] and len(found[0]) == 7


async def test_the_same_write_twice_is_embedded_once(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        for _ in range(2):
            await memory.remember("the ferry goes", id="ferry")
            await memory.remember("the ferry went", id="gone", at="2024-03-01")
        with pytest.raises(Conflict):
            await memory.remember("the ferry sank", id="gone", at="2024-03-01")
        assert len(embedder.texts) == 3 and not any("sank" in text for text in embedder.texts)
        assert len(await seen.embedded()) == 3 and await seen.is_followed()


async def test_what_is_refused_leaves_no_vectors(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        note = await memory.remember("the ferry goes")
        commit = seen.store.commit

        async def beaten(batch: Batch, *, cursor: Cursor | None = None) -> Lines:
            monkeypatch.setattr(seen.store, "commit", commit)
            await memory.revise(note.id, text="the ferry is gone")
            return await commit(batch, cursor=cursor)

        monkeypatch.setattr(seen.store, "commit", beaten)
        with pytest.raises(Conflict):
            await memory.revise(note.id, text="the ferry is late")
        assert len(await seen.embedded()) == 3 and await seen.is_followed()
        assert not any("late" in hit.record.text for hit in await memory.recall("the ferry is late"))


@pytest.mark.parametrize("error", [Unavailable("away"), OSError("broken pipe"), ValueError("a bug")])
async def test_a_write_is_kept_whatever_the_embedder_does(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        embedder.fails = error
        kept = asyncio.gather(memory.remember("the ferry goes"), return_exceptions=True)
        await kept
        assert [record.text for record in await memory.find()] == ["the ferry goes", "the bridge is out"]
        embedder.fails = None
        await memory.remember("the boat goes")
        await memory.replay_letters()
        assert len(await seen.embedded()) == 3 and await seen.is_followed()


async def test_vectors_that_the_store_refuses_lose_no_write(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        await opened(memory, monkeypatch)
        embedder.shape = slice(8)
        await asyncio.gather(memory.remember("the ferry goes"), return_exceptions=True)
        assert [record.text for record in await memory.find(limit=1)] == ["the ferry goes"]
        embedder.shape = slice(None)
        await memory.remember("the boat goes")
        assert "near" in (await memory.recall("the ferry goes"))[0].by


async def test_no_write_waits_long_for_an_embedder(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "AHEAD_S", 0.3)
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        embedder.slow = 1.0
        writing = asyncio.create_task(memory.remember("the ferry goes"))
        while not seen.batches:
            await asyncio.sleep(0.01)
        assert not writing.done() and not seen.batches[0].embeddings
        await writing
        assert await seen.is_followed()
        await memory.remember("the boat goes")  # not tried: it has been slow
        assert len([text for text in embedder.texts if "boat" in text]) == 1
        embedder.slow = 0.0
        for number in range(20):
            await memory.remember(f"the train number {number} goes")
        assert any(batch.put and batch.embeddings for batch in seen.batches)  # and is tried again once it is not


async def test_over_http_an_add_is_one_commit_unless_its_caller_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path / "m.db") as made, made.client() as client:
        seen = await opened(made.memory, monkeypatch)
        kept = await client.post("/api/v1/memories", json={"content": "the ferry goes"})
        assert (kept.status_code, kept.json()["indexed"]) == (201, True)
        [added] = seen.batches
        assert (len(added.put), len(added.embeddings)) == (1, 1)
        new = await client.patch(
            f"/api/v1/memories/{kept.json()['results'][0]['id']}", json={"text": "it goes at nine"}
        )
        assert (new.json()["indexed"], len(seen.batches[1].embeddings)) == (True, 1)
        await client.post("/api/v1/memories", params={"wait": "stored"}, json={"content": "the boat goes"})
        assert seen.batches[2].put and not seen.batches[2].embeddings


@pytest.mark.parametrize("how", ["settled", "work"])
async def test_who_does_not_wait_embeds_nothing(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "work":
        monkeypatch.setenv("SIMONIDES_WORK", "elsewhere")
        monkeypatch.setattr("simonides.passes.STILL_S", 0.0)
    async with AsyncMemory("me.db", embedder=embedder, settled=how == "work") as memory:
        seen = await opened(memory, monkeypatch)
        await memory.remember("the ferry goes")
        assert [(len(batch.put), batch.embeddings, batch.followed) for batch in seen.batches][:1] == [(1, (), ())]
        assert (how == "settled") or embedder.texts == []


async def test_what_others_wrote_is_followed_before_one_s_own(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory, AsyncMemory("me.db", embedder="none") as other:
        seen = await opened(memory, monkeypatch)
        await other.remember("the boat goes")
        await memory.remember("the ferry goes")
        assert await seen.is_followed() and len(await seen.embedded()) == 3
        await memory.remember("the train goes")
        assert await seen.is_followed() and len(await seen.embedded()) == 4


async def test_many_at_once_are_each_embedded_once(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        await asyncio.gather(*(memory.remember(f"the ferry number {n}", session="harbour") for n in range(30)))
        await memory.settle()
        there = await seen.embedded()
        assert len(there) == len(set(there)) == 32 and await seen.is_followed()
        assert len({text for text in embedder.texts if "number" in text}) == 30
        for seconds in (60.0, 0.0):  # a crowd is served by passes, as long as it lasts
            monkeypatch.setattr(passes, "CROWD_S", seconds)
            await memory.remember("one more")
            assert bool(seen.batches[-1].put) is not bool(seconds)
        assert await seen.is_followed()


async def test_what_would_bear_another_day_s_date_is_left_to_the_pass(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        late = datetime.now(UTC).replace(hour=23, minute=59)
        monkeypatch.setattr(vectors, "now", lambda: late)
        await memory.remember("the ferry goes")
        await memory.remember("the ferry went", at=late - timedelta(days=9))
        assert [bool(batch.embeddings) for batch in seen.batches if batch.put] == [False, True]
        assert await seen.is_followed() and len(await seen.embedded()) == 3


async def test_what_importers_made_is_embedded_ahead(
    home: Path, embedder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncMemory("me.db", embedder=embedder) as memory:
        seen = await opened(memory, monkeypatch)
        made: Any = [record async for record in _made(memory)]
        await memory.keep(made)
        assert [(len(batch.put), len(batch.embeddings)) for batch in seen.batches] == [(5, 5)]
        await memory.keep(made)
        assert len(embedder.texts) == 6 and await seen.is_followed()


async def _made(memory: AsyncMemory) -> Any:
    from simonides.kinds import Note
    from simonides.record import Record

    for number in range(5):
        yield Record(scope=HERE, id=f"made-{number}", body=Note(text=f"the boat number {number}"), source="import:x")
