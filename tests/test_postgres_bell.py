"""What one process writes to PostgreSQL wakes those who wait in others; whatever is lost on the way only slows them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
from engines import Postgres, Schemas

from simonides.errors import Invalid
from simonides.kinds import Note
from simonides.record import Record, Scope
from simonides.store import Batch, Cursor
from simonides.stores import postgres_bell
from simonides.stores.postgres import PostgresStore
from simonides.testing.records import said
from simonides.testing.stores.steps import SPRING, embedded, put
from simonides.worker import StoreSource

LONG_S = 60.0  # nobody here waits for so long
NEVER = (LONG_S, LONG_S)

Open = Callable[..., Awaitable[PostgresStore]]

WRITE = """
import asyncio, sys
from simonides.stores.postgres import PostgresStore
from simonides.testing.records import said
from simonides.testing.stores.steps import put

async def write():
    store = PostgresStore(sys.argv[1])
    await put(store, said("from elsewhere"))
    await store.close()

asyncio.run(write())
"""


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Return what opens a store, which is closed after the test."""
    stores: list[PostgresStore] = []

    async def make(url: str) -> PostgresStore:
        stores.append(await asyncio.to_thread(PostgresStore, url))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S / 2):
        while not true():
            await asyncio.sleep(0.005)


async def waits(store: PostgresStore, after: int) -> asyncio.Task[int]:
    """Return one who has begun to wait for more than so many lines."""
    waiting = asyncio.create_task(store.grown(after, LONG_S))
    await asyncio.sleep(0.02)
    return waiting


async def hears(store: PostgresStore, after: int) -> asyncio.Task[int]:
    """Return one who waits and has heard that notifications come; from now on a look of his own is a minute away."""
    waiting = await waits(store, after)
    await until(lambda: is_told(store))
    store._growth.stir()  # who waited before that looks, and then begins to wait for so long
    await asyncio.sleep(0.05)
    return waiting


def is_told(store: PostgresStore) -> bool:
    return store._growth.look_s == postgres_bell.TOLD_S


async def soon(waiting: asyncio.Task[int]) -> int:
    return await asyncio.wait_for(waiting, LONG_S / 2)


def listening(postgres: Postgres, schema: str) -> list[int]:
    """Return the backends that listen."""
    sql = f"SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN \"{schema}\"'"
    return [pid for (pid,) in postgres.sql(sql)]


