"""Servers of PostgreSQL that are killed, replicated, spoken to by TLS alone, and looked into byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from engines import AS_ROOT, NOBODY, Machine, Postgres, Schemas

from simonides.errors import SimonidesError, Unavailable
from simonides.kinds import Message
from simonides.query import Query
from simonides.record import Link, Record, Scope, Span
from simonides.store import Batch, Change
from simonides.stores import postgres_bytes, postgres_replica
from simonides.stores.postgres import PostgresStore
from simonides.testing.records import ANA, OTHER, every, said
from simonides.testing.stores.steps import MAY, complaints, embedded, found_texts, put

SECRETS = (b"zirconium", b"feldspar", b"quartzite", b"tamarind", b"obsidian")


@contextlib.asynccontextmanager
async def opened(*urls: str) -> AsyncIterator[PostgresStore]:
    store = await asyncio.to_thread(PostgresStore, *urls)
    try:
        yield store
    finally:
        await store.close()


def url(server: Postgres, **options: str) -> str:
    return server.url("memories", user="simonides", partitions="1", **options)


def furnished(server: Postgres) -> Postgres:
    server.sql("CREATE ROLE simonides LOGIN")
    server.sql("CREATE DATABASE memories OWNER simonides")
    return server


# -- one that is killed, and looked into ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def durable(engines: Machine) -> Iterator[Postgres]:
    server = furnished(engines.postgres(settings={"fsync": "on"}))
    yield server
    server.kill()


async def test_what_was_acknowledged_survives_kills_of_the_server(durable: Postgres) -> None:
    chance, acknowledged, ended = random.Random(3), set[str](), asyncio.Event()

    async def write(store: PostgresStore, n: int) -> None:
        while not ended.is_set():
            records = [said(f"{n}", Scope(tenant=f"t{n % 3}")) for _ in range(chance.randint(1, 20))]
            try:
                await put(store, *records)
                acknowledged.update(record.id for record in records)
            except Unavailable:
                await asyncio.sleep(0.05)

    async with opened(url(durable, schema="killed")) as store:
        writers = [asyncio.create_task(write(store, n)) for n in range(6)]
        for _ in range(4):
            before = len(acknowledged)
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            durable.kill()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(durable.start)
            end = time.monotonic() + 30
            while len(acknowledged) == before and time.monotonic() < end:
                await asyncio.sleep(0.02)
            assert len(acknowledged) > before, "it does not go on by itself"
        ended.set()
        await asyncio.gather(*writers)
        lines = await store.changes(limit=10**6)
        assert acknowledged <= {line.id for line in lines}
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        assert await complaints(store) == ()


@pytest.mark.parametrize("partitions", ["1", "4"])
async def test_of_what_is_erased_no_byte_is_left_in_the_tables(partitions: str, durable: Postgres) -> None:
    where = url(durable, schema=f"erased{partitions}").replace("partitions=1", f"partitions={partitions}")
    async with opened(where) as store:
        kept = [said(f"neighbour {n} tells of bridges", Scope(tenant=f"t{n % 5}")) for n in range(400)]
        secret = Record(
            scope=ANA,
            body=Message(text="the zirconium key lies beneath the tamarind", name="feldspar"),
            labels=("quartzite",),
            folder="quartzite/deep",
            metadata={"stone": "obsidian"},
            links=(Link("about", kept[0].id),),
        )
        await put(store, *kept, secret)
        later = secret.revise(body=Message(text="zirconium, still " * 2_000))  # beside the table, in pieces
        tokens = b"tamarind" * 500
        await store.commit(Batch(put=(later,), embeddings=(embedded(secret, tokens=tokens), embedded(kept[0]))))
        durable.sql("ANALYZE", "memories")
        await store.commit(Batch(erase=(secret.ref,)))
        assert "deleted, tables written anew" in (await store.scrub())["method"]
        durable.sql("CHECKPOINT")
        assert await complaints(store) == ()
        assert await found_texts(store, every(Scope(tenant="t1")))
    held = {path: path.read_bytes() for path in (durable.data / "base").rglob("*") if path.is_file()}
    assert any(b"tells of bridges" in content for content in held.values())
    assert [(path.name, each) for path, content in held.items() for each in SECRETS if each in content] == []


async def test_where_tables_are_too_large_to_write_anew_it_is_said(
    durable: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bytes, "SMALL", 0)
    async with opened(url(durable, schema="large")) as store:
        record = said("a secret")
        await put(store, record)
        await store.commit(Batch(erase=(record.ref,)))
        assert "bytes may stay" in (await store.scrub())["method"]


async def test_what_a_snapshot_still_shows_is_not_said_to_be_gone(schemas: Schemas) -> None:
    async with opened(schemas.url()) as store:
        record = said("a secret")
        await put(store, record, said("another"))
        async with store.snapshot() as frozen:
            await found_texts(frozen, every(ANA))
            await store.commit(Batch(erase=(record.ref,)))
            async with asyncio.timeout(5):  # no lock of the snapshot's is waited for
                assert "bytes may stay" in (await store.scrub())["method"]
            assert await found_texts(frozen, every(ANA)) == ["a secret", "another"]
        await store.commit(Batch(erase=(said("", id=record.id).ref, *[r.ref for r in await store.find(every(ANA))])))
        assert "deleted, tables written anew" in (await store.scrub())["method"]


async def test_bytes_that_a_copied_erase_left_are_seen_to_though_it_is_certified(schemas: Schemas) -> None:
    async with opened(schemas.url()) as store:
        record = said("a secret", known=Span(MAY))
        lines = [
            Change(1, MAY, record.id, 1, record.kind, record.scope),
            Change(2, MAY, record.id, 0, record.kind, record.scope),
            Change(3, MAY, "c", 0, "certificate", Scope(tenant="acme"), {"ids": [record.id]}),
        ]
        await store.commit(Batch(restore=(record,), log=tuple(lines[:1])))
        await store.commit(Batch(erase=(record.ref,), log=tuple(lines[1:])))
        assert await store.unfinished() == []
        assert "deleted, tables written anew" in (await store.scrub())["method"]
        assert "nothing was erased" in (await store.scrub())["method"]


# -- by TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(engines: Machine) -> Iterator[tuple[Postgres, dict[str, str]]]:
    """A server that lets the role `simonides` in with a client's certificate alone, and what proves both sides."""
    authority, other = trustme.CA(), trustme.CA()
    theirs, mine = authority.issue_cert("127.0.0.1"), authority.issue_cert("simonides", common_name="simonides")
    server = engines.postgres(start=False)
    rules = (
        "hostssl all simonides 127.0.0.1/32 cert",
        "hostnossl all simonides 127.0.0.1/32 reject",
        "host all all 127.0.0.1/32 trust",
    )
    files = {
        "hba.conf": "\n".join(rules).encode(),
        "server.pem": b"".join(blob.bytes() for blob in theirs.cert_chain_pems),
        "server.key": theirs.private_key_pem.bytes(),
        "ca.pem": authority.cert_pem.bytes(),
        "other.pem": other.cert_pem.bytes(),
        "client.pem": b"".join(blob.bytes() for blob in mine.cert_chain_pems),
        "client.key": mine.private_key_pem.bytes(),
    }
    places = {name: str(_written(server.folder / name, content)) for name, content in files.items()}
    os.chown(places["client.key"], os.getuid(), os.getgid())
    server.settings |= {
        "ssl": "on",
        "hba_file": places["hba.conf"],
        "ssl_cert_file": places["server.pem"],
        "ssl_key_file": places["server.key"],
        "ssl_ca_file": places["ca.pem"],
    }
    server.start()
    yield furnished(server), places
    server.kill()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    if AS_ROOT:
        os.chown(path, NOBODY, NOBODY)
    return path


