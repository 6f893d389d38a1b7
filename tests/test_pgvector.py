"""What pgvector promises beside the suite: of its tables, of several processes, of a server that goes and comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from engines import Machine, Postgres

from simonides import Invalid, Unavailable
from simonides.indexes import exact, pgvector
from simonides.indexes.pgvector import PgvectorIndex
from simonides.query import Query
from simonides.record import Scope
from simonides.store import Batch, Embedding, Store
from simonides.stores import sqlite
from simonides.testing.indexes import DIMENSION, MODEL, direction, directions, near_ids, remember, remember_all
from simonides.testing.records import ANA, OTHER, every, said

ROWS = 300


class Home:
    """A store in a file with some records, and the schema where its index is."""

    def __init__(self, server: Postgres, url: str) -> None:
        self.server, self.url, self.schema = server, url, f"near_{secrets.token_hex(8)}"
        self.store: Store = sqlite.open(url)
        self.records = [said(str(n)) for n in range(ROWS)]
        self.vectors = directions(ROWS)

    def index_url(self, **options: Any) -> str:
        more = "&".join(f"{name}={value}" for name, value in ({"schema": self.schema} | options).items())
        return f"pgvector{self.server.url().removeprefix('postgresql')}?{more}"

    def open(self, model: str = MODEL, **options: Any) -> PgvectorIndex:
        return PgvectorIndex(self.index_url(**({"small": 0} | options)), self.store, model, DIMENSION)

    async def expect(self, index: PgvectorIndex, count: int = 10) -> None:
        """Assert that the index answers as the exact one does, and finds nothing wrong with itself."""
        truth = exact.open("exact:", self.store, MODEL, DIMENSION)
        for vector in self.vectors[:5]:
            found, expected = await index.near(every(ANA), vector, count), await truth.near(every(ANA), vector, count)
            assert [record for record, _ in found] == [record for record, _ in expected]
            assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)
        assert await index.check() == []

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.server.url(), autocommit=True) as db:
            await db.execute(f'SET search_path TO "{self.schema}", public'.encode())
            found = await db.execute(statement.encode(), values)
            return await found.fetchall() if found.description else []

    async def lot(self) -> tuple[int, bool, bool, int, int]:
        [lot] = await self.sql("SELECT lot, own, graph, filled, holes FROM lots WHERE model = %s", MODEL)
        return tuple(lot)  # type: ignore[return-value]


@pytest.fixture
async def home(postgres: Postgres, tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(postgres, f"sqlite:///{tmp_path}/m.db")
    await remember_all(made.store, made.records, made.vectors)
    yield made
    await made.store.close()


async def test_what_can_be_held_in_memory_asks_no_server(home: Home) -> None:
    index = PgvectorIndex("pgvector://nobody@127.0.0.1:1/none", home.store, MODEL, DIMENSION)
    truth = exact.open("exact:", home.store, MODEL, DIMENSION)
    assert await near_ids(index, Query(scope=ANA), home.vectors[0]) == await near_ids(
        truth, Query(scope=ANA), home.vectors[0]
    )
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/none"):
        await index.catch_up(ANA)  # something erased may be there
    await index.close()


async def test_a_group_that_grows_gets_a_table_and_a_graph_of_its_own(home: Home) -> None:
    index = home.open(exact=400)
    await index.catch_up(ANA)
    first, own, graph, filled, _ = await home.lot()
    assert (own, graph, filled) == (False, False, ROWS)
    await remember_all(home.store, [said(f"more {n}") for n in range(200)], directions(200, seed=1))
    await index.catch_up(ANA)
    second, own, graph, filled, _ = await home.lot()
    assert second != first
    assert (own, graph, filled) == (True, True, 500)
    assert await home.sql(f"SELECT count(*) FROM vectors_{DIMENSION}") == [(0,)]
    await home.expect(index)
    await index.close()


async def test_a_graph_is_built_behind_a_question_and_anew_when_the_group_doubles(home: Home) -> None:
    index = home.open(exact=100)
    await home.expect(index)
    await asyncio.gather(*index._behind.values())
    _, _, graph, *_ = await home.lot()
    assert graph
    await remember_all(home.store, [said(f"more {n}") for n in range(400)], directions(400, seed=1))
    await near_ids(index, Query(scope=ANA), home.vectors[0])
    await asyncio.gather(*index._behind.values())
    assert (await home.lot())[2:4] == (True, 700)
    await home.expect(index)
    await index.close()


@pytest.mark.parametrize("erased", [range(20), (5,), (0, 17, 133, 298), (299,)])
async def test_what_is_erased_is_in_no_row_and_in_no_byte_of_the_graph(home: Home, erased: Sequence[int]) -> None:
    index = home.open(exact=100)
    await index.catch_up(ANA)
    number, *_ = await home.lot()
    await home.store.commit(Batch(erase=tuple(home.records[n].ref for n in erased)))
    [complaint] = await index.check()
    assert f"{len(erased)} rows of erased vectors" in complaint and "`simonides rebuild`" in complaint
    await index.catch_up(ANA)
    kept = {slot for (slot,) in await home.sql(f"SELECT slot FROM lot_{number}")}
    assert kept == set(range(ROWS)) - set(erased)
    await home.sql("CHECKPOINT")
    [[path]] = await home.sql("SELECT pg_relation_filepath(%s)", f"lot_{number}_graph")
    written = (home.server.data / path).read_bytes()
    assert _halves(home.vectors[30]) in written
    assert [n for n in erased if _halves(home.vectors[n]) in written] == []
    await home.expect(index)
    await index.close()


async def test_what_is_erased_is_in_no_row_of_the_small_groups(home: Home) -> None:
    index = home.open()
    await index.catch_up(ANA)
    await home.store.commit(Batch(erase=(home.records[5].ref,)))
    await index.catch_up(ANA)
    assert await home.sql(f"SELECT slot FROM vectors_{DIMENSION} WHERE slot IN (4, 5, 6) ORDER BY slot") == [(4,), (6,)]
    await home.expect(index)
    await index.close()


def _halves(vector: Any) -> bytes:
    return np.asarray(vector, "<f2").tobytes()


async def test_two_stores_and_two_models_share_a_schema(home: Home, tmp_path: Path) -> None:
    other = sqlite.open(f"sqlite:///{tmp_path}/other.db")
    theirs = await remember(other, said("theirs"), direction(1))
    one, two = home.open(), PgvectorIndex(home.index_url(small=0), other, MODEL, DIMENSION)
    await remember(home.store, said("elsewhere", OTHER), direction(1))
    assert await near_ids(two, Query(scope=ANA), direction(1)) == [theirs.id]
    await home.expect(one)
    assert await one.rebuild() == ROWS + 1
    assert await two.check() == []
    assert await near_ids(two, Query(scope=ANA), direction(1)) == [theirs.id]
    for index in (one, two):
        await index.close()
    await other.close()


async def test_the_rows_of_a_dropped_model_go(home: Home) -> None:
    embeddings = [Embedding(record.ref, 1, "old", direction(1)[None]) for record in home.records]
    await home.store.commit(Batch(embeddings=tuple(embeddings)))
    old, new = home.open("old"), home.open()
    await old.catch_up(ANA)
    await home.store.drop_model("old")
    assert "left over" in (await new.check())[0]
    await new.catch_up(ANA)
    assert await home.sql("SELECT model FROM lots") == [(MODEL,)]
    await home.expect(new)
    for index in (old, new):
        await index.close()


@pytest.mark.parametrize("exact_max", [100, 1000])
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE {table} SET v = (SELECT v FROM {table} WHERE slot = 7 AND {where}) WHERE {where}",
        "DELETE FROM {table} WHERE {where}",
        "UPDATE lots SET number = number + 1",
        "UPDATE lots SET filled = filled + 9",
        "UPDATE lots SET holes = 9",
        "DELETE FROM lots",
    ],
)
async def test_whatever_is_damaged_is_made_again(home: Home, damage: str, exact_max: int) -> None:
    first = home.open(exact=exact_max)
    await first.catch_up(ANA)
    await first.close()
    number, own, *_ = await home.lot()
    where, table = ("true", f"lot_{number}") if own else (f"lot = {number}", f"vectors_{DIMENSION}")
    await home.sql(damage.format(table=table, where=where))
    index = home.open(exact=exact_max)
    await home.expect(index)
    await index.close()


async def test_rows_that_were_moved_by_another_are_found_where_they_are(home: Home) -> None:
    index, other = home.open(exact=1000), home.open(exact=1000)
    await home.expect(index)
    await other.rebuild()
    await home.expect(index)
    mover = home.open(exact=100)
    await remember(home.store, said("one more"), direction(1))
    await mover.catch_up(ANA)
    assert (await home.lot())[1:3] == (True, True)
    await home.expect(index)
    for each in (index, other, mover):
        await each.close()


async def test_who_asks_while_others_write_takes_nothing_away(home: Home) -> None:
    """What is kept may reach further than the store did when the question began."""
    index, other = home.open(exact=100), home.open(exact=100)
    await index.catch_up(ANA)
    before, (number, *_) = await home.store.extent(ANA, MODEL), await home.lot()
    await home.store.commit(Batch(erase=(home.records[5].ref,)))
    await remember_all(home.store, [said(f"more {n}") for n in range(9)], directions(9, seed=1))
    await other.catch_up(ANA)
    assert (await home.lot())[3:] == (ROWS + 9, 1)
    late = home.open(exact=100)
    assert await late._lot(ANA, before) is not None
    await index._filled(ANA, before, wait=True)
    assert (await home.lot())[0] == number
    for each in (index, other, late):
        await home.expect(each)
        await each.close()


CHILD = """
import asyncio, json, sys
from simonides.indexes import pgvector
from simonides.query import Query
from simonides.stores import sqlite
from simonides.testing.indexes import DIMENSION, MODEL, directions
from simonides.testing.records import ANA