def schema_of(store: PostgresStore) -> str:
    return store._address.schema


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears what is written does not look by himself."""
    monkeypatch.setattr(postgres_bell, "TOLD_S", NEVER)


@pytest.mark.usefixtures("only_told")
async def test_what_another_process_writes_wakes_who_waits(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store = await opened(url)
    waiting = [await hears(store, 0), await hears(store, 0)]
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", WRITE, url], check=True)
    assert [await soon(each) for each in waiting] == [1, 1]


@pytest.mark.usefixtures("only_told")
async def test_each_of_many_writes_wakes_who_waits(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    reader, writer = await opened(url), await opened(url)
    await soon_cancelled(await hears(reader, 0))
    for n in range(5):
        waiting = await waits(reader, n)
        await put(writer, said(f"number {n}"))
        assert await soon(waiting) == n + 1


async def soon_cancelled(waiting: asyncio.Task[int]) -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.usefixtures("only_told")
async def test_a_worker_is_woken_by_what_others_write(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store, writer = await opened(url), await opened(url)
    source = StoreSource(store, "reader")
    await source.begin()
    try:
        taking = asyncio.create_task(source.take(64, LONG_S))
        await until(lambda: is_told(store))
        store._growth.stir()
        await asyncio.sleep(0.05)
        await put(writer, said("first"))
        found = await asyncio.wait_for(taking, LONG_S / 2)
        assert [change.seq for portion in found for change in portion.changes] == [1]
        await source.back(found)
    finally:
        await source.close()


async def test_where_the_listening_connection_is_cut_they_look_and_listen_anew(
    postgres: Postgres, schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "TOLD_S", NEVER)
    monkeypatch.setattr(postgres_bell, "AGAIN_S", (2.0, 2.0))
    url = schemas.url()
    reader, writer = await opened(url), await opened(url)
    waiting = await hears(reader, 0)
    [pid] = listening(postgres, schema_of(reader))
    postgres.sql(f"SELECT pg_terminate_backend({pid}, 10000)")
    await until(lambda: not is_told(reader))
    await put(writer, said("while nobody listens"))
    assert await soon(waiting) == 1
    waiting = await hears(reader, 1)
    assert listening(postgres, schema_of(reader)) not in ([], [pid])
    await put(writer, said("again"))
    assert await soon(waiting) == 2


async def test_where_no_notification_comes_through_they_look_as_often_as_before(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "TOLD_S", NEVER)
    monkeypatch.setattr(postgres_bell, "NOTIFY", "SELECT 1")
    url = schemas.url()
    reader, writer = await opened(url), await opened(url)
    waiting = await waits(reader, 0)
    await put(writer, said("nobody was told"))
    assert await soon(waiting) == 1
    assert not is_told(reader)


async def test_a_notification_that_is_lost_is_made_good_by_a_look(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "TOLD_S", (0.2, 0.2))
    url = schemas.url()
    reader, writer = await opened(url), await opened(url)
    waiting = await hears(reader, 0)
    monkeypatch.setattr(postgres_bell, "NOTIFY", "SELECT 1")
    await put(writer, said("nobody was told"))
    assert await soon(waiting) == 1
    assert is_told(reader)


async def test_a_write_neither_waits_for_a_notification_nor_fails_with_it(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(f"{schemas.url()}&pool=1")
    async with store._here.pool.lent():  # type: ignore[union-attr]
        for n in range(3):
            await asyncio.wait_for(store.commit(Batch(put=(said(f"while none is free {n}"),))), LONG_S / 2)
    monkeypatch.setattr(postgres_bell, "NOTIFY", "SELECT no_such_function()")
    await put(store, said("it fails"))
    await until_rung(store)
    bell = store._here.bell
    assert bell and bell._ringing and bell._ringing.exception() is None
    await put(store, said("and again"))
    assert await store.head() == 5


# -- what is sent -----------------------------------------------------------------------------------------------------


class Heard:
    """What is said on the channel of a store."""

    def __init__(self, postgres: Postgres, database: str, store: PostgresStore) -> None:
        self.db = psycopg.connect(database, autocommit=True)
        self.db.execute(f'LISTEN "{schema_of(store)}"')

    def count(self, wait_s: float = 0.0) -> int:
        """Return how often something was said since it was last asked, and in so many seconds more."""
        self.db.execute("SELECT 1")
        return len(list(self.db.notifies(timeout=wait_s)))


@pytest.fixture
def heard(postgres: Postgres, database: str) -> Callable[[PostgresStore], Heard]:
    return lambda store: Heard(postgres, database, store)


async def test_nothing_is_said_for_nothing(
    schemas: Schemas, opened: Open, heard: Callable[[PostgresStore], Heard]
) -> None:
    store = await opened(schemas.url())
    record = said("first")
    await put(store, record)
    await until_rung(store)
    ear = heard(store)
    await put(store, record)
    await store.commit(Batch(embeddings=(embedded(record),)), cursor=Cursor("reader", 0, 1))
    await store.commit(Batch(), cursor=Cursor("reader", 1, 0))
    await store.recalled({record.ref: SPRING})
    await store.drop_model("small")
    await store.head()
    await until_rung(store)
    assert ear.count(0.1) == 0
    await put(store, said("second"))
    await until_rung(store)
    assert ear.count(0.1) == 1
    ear.db.close()


async def until_rung(store: PostgresStore) -> None:
    bell = store._here.bell
    assert bell is not None
    await until(lambda: bell._due is None and (bell._ringing is None or bell._ringing.done()))


async def test_what_is_written_in_quick_succession_is_said_once_and_the_last_when_it_closes(
    schemas: Schemas, opened: Open, heard: Callable[[PostgresStore], Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "GAP_S", LONG_S)
    store = await opened(schemas.url())
    await store.head()
    ear = heard(store)
    await asyncio.gather(*(put(store, said(f"at once {n}")) for n in range(20)))
    for n in range(5):
        await put(store, said(f"one by one {n}"))
    assert ear.count(0.2) == 1
    await asyncio.wait_for(store.close(), LONG_S / 2)
    assert ear.count(0.2) == 1
    ear.db.close()


@pytest.mark.usefixtures("only_told")
async def test_however_many_write_those_who_wait_are_not_told_more_often(
    postgres: Postgres, schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(schemas.url())
    waiting = await hears(store, 0)
    monkeypatch.setattr(postgres_bell, "GAP_S", LONG_S)
    told = list[None]()
    monkeypatch.setattr(store._growth, "stir", lambda: told.append(None))
    said_by_others = f"SELECT pg_notify('{schema_of(store)}', 'x' || n) FROM generate_series(1, 50) n"
    for _ in range(3):
        await asyncio.to_thread(postgres.sql, said_by_others, "memories")
    await until(lambda: bool(told))
    await asyncio.sleep(0.1)
    assert len(told) == 1
    await soon_cancelled(waiting)


@pytest.mark.usefixtures("only_told")
async def test_nobody_listens_to_himself(schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(schemas.url())
    await soon_cancelled(await hears(store, 0))
    told = list[None]()
    stir = store._growth.stir
    monkeypatch.setattr(store._growth, "stir", lambda: (told.append(None), stir()))
    waiting = await waits(store, 0)
    await put(store, said("mine"))
    assert await soon(waiting) == 1
    await until_rung(store)
    await asyncio.sleep(2 * postgres_bell.GAP_S)
    assert len(told) == 1


# -- when it is listened ----------------------------------------------------------------------------------------------


async def test_it_is_listened_on_one_connection_while_somebody_waits(
    postgres: Postgres, schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "LINGER_S", 0.2)
    store = await opened(schemas.url())
    await put(store, said("first"))
    assert listening(postgres, schema_of(store)) == []
    waiting = [await waits(store, 1) for _ in range(4)]
    await until(lambda: is_told(store))
    assert len(listening(postgres, schema_of(store))) == 1
    for each in waiting:
        await soon_cancelled(each)
    await until(lambda: not is_told(store))
    await until(lambda: listening(postgres, schema_of(store)) == [])
    await soon_cancelled(await hears(store, 1))
    await store.close()
    await until(lambda: listening(postgres, schema_of(store)) == [])


async def test_closing_while_it_listens_ends_everything(schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url())
    waiting = await hears(store, 0)
    before = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    await asyncio.wait_for(store.close(), LONG_S / 2)
    with pytest.raises(Invalid):
        await soon(waiting)
    assert all(task.done() for task in before)
    with pytest.raises(Invalid):
        await store.grown(0, 1.0)


async def test_a_schema_of_any_name_has_a_channel(
    postgres: Postgres, database: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "TOLD_S", NEVER)
    name = 'Sp ä"' + "x" * 57
    assert len(name.encode()) == 63
    quoted = '"' + name.replace('"', '""') + '"'
    url = f"{database}?partitions=1&schema=Sp%20%C3%A4%22{'x' * 57}"
    try:
        reader, writer = await opened(url), await opened(url)
        waiting = await hears(reader, 0)
        await writer.commit(Batch(put=(Record(scope=Scope(tenant="acme"), body=Note(text="first")),)))
        assert await soon(waiting) == 1
        await reader.close()
        await writer.close()
    finally:
        postgres.sql(f"DROP SCHEMA IF EXISTS {quoted} CASCADE", "memories")