async def test_by_tls_both_sides_prove_who_they_are(guarded: tuple[Postgres, dict[str, str]]) -> None:
    server, files = guarded
    proven = {"sslmode": "verify-full", "sslrootcert": files["ca.pem"]}
    client = {"sslcert": files["client.pem"], "sslkey": files["client.key"]}
    async with opened(url(server, **proven, **client)) as store:
        await put(store, said("sealed"))
        assert await found_texts(store, Query(scope=ANA)) == ["sealed"]
    wrong: list[dict[str, str]] = [
        {**proven, **client, "sslrootcert": files["other.pem"]},
        proven,
        {"sslmode": "disable"},
        {**proven, **client, "host": "localhost", "hostaddr": "127.0.0.1"},
    ]
    for options in wrong:
        with pytest.raises(Unavailable):
            await asyncio.to_thread(PostgresStore, url(server, **options))


# -- with a replica ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(engines: Machine) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary that acknowledges what its replica has, too, and that replica."""
    primary = furnished(engines.postgres(settings={"fsync": "on"}))
    replica = engines.own(Postgres(engines.postgres_home(), engines.place("replica")), start=False)
    from_there = ("--host", "127.0.0.1", "--port", str(primary.port), "--username", "postgres")
    primary.run(
        "pg_basebackup", *from_there, "--pgdata", str(replica.data), "--write-recovery-conf", "--checkpoint=fast"
    )
    replica.start()
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.sql("SELECT pg_reload_conf()")
    yield primary, replica
    primary.kill()
    replica.kill()