async def main():
    store = sqlite.open(sys.argv[1])
    index = pgvector.open(sys.argv[2], store, MODEL, DIMENSION)
    print("ready", flush=True)
    sys.stdin.readline()
    await index.catch_up(ANA)
    near = await index.near(Query(scope=ANA), directions(1)[0], 10)
    print(json.dumps([(record.id, cosine) for record, cosine in near]), flush=True)
    await index.close()
    await store.close()

asyncio.run(main())
"""


async def test_several_processes_catch_up_at_once(home: Home) -> None:
    command = [sys.executable, "-c", CHILD, home.url, home.index_url(small=0, exact=100)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for child in children:
            assert child.stdout and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin
            child.stdin.write("\n")
            child.stdin.flush()
        answers = [(await asyncio.to_thread(child.communicate))[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    index = home.open(exact=100)
    found = [(record.id, cosine) for record, cosine in await index.near(Query(scope=ANA), home.vectors[0], 10)]
    assert [[tuple(hit) for hit in json.loads(answer)] for answer in answers] == [found] * 3
    assert (await home.lot())[1:] == (True, True, ROWS, 0)
    await home.expect(index)
    await index.close()


async def test_a_server_that_is_killed_and_comes_back_costs_no_answer(
    engines: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simonides.postgresql.WAIT_S", 3.0)
    server = engines.postgres()
    home = Home(server, f"sqlite:///{tmp_path}/m.db")
    await remember_all(home.store, home.records, home.vectors)
    index = home.open(exact=100)
    await index.catch_up(ANA)
    server.kill()
    server.start()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable):
                await home.expect(index)
                break
    filling = asyncio.create_task(index.rebuild())
    await asyncio.sleep(0.05)
    server.kill()
    with pytest.raises(Unavailable):
        await filling
        while True:  # its processes see one after another that it is gone
            await index.rebuild()
    server.start()
    async with asyncio.timeout(60):  # its pool looks for it again after pauses that grow
        while True:
            with contextlib.suppress(Unavailable):
                await index.catch_up(ANA)
                break
    await home.expect(index)
    await index.close()
    await home.store.close()
    server.kill()


async def test_a_database_without_the_extension_says_what_to_do(home: Home) -> None:
    name = f"plain_{secrets.token_hex(4)}"
    await home.sql(f"CREATE DATABASE {name}")
    await home.sql(f"CREATE ROLE {name}_role LOGIN")
    url = f"pgvector://{name}_role@127.0.0.1:{home.server.port}/{name}?small=0"
    index = PgvectorIndex(url, home.store, MODEL, DIMENSION)
    with pytest.raises(Unavailable, match=f"{name}_role may not .*CREATE EXTENSION vector there as a superuser"):
        await index.near(Query(scope=ANA), home.vectors[0], 1)
    async with await psycopg.AsyncConnection.connect(home.server.url(name), autocommit=True) as db:
        await db.execute(b"CREATE SCHEMA elsewhere; CREATE EXTENSION vector SCHEMA elsewhere")
        await db.execute(
            f"GRANT CREATE ON DATABASE {name} TO {name}_role; GRANT USAGE ON SCHEMA elsewhere TO PUBLIC".encode()
        )
    assert await index.near(Query(scope=ANA), home.vectors[0], 1)  # as soon as it is there, wherever that is
    await index.close()


async def test_a_schema_of_another_program_is_not_touched(home: Home) -> None:
    await home.sql(f'CREATE SCHEMA "{home.schema}"')
    await home.sql("CREATE TABLE lots (mine text)")
    index = home.open()
    with pytest.raises(Invalid, match="another program"):
        await index.near(Query(scope=ANA), home.vectors[0], 1)
    await index.close()


@pytest.mark.parametrize("options", ["small=-1", "ef=x", "ef=0", "m=1", "ef_construction=10", "smal=1", "schema=pg_x"])
def test_what_the_url_says_must_make_sense(options: str) -> None:
    with pytest.raises(Invalid):
        pgvector.open(f"pgvector://me:secret@db/memory?{options}", None, MODEL, DIMENSION)  # type: ignore[arg-type]


# -- many vectors ----------------------------------------------------------------------------------------------------

MANY, WIDE = 6000, 96
PLANT = Scope(tenant="plant")


def clustered(count: int, seed: int) -> Any:
    """Return unit vectors in 100 clusters of unequal size, shape (count, 96)."""
    centres = np.random.default_rng(0).standard_normal((100, WIDE), np.float32)
    shares, rng = 1 / np.arange(1, 101), np.random.default_rng(seed)
    vectors = centres[rng.choice(100, count, p=shares / shares.sum())]
    vectors = vectors + 0.8 * rng.standard_normal((count, WIDE), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def test_of_many_vectors_next_to_none_is_missed_and_no_filter_hides_any(home: Home) -> None:
    vectors, asked = clustered(MANY, 1), clustered(20, 2)
    labels = [("tenth",) * (n % 10 == 0) + ("rare",) * (n % 900 == 5) for n in range(MANY)]
    records = [said("n", PLANT, id=f"{n:05}", labels=labels[n]) for n in range(MANY)]
    await remember_all(home.store, records, vectors)
    index = PgvectorIndex(home.index_url(exact=500), home.store, MODEL, WIDE)
    await index.catch_up(PLANT)
    [[table]] = await home.sql("SELECT 'lot_' || lot FROM lots")
    walk = f"SELECT slot FROM {table} ORDER BY v <#> (SELECT v FROM {table} WHERE slot = 1) LIMIT 22"
    assert f"{table}_graph" in str(await home.sql(f"EXPLAIN {walk}"))
    few, tenth = [f"{n:05}" for n in range(5, MANY, 900)], np.arange(0, MANY, 10)
    for query, at in ((Query(scope=PLANT), np.arange(MANY)), (_labelled("tenth"), tenth)):
        found = 0
        for vector in asked:
            best = at[np.argsort(vectors[at] @ vector)[-10:]]
            found += len({f"{n:05}" for n in best} & set(await near_ids(index, query, vector)))
        assert found >= 0.95 * 10 * len(asked)
    assert sorted(await near_ids(index, _labelled("rare"), asked[0], 50)) == few
    assert sorted(await near_ids(index, _labelled("tenth"), asked[0], 10**6)) == [f"{n:05}" for n in tenth]
    assert len(await near_ids(index, _labelled("tenth"), asked[0], 400)) == 400
    assert sorted(await near_ids(index, every(PLANT, ids=frozenset(few[:2])), asked[0])) == few[:2]
    await index.close()


def _labelled(label: str) -> Query:
    return Query(scope=PLANT, labels=frozenset({label}))
