"""What is wrong in a database is complained of, with what to do; and what a complaint says to do mends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from simonides import AsyncMemory
from simonides.errors import Damaged
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope, now
from simonides.store import Batch
from simonides.stores import sqlite
from simonides.testing.stores.steps import embedded, unit

HERE = Scope()
NOTES = [Record(scope=HERE, id=f"{n}", body=Note(text=f"note {n}")) for n in range(3)]
GONE = "DELETE FROM records WHERE id = '1'"
ASTRAY = {
    "vectors without a record": (GONE, "2 vectors belong to no record"),
    "tokens without a record": (GONE, "the tokens of 2 versions belong to no record"),
    "tokens of no row": ("INSERT INTO tokens VALUES ((1 << 40) + 99, x'0808')", "the tokens of 1 version"),
    "tokens of a model that is gone": ("INSERT INTO tokens VALUES ((9 << 40) + 1, x'0808')", "the tokens of 1 version"),
    "tokens without vectors": ("DELETE FROM vectors WHERE vector >> 32 = 2 AND row = 1", "the tokens of 1 version"),
    "words without a record": (GONE, "words of 1 versions that are gone"),
    "a recall without a record": ("INSERT INTO recalls VALUES (99, 1)", "1 notes of a last recall"),
    "a realm that is miscounted": ("UPDATE realms SET versions = 99", "1 realms are miscounted"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "me.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[sqlite.SqliteStore]:
    store = sqlite.open(f"sqlite:///{path}")
    models = (("small", unit(1, 0)), ("large", unit(1, 2, 3)))
    embeddings = [embedded(note, vector, model=model, tokens=b"\x08") for note in NOTES for model, vector in models]
    await store.commit(Batch(put=tuple(NOTES), embeddings=tuple(embeddings)))
    yield store
    await store.close()


@pytest.mark.parametrize("astray", ASTRAY)
async def test_what_belongs_to_nothing_is_complained_of_and_a_rebuild_removes_it(
    astray: str, store: sqlite.SqliteStore, path: Path
) -> None:
    assert (await store.check()).complaints == ()
    damage, complaint = ASTRAY[astray]
    apsw.Connection(str(path)).execute(damage)
    [found] = [said for said in (await store.check()).complaints if said.startswith(complaint)]
    assert found.endswith("run `simonides rebuild`")
    await store.rebuild()
    assert (await store.check()).complaints == ()


async def test_a_rebuild_keeps_what_belongs_to_a_record(store: sqlite.SqliteStore, path: Path) -> None:
    apsw.Connection(str(path)).execute(GONE)
    await store.rebuild()
    assert [record.id for record in await store.find(Query(scope=HERE))] == ["0", "2"]
    for model in ("small", "large"):
        assert await store.tokens(HERE, model, [("0", 1), ("1", 1), ("2", 1)]) == [b"\x08", b"", b"\x08"]
        assert [slot for slot, _ in await store.vectors(HERE, model, start=0, limit=9)] == [0, 2]
        extent = await store.extent(HERE, model)
        assert (extent.slots, extent.holes, await store.holes(HERE, model, after=0)) == (3, 1, [1])
    assert await store.models() == {"small": 2, "large": 2}


async def test_a_file_that_is_not_as_it_was_made_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with AsyncMemory(path, embedder="none") as memory:
        kept = await memory.remember("something")
        apsw.Connection(str(path)).execute("DROP TABLE recalls")
        store = await memory._ready()
        for call in (store.recalled({kept.ref: now()}), store.recalls(kept.scope, [kept.id])):
            with pytest.raises(Damaged, match="no such table"):
                await call
