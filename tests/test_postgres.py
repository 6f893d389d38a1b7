"""What a store on PostgreSQL promises beyond what every store does: the order of its log, its walls, going on."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
import pytest
from engines import Postgres, Schemas

from simonides.config import open_store
from simonides.errors import Conflict, Damaged, Full, Invalid, SimonidesError, Unavailable
from simonides.kinds import Message
from simonides.query import Query
from simonides.record import Scope
from simonides.serving import hide
from simonides.store import Batch, Change, Cursor, Letter, Lines, Store
from simonides.stores import postgres_known, postgres_pool, postgres_writer, postgres_written
from simonides.stores import postgres_migrations as migrations
from simonides.stores.postgres import PostgresStore
from simonides.stores.postgres_trip import Answer, Trip
from simonides.stores.postgres_url import parsed
from simonides.testing.records import ANA, OTHER, TEAM, every, said
from simonides.testing.stores.steps import SPRING, by_words, complaints, embedded, found_texts, put

Open = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Return what opens a store, which is closed after the test."""
    stores: list[PostgresStore] = []

    async def make(url: str, *more: str) -> PostgresStore:
        stores.append(await asyncio.to_thread(PostgresStore, url, *more))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


# -- the log ----------------------------------------------------------------------------------------------------------


class Held:
    """Holds the commits of one store just before they end, with all that they wrote sent to the server."""

    def __init__(self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.go = there, go = asyncio.Event(), asyncio.Event()

        class Waiting(Trip):
            async def __aexit__(self, *failure: Any) -> None:
                if self._db is store._here.writer._db:
                    commit = self._asked.pop()
                    assert commit[0] == "COMMIT"
                    await super().__aexit__(*failure)
                    there.set()
                    await go.wait()
                    self._asked = [commit]
                await super().__aexit__(*failure)

        monkeypatch.setattr(postgres_written, "Trip", Waiting)


async def test_a_line_never_becomes_visible_behind_one_that_was_read(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = schemas.url()
    slow, quick, reader = [await opened(url) for _ in range(3)]
    await put(quick, said("first", OTHER))
    held = Held(slow, monkeypatch)
    first = asyncio.create_task(put(slow, said("slow")))
    await held.there.wait()  # its line has its number, and nobody sees it
    second = asyncio.create_task(put(quick, said("quick", OTHER)))
    for _ in range(20):
        assert await reader.head() == 1 and len(await reader.changes()) == 1
        await asyncio.sleep(0.01)
    assert not second.done()  # it waits for its number, so that nobody reads past the slow one's
    held.go.set()
    assert [line.seq for lines in await asyncio.gather(first, second) for line in lines] == [2, 3]
    assert [line.seq for line in await reader.changes()] == [1, 2, 3]


async def test_who_follows_meanwhile_is_not_waited_for_by_who_has_followed_ahead(
    schemas: Schemas, opened: Open
) -> None:
    url = schemas.url()
    store = await opened(url)
    await put(store, said("first"))
    await store.commit(Batch(), cursor=Cursor("reader", 0, 1))
    async with await psycopg.AsyncConnection.connect(parsed(url).conninfo) as other:
        await other.execute(f"SELECT 1 FROM {parsed(url).schema}.cursors FOR UPDATE".encode())
        lines = await asyncio.wait_for(store.commit(Batch(put=(said("second"),), followed=("reader",))), 10)
        assert (lines.followed, await store.cursor("reader")) == (frozenset(), 1)
    await store.commit(Batch(), cursor=Cursor("reader", 1, 2))
    assert (await store.commit(Batch(put=(said("third"),), followed=("reader",)))).followed == {"reader"}


async def test_two_processes_that_follow_ahead_leave_no_line_out(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    stores = [await opened(url) for _ in range(2)]
    await put(stores[0], said("first"))
    await stores[0].commit(Batch(), cursor=Cursor("reader", 0, 1))

    async def writing(store: PostgresStore, name: str) -> list[Lines]:
        scope = dataclasses.replace(ANA, space=name)
        batches = (Batch(put=(said(f"{name} {n}", scope=scope),), followed=("reader",)) for n in range(40))
        return [await store.commit(batch) for batch in batches]

    kept = await asyncio.gather(*(writing(store, name) for store, name in zip(stores, ("a", "b"), strict=True)))
    assert all(lines.followed == {"reader"} for some in kept for lines in some)
    assert (await stores[0].cursor("reader"), await stores[0].head()) == (81, 81)


async def test_an_add_is_one_transaction_of_few_statements(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(schemas.url())
    record = said("first")
    await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
    await store.commit(Batch(), cursor=Cursor("reader", 0, 1))
    for _ in range(2):
        record, sent = said("one"), _sent(monkeypatch)
        batch = Batch(put=(record,), embeddings=(embedded(record),), followed=("reader",))
        assert (await store.commit(batch)).followed == {"reader"}
        assert [sent.count(each) for each in ("BEGIN", "COMMIT", "")] == [1, 1, 2] and len(sent) <= 8 + 2
        monkeypatch.undo()


async def test_what_is_new_is_not_looked_for_and_found_all_the_same(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(schemas.url())
    await put(store, said("first"))
    new, old = said("one"), said("two", id="two")
    looks = postgres_known.LAST.format(among="= %s")

    async def looked(batch: Batch) -> tuple[int, int, int]:
        """Return how many lines were written, in how many tries, and how often something was looked for."""
        with monkeypatch.context() as within:
            sent = _sent(within)
            lines = await store.commit(batch)
        assert sent.count(looks) == sent.count(postgres_pool.PLANNED_ANEW)  # and planned for the values it has
        return len(lines), sent.count("BEGIN"), sent.count(looks)

    assert (await looked(Batch(put=(new,))), await looked(Batch(put=(old,)))) == ((1, 1, 0), (1, 1, 1))
    assert (await looked(Batch(put=(new,))), await looked(Batch(put=(old,)))) == ((0, 2, 1), (0, 1, 1))
    other = said("three")
    assert await looked(Batch(put=(other, new))) == (1, 2, 1)
    with pytest.raises(Conflict):
        await put(store, said("another", id=new.id))
    assert await looked(Batch(put=(new.revise(body=said("one more").body),))) == (1, 1, 1)
    assert len(await store.changes()) == 5
    assert await complaints(store) == ()


async def test_a_column_that_changed_its_type_costs_no_commit(
    schemas: Schemas, opened: Open, postgres: Postgres
) -> None:
    store = await opened(url := schemas.url())
    for place in range(8):
        await store.commit(Batch(), cursor=Cursor("reader", place, place + 1))
    schema = dict(parse_qsl(urlsplit(url).query))["schema"]
    postgres.sql(f'ALTER TABLE "{schema}".cursors ALTER seq TYPE integer', "memories")
    await store.commit(Batch(), cursor=Cursor("reader", 8, 9))
    assert await store.cursor("reader") == 9


async def test_what_cannot_be_sent_locks_nobody_out(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store, other = await opened(url), await opened(url)
    await put(store, said("first"))
    with pytest.raises(UnicodeEncodeError):
        await put(store, said("\ud800"))
    async with asyncio.timeout(20):
        await put(other, said("second"))


@pytest.mark.parametrize("id", ["a\0b", "a\1b"])
async def test_an_id_is_the_same_in_every_statement(schemas: Schemas, opened: Open, id: str) -> None:
    store, record = await opened(schemas.url()), said("one", id=id)
    await put(store, record)
    assert await store.commit(Batch(put=(record,))) == []
    await put(store, record.revise(body=said("two").body))
    await store.commit(Batch(erase=(record.ref,)))
    assert await store.find(every(record.scope)) == []


async def test_what_is_only_written_is_planned_once_and_what_is_looked_for_each_time(
    schemas: Schemas, opened: Open
) -> None:
    store = await opened(schemas.url())
    await put(store, said("first"))
    db = store._here.writer._db
    assert db is not None

    async def modes(db: postgres_pool.Db) -> tuple[str, str]:
        sql = "SELECT current_setting('plan_cache_mode'), current_setting('enable_seqscan')"
        return (await postgres_pool.fetch(db, sql))[0]

    assert await modes(db) == ("force_generic_plan", "off")
    assert await store._here.writer.alone(modes) == ("force_custom_plan", "on")
    assert await store._here.pool.read([], modes) == ("force_custom_plan", "on")
    assert await modes(db) == ("force_generic_plan", "off")


def _sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements that the writer sends from now on, as they come, and "" where it waits for answers."""
    sent, ask, make = list[str](), Trip.ask, Trip.__aexit__

    def noted(trip: Trip, sql: str, *values: Any) -> Answer:
        sent.append(sql)
        return ask(trip, sql, *values)

    async def made(trip: Trip, *failure: Any) -> None:
        sent.append("")
        await make(trip, *failure)

    monkeypatch.setattr(Trip, "ask", noted)
    monkeypatch.setattr(Trip, "__aexit__", made)
    return sent


async def test_whoever_follows_the_log_misses_nothing_that_many_write(schemas: Schemas, opened: Open) -> None:
    url, chance = schemas.url(), random.Random(5)
    stores = [await opened(url) for _ in range(3)]
    read: list[Change] = []

    async def follow(reader: Store) -> None:
        while len(read) < 300:
            place = read[-1].seq if read else 0
            for line in await reader.changes(after=place, limit=7):
                assert line.seq == place + 1, "a line became visible behind one that was read"
                place = line.seq
                read.append(line)

    async def write(store: Store, n: int) -> None:
        await asyncio.sleep(chance.random() / 4)
        scope = chance.choice([ANA, TEAM, OTHER, Scope(tenant=f"t{n % 9}")])
        await put(store, *(said(f"{n}", scope) for _ in range(chance.randint(1, 3))))

    writes = [write(chance.choice(stores), n) for n in range(300)]
    await asyncio.gather(asyncio.wait_for(follow(await opened(url)), 60), *writes)
    assert [line.seq for line in read] == list(range(1, len(read) + 1))
    assert await complaints(stores[0]) == ()


async def test_of_two_processes_that_write_the_same_one_does(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    stores = [await opened(url) for _ in range(3)]
    once = said("once")
    assert sum(map(len, await asyncio.gather(*(put(store, once) for store in stores * 5)))) == 1
    revisions = [put(store, once.revise(body=Message(text=str(n)))) for n, store in enumerate(stores * 5)]
    ends = await asyncio.gather(*revisions, return_exceptions=True)
    assert sum(isinstance(end, Conflict) for end in ends) == len(ends) - 1
    moves = [store.commit(Batch(), cursor=Cursor("reader", 0, n + 1)) for n, store in enumerate(stores * 3)]
    ends = await asyncio.gather(*moves, return_exceptions=True)
    assert sum(isinstance(end, Conflict) for end in ends) == len(ends) - 1
    embeddings = Batch(embeddings=(embedded(once),))
    await asyncio.gather(*(store.commit(embeddings) for store in stores * 3))
    assert (await stores[0].extent(ANA, "small")).slots == 1
    assert await complaints(stores[0]) == ()


async def test_each_realm_has_a_head_of_its_own(schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url())
    await put(store, said("one"), said("two"))
    await put(store, said("three", OTHER))
    await put(store, said("four"))
    assert [await store.head(scope) for scope in (ANA, OTHER, TEAM)] == [4, 3, 0]
    assert await store.head() == 4


# -- the walls --------------------------------------------------------------------------------------------------------


async def test_it_says_how_many_connections_are_at_work(schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url(pool="2"))
    assert store.connections == (0, 0)
    async with store._here.pool.lent():
        assert store.connections == (1, 0)
        await store.head()
        assert store.connections == (1, 1)
    assert store.connections == (0, 2)


async def test_a_query_that_forgets_its_scope_finds_nothing(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store = await opened(url)
    for scope in (ANA, TEAM, OTHER):
        record = said("bridge", scope, labels=("a",))
        await store.commit(Batch(put=(record,), embeddings=(embedded(record, tokens=b"x"),)))
        line = (await store.changes())[-1]
        await store.recalled({record.ref: line.at})
        await store.commit(Batch(letters=(Letter("reader", line, 1, line.at, "ValueError"),)))
    await store.commit(Batch(erase=((await store.find(every(TEAM)))[0].ref,)))
    address = parsed(url)
    with postgres_pool.connect(address) as db:
        walled = ("realms", *migrations.WALLED)
        counts = {table: f"SELECT count(*) FROM {table}" for table in walled}
        for table, sql in counts.items():
            assert db.execute(sql).fetchone() == (0,), table
        with db.transaction():
            db.execute(postgres_pool.TENANTS, ("{other}",))
            assert db.execute("SELECT tenant FROM realms").fetchall() == [("other",)]
            for table, sql in counts.items():
                expected = {"holes": 0, "erasing": 0, "links": 0}.get(table, 1)
                found = db.execute(sql).fetchone()
                assert found and (found[0] == expected or (table == "words" and found[0] > 1)), table
            with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
                db.execute("INSERT INTO labels VALUES ((SELECT max(realm) + 1 FROM realms), 'theirs', 1)")
        assert db.execute(counts["records"]).fetchone() == (0,)  # it was seen for the transaction alone


async def test_a_superuser_passes_by_the_walls_and_the_doctor_says_so(
    postgres: Postgres, schemas: Schemas, opened: Open
) -> None:
    url = schemas.url().replace("simonides@", "postgres@")
    store = await opened(url)
    [complaint] = (await store.check()).complaints
    assert "superuser" in complaint and "postgres" in complaint


# -- opening ----------------------------------------------------------------------------------------------------------


async def test_many_that_open_a_new_store_at_once_open_one_store(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    stores = await asyncio.gather(*(opened(url) for _ in range(5)))
    assert len({store.identity for store in stores}) == 1
    await put(stores[0], said("here"))
    assert await found_texts(stores[4], Query(scope=ANA)) == ["here"]


async def test_a_snapshot_is_walled_and_looked_over_like_the_store(schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url())
    await put(store, said("ours"), said("theirs", OTHER))
    async with store.snapshot() as frozen:
        await store.commit(Batch(erase=tuple(record.ref for record in await store.find(every(OTHER)))))
        assert (await frozen.counts())["records"] == 2  # with all realms in sight
        here: Any = frozen
        seen = await here._here.pool.read(["acme"], lambda db: postgres_pool.fetch(db, "SELECT tenant FROM realms"))
        assert seen == [("acme",)]
        health = await frozen.check()
        assert health.complaints == () and health.counts["records"] == 2
        with pytest.raises(Invalid, match="division"):
            await here._here.pool.read(None, lambda db: postgres_pool.fetch(db, "SELECT 1 / 0"))
        both = await asyncio.gather(frozen.head(), frozen.count(every(ANA)), frozen.count(every(OTHER)))
        assert both == [2, 1, 1]
        for refused in (frozen.scrub, frozen.rebuild):
            with pytest.raises(Invalid, match="only read"):
                await refused()
    assert (await store.counts())["records"] == 1


async def test_who_writes_while_a_log_is_copied_comes_after_it(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    one, other = await opened(url), await opened(url)
    lines = [Change(n, SPRING, f"gone {n}", 1, "message", ANA) for n in range(1, 401)]
    done = asyncio.Event()

    async def at_work() -> int:
        written = 0
        while not done.is_set():
            written += len(await put(other, said(f"meanwhile {written}", OTHER)))  # where no lock is in the way
        return written

    for line in lines[:5]:
        await one.commit(Batch(log=(line,)))
    writer = asyncio.create_task(at_work())
    refused = 0
    try:
        for n in range(200):
            head = await one.head()
            line = dataclasses.replace(lines[n], seq=head + 1, id=f"copied {n}")
            try:
                await one.commit(Batch(log=(line,)))
                assert await one.changes(after=head, limit=1) == [line]
            except Conflict:
                refused += 1
    finally:
        done.set()
        written = await writer
    assert 0 < refused < 200 and written
    log = await one.changes(limit=10_000)
    assert [line.seq for line in log] == list(range(1, 5 + 200 - refused + written + 1))


async def test_a_store_in_several_partitions_answers_like_any_other(schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url(partitions="4"))
    scopes = [Scope(tenant=f"t{n}", user="ana") for n in range(8)]
    kept = [said(f"bridge {scope.tenant}", scope, labels=("a",)) for scope in scopes]
    await store.commit(Batch(put=tuple(kept), embeddings=tuple(map(embedded, kept))))
    await store.commit(Batch(put=(kept[0].revise(body=Message(text="blue bridge")),), erase=(kept[1].ref,)))
    for n, scope in enumerate(scopes):
        expected = [] if n == 1 else ["blue bridge" if n == 0 else f"bridge t{n}"]
        assert await found_texts(store, Query(scope=scope, labels=frozenset({"a"}))) == expected
        assert await by_words(store, Query(scope=scope), "bridges") == expected
        assert len(await store.slots(every(scope), "small")) == (n != 1)
    assert "deleted, tables written anew" in (await store.scrub())["method"]
    assert await complaints(store) == ()
    await store.rebuild()
    assert await by_words(store, Query(scope=scopes[0]), "blue") == ["blue bridge"]


async def test_tables_of_another_program_are_not_touched(postgres: Postgres, schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    schema = parsed(url).schema
    postgres.sql(f"CREATE SCHEMA {schema} AUTHORIZATION simonides; CREATE TABLE {schema}.theirs (x int)", "memories")
    with pytest.raises(Invalid, match="another program"):
        await opened(url)
    found = postgres.sql(f"SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace", "memories")
    assert found == [(1,)]


async def test_a_schema_made_for_us_beforehand_will_do(postgres: Postgres, schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    postgres.sql(f"CREATE SCHEMA {parsed(url).schema} AUTHORIZATION simonides", "memories")
    await put(await opened(url), said("here"))


async def test_a_migration_is_done_once_and_whole_or_not_at_all(schemas: Schemas, opened: Open) -> None:
    url, newest = schemas.url(), migrations.SCHEMA + 1
    store = await opened(url)
    await put(store, said("here"))
    steps = {newest: "ALTER TABLE records ADD COLUMN mood text; UPDATE records SET mood = 'calm'"}
    broken = {newest: "ALTER TABLE records ADD COLUMN mood text; SELECT no_such_function()"}
    address = parsed(url)
    with postgres_pool.connect(address) as db:
        with pytest.raises(Unavailable, match="no_such_function"):
            migrations.prepare(db, address, broken, newest)
        assert migrations.prepare(db, address) == store.identity
        for _ in range(2):
            assert migrations.prepare(db, address, steps, newest) == store.identity
        with db.transaction():
            db.execute(postgres_pool.ALL)
            assert db.execute("SELECT mood FROM records").fetchall() == [("calm",)]
    with pytest.raises(Damaged, match="newer"):
        await opened(url)


async def test_words_of_an_older_making_are_made_again(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store = await opened(url)
    await put(store, said("a bridge"))
    with postgres_pool.connect(parsed(url)) as db, db.transaction():
        db.execute(postgres_pool.ALL)
        db.execute("UPDATE words SET term = term # 1; UPDATE meta SET value = 'older' WHERE name = 'words'")
    assert await by_words(store, Query(scope=ANA), "bridge") == []
    assert await by_words(await opened(url), Query(scope=ANA), "bridge") == ["a bridge"]


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", Full),
        ("XX001", Damaged),
        ("57014", Unavailable),
        ("55P03", Unavailable),
        ("42501", Unavailable),
        ("53300", Unavailable),
        ("22021", Invalid),
        ("54000", Invalid),
        ("25006", Unavailable),
        ("58030", Unavailable),
    ],
)
async def test_what_postgresql_says_is_an_error_of_ours(
    code: str, kind: type[SimonidesError], schemas: Schemas, opened: Open
) -> None:
    store = await opened(schemas.url())
    with pytest.raises(kind) as caught:
        await store._everywhere(f"DO $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = '{code}'; END $$")
    assert type(caught.value) is kind and "password" not in str(caught.value)
    assert await store.head() == 0


@pytest.mark.parametrize(
    "wrong", ["?durability=never", "?partitions=0", "?partitions=many", "?pool=0", "?schema=pg_mine", "?nonsense=1"]
)
def test_a_url_that_cannot_be_is_refused(wrong: str) -> None:
    with pytest.raises(Invalid) as caught:
        PostgresStore(f"postgresql://ana:hunter2@127.0.0.1:1/db{wrong}")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        PostgresStore("postgresql://ana:hunter2@127.0.0.1:1/db")
    assert "127.0.0.1" in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://db.example.com/m", "verify-full"),
        ("postgresql://127.0.0.1,db.example.com/m", "verify-full"),
        ("postgresql://db.example.com/m?sslmode=require", "require"),
        ("postgresql://127.0.0.1/m", None),
        ("postgresql:///m", None),
    ],
)
def test_beyond_this_machine_the_server_proves_who_it_is(
    url: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGSSLMODE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    assert psycopg.conninfo.conninfo_to_dict(parsed(url).conninfo).get("sslmode") == mode


def test_a_store_without_replicas_is_opened_with_none() -> None:
    with pytest.raises(Invalid, match="read_url"):
        open_store("sqlite:///:memory:", "postgresql://127.0.0.1/m")


def test_no_password_of_a_url_is_shown() -> None:
    shown = hide("postgresql://ana:hunter2@h/m?sslkey=k&password=hunter2&sslpassword=hunter2&schema=s")
    assert "hunter2" not in shown and shown.endswith("&schema=s")


async def test_all_lent_is_waited_for_and_then_said(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(schemas.url(pool="2"))
    await asyncio.gather(*(put(store, said(f"{n}")) for n in range(20)))
    assert await asyncio.gather(*(store.count(Query(scope=ANA)) for _ in range(30))) == [20] * 30
    monkeypatch.setattr(postgres_pool, "WAIT_S", 0.05)
    async with store._here.pool.lent(), store._here.pool.lent():
        with pytest.raises(Unavailable, match="pool="):
            await store.count(Query(scope=ANA))
    assert await store.count(Query(scope=ANA)) == 20


async def test_a_connection_that_was_cut_is_made_anew(postgres: Postgres, schemas: Schemas, opened: Open) -> None:
    store = await opened(schemas.url())
    await put(store, said("kept"))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'simonides'"
    for n in range(3):
        await asyncio.gather(*(store.count(Query(scope=ANA)) for _ in range(4)))
        postgres.sql(cut)
        assert await store.count(Query(scope=ANA)) == n + 1
        postgres.sql(cut)
        assert len(await put(store, said(f"{n}"))) == 1


async def test_a_commit_whose_answer_was_cut_off_is_done_once(
    postgres: Postgres, schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed just before or just after it was committed: its lines are told all the same."""
    store = await opened(schemas.url())
    write, ends = postgres_writer.write, random.Random(7)

    async def cut(db: postgres_pool.Db, plan: Any) -> int:
        after = ends.random() < 0.5
        before = await write(db, plan) if after else 0
        if ends.random() < 0.5:
            await db.close()
            raise psycopg.OperationalError("the connection was cut")
        return before if after else await write(db, plan)

    monkeypatch.setattr(postgres_writer, "write", cut)
    kept = [said(f"{n}") for n in range(60)]
    place = 0
    for start in range(0, 60, 3):
        lines = await asyncio.gather(*(put(store, record) for record in kept[start : start + 2]))
        assert [len(each) for each in lines] == [1, 1]
        third = kept[start + 2]
        batch = Batch(put=(third,), embeddings=(embedded(third),))
        assert len(await store.commit(batch, cursor=Cursor("reader", place, place + 1))) == 1
        place += 1
        embeddings = Batch(embeddings=(embedded(kept[start]),))
        assert await store.commit(embeddings, cursor=Cursor("reader", place, place + 1)) == []
        place += 1
    lines = await store.changes(limit=1000)
    assert [line.seq for line in lines] == list(range(1, 61))
    assert {line.id for line in lines} == {record.id for record in kept}
    assert await store.cursor("reader") == place
    assert (await store.extent(ANA, "small")).slots == 40
    assert await complaints(store) == ()


# -- what reading costs -----------------------------------------------------------------------------------------------


async def test_rows_are_counted_when_they_have_become_many(schemas: Schemas, opened: Open) -> None:
    url = schemas.url()
    store = await opened(url)

    def counted(table: str) -> float:
        with postgres_pool.connect(parsed(url)) as db:
            [count] = db.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (table,)).fetchone() or [0]
            return float(count)

    with postgres_pool.connect(parsed(url)) as db:
        for table in ("records", "words"):  # so that nobody else counts them
            db.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await put(store, *(said("a bridge") for _ in range(999)))
    await asyncio.wait_for(_counted(store), 10)
    assert counted("records") == -1  # never
    await put(store, said("a ferry"))
    await asyncio.wait_for(_counted(store), 10)
    assert counted("records") == 1000 and counted("words") >= 2000
    await put(store, *(said("a bridge") for _ in range(1999)))
    await asyncio.wait_for(_counted(store), 10)
    assert counted("records") == 1000  # next time when they are twice as many
    await put(store, said("a ferry"))
    await asyncio.wait_for(_counted(store), 10)
    assert counted("records") == 3000


async def _counted(store: PostgresStore) -> None:
    if store._counting:
        await store._counting


async def test_nobody_is_told_of_a_new_line_before_reads_from_a_replica_wait_for_it(
    schemas: Schemas, opened: Open
) -> None:
    """Of those who ask at once neither the first nor a later one: he would read from a replica that lacks it."""
    store, other = [await opened(url) for url in [schemas.url()] * 2]
    assert await store.head() == 0
    await put(other, said("the ferry"))
    bound = asyncio.Event()
    store._follow = bound.wait  # type: ignore[method-assign, assignment]
    asking = [asyncio.create_task(store.head()) for _ in range(2)]
    await asyncio.wait(asking, timeout=0.5)
    assert not any(task.done() for task in asking)
    bound.set()
    assert await asyncio.gather(*asking) == [1, 1]


async def test_what_is_asked_at_once_takes_one_trip(
    schemas: Schemas, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(schemas.url())
    kept = [said(f"bridge {n}", part_of="talk") for n in range(3)]
    await store.commit(Batch(put=tuple(kept), embeddings=tuple(embedded(record) for record in kept)))
    query, trips = Query(scope=ANA, limit=10), 0
    fetch = psycopg.AsyncCursor.fetchall

    async def counting(cursor: Any) -> Any:
        nonlocal trips
        trips += cursor.pgresult is None
        return await fetch(cursor)

    monkeypatch.setattr(psycopg.AsyncCursor, "fetchall", counting)

    async def waits(work: Awaitable[object]) -> int:
        """Return how many times it waited for rows before its transaction ended, which is one trip more."""
        nonlocal trips
        trips = 0
        await work
        return trips

    await store.spread(ANA, ["bridge"])
    assert await waits(store.find(query)) == await waits(store.count(query)) == 0
    assert await waits(store.around(query, kept)) == await waits(store.extent(ANA, "small")) == 0
    assert await waits(store.owners(query, "small", [0, 1])) == await waits(store.head()) == 0
    assert await waits(store.tokens(ANA, "small", [(kept[0].id, 1)])) == await waits(store.head(ANA)) == 0
    assert await waits(store.spread(ANA, ["bridge", "ferry"])) == 0
    assert await waits(store.words(query, "bridge")) == 3  # how common it is, who says it, and which of the best match


async def test_how_common_a_word_is_is_counted_again_when_there_is_much_more(schemas: Schemas, opened: Open) -> None:
    """Whoever wrote it. In a realm that is not there, or empty again, no word is common."""
    store, other = [await opened(url) for url in [schemas.url()] * 2]
    assert await store.spread(ANA, ["sun"]) == (0, {"sun": 0})
    kept = [said("the sun") for _ in range(10)]
    await put(other, *kept[:8])
    assert await store.spread(ANA, ["sun"]) == (8, {"sun": 8})
    await put(other, *kept[8:])
    assert await store.spread(ANA, ["sun", "fog"]) == (10, {"sun": 8, "fog": 0})
    await put(other, said("the fog"))
    assert await store.spread(ANA, ["sun", "fog"]) == (11, {"sun": 10, "fog": 0})
    await other.commit(Batch(erase=tuple(record.ref for record in await other.find(every(ANA)))))
    assert await store.spread(ANA, ["sun"]) == (0, {"sun": 0})