async def test_a_replica_is_read_from_and_one_reads_what_one_wrote(
    pair: tuple[Postgres, Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica = pair
    async with opened(url(primary), url(replica)) as store, opened(url(primary)) as elsewhere:
        for n in range(30):
            kept = said(f"{n}")
            await put(store, kept)
            assert await store.find(Query(scope=ANA, ids=frozenset({kept.id})))
            await store.commit(Batch(embeddings=(embedded(kept),)))
            assert (await store.extent(ANA, "small")).slots == n + 1
        for n in range(10):
            kept = said(f"{n}", OTHER)
            await put(elsewhere, kept)
            assert await store.head() == 31 + n
            assert await store.find(Query(scope=OTHER, ids=frozenset({kept.id})))
        await asyncio.sleep(postgres_replica.BEHIND_S)
        with monkeypatch.context() as patched:
            patched.setattr(store._here.pool, "read", None)
            assert await store.count(Query(scope=ANA)) == 30  # the primary was not asked
        replica.sql("SELECT pg_wal_replay_pause()")
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        primary.sql("SELECT pg_reload_conf()")
        late = said("late")
        await put(store, late)
        assert await store.find(Query(scope=ANA, ids=frozenset({late.id})))  # from the primary
        replica.kill()
        assert await store.count(Query(scope=ANA)) == 31


async def test_where_the_primary_is_killed_and_the_replica_promoted_nothing_acknowledged_is_lost(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, replica = pair
    both = url(primary, target_session_attrs="read-write").replace(
        f"127.0.0.1:{primary.port}", f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
    )
    acknowledged, ended = set[str](), asyncio.Event()

    async def write(store: PostgresStore) -> None:
        while not ended.is_set():
            record = said("kept")
            with contextlib.suppress(SimonidesError):
                await put(store, record)
                acknowledged.add(record.id)
            await asyncio.sleep(0.005)

    async with opened(both) as store:
        writers = [asyncio.create_task(write(store)) for _ in range(4)]
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        primary.kill()
        await asyncio.to_thread(replica.sql, "ALTER SYSTEM SET synchronous_standby_names = ''")
        await asyncio.to_thread(replica.sql, "SELECT pg_promote()")
        before, end = len(acknowledged), time.monotonic() + 30
        while len(acknowledged) < before + 20 and time.monotonic() < end:
            await asyncio.sleep(0.05)
        ended.set()
        await asyncio.gather(*writers)
        assert len(acknowledged) >= before + 20
        lines = await store.changes(limit=10**6)
        assert acknowledged <= {line.id for line in lines}
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        assert await complaints(store) == ()
