"""Statements that go to PostgreSQL together: what they give, and what is left where one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from engines import Postgres
from psycopg.pq import TransactionStatus

from simonides.stores.postgres_trip import Db, Trip


@pytest.fixture
async def db(postgres: Postgres) -> AsyncIterator[Db]:
    async with await Db.connect(postgres.url(), autocommit=True) as db:
        yield db


async def _told(db: Db, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    async with Trip(db) as trip:
        answer = trip.ask(sql, values)
    return answer.rows


async def test_values_come_back_as_they_were_sent(db: Db) -> None:
    sql = "SELECT %s::int, %s::text, %s::text, %s::bigint"
    for _ in range(2):  # prepared, and then known
        assert await _told(db, sql, -7, "Ünï \\ \"quoted\" '☃'", None, 2**62) == [
            (-7, "Ünï \\ \"quoted\" '☃'", None, 2**62)
        ]
    assert list(db.prepared) == [sql]
    texts = ["a,b", 'c"d', "e\\f", "NULL", "", "{}"]
    assert await _told(db, "SELECT * FROM unnest(%s::text[])", texts) == [(text,) for text in texts]
    assert await _told(db, "SELECT * FROM unnest(%s::int[])", [1, None, -3]) == [(1,), (None,), (-3,)]
    found = await _told(db, "SELECT encode(v, 'hex') FROM unnest(%s::bytea[]) v", [b"\0\xff", None, b""])
    assert found == [("00ff",), (None,), ("",)]
    assert await _told(db, "SELECT 1 WHERE false") == []


async def test_statements_are_done_in_order_and_told_apart(db: Db) -> None:
    async with Trip(db) as trip:
        trip.ask("BEGIN")
        trip.ask("CREATE TEMP TABLE told (n int) ON COMMIT DROP")
        trip.ask("INSERT INTO told VALUES (%s)", (1,))
        one = trip.ask("SELECT count(*) FROM told")
        trip.ask("INSERT INTO told VALUES (%s)", (2,))
        two = trip.ask("SELECT count(*) FROM told")
        trip.ask("COMMIT")
    assert (one.rows, two.rows) == ([(1,)], [(2,)])


@pytest.mark.parametrize("wrong", ["SELECT 1 / %s", "SELECT * FROM nothing WHERE n = %s"])
async def test_the_first_that_fails_is_raised_and_nothing_behind_it_is_done(db: Db, wrong: str) -> None:
    """Whether it fails when it is prepared or when it is done; and the connection goes on."""
    await _told(db, "CREATE TEMP TABLE kept (n int)")
    for _ in range(2):
        with pytest.raises((psycopg.errors.DivisionByZero, psycopg.errors.UndefinedTable)):
            async with Trip(db) as trip:
                trip.ask("BEGIN")
                trip.ask(wrong, (0,))
                trip.ask("INSERT INTO kept VALUES (1)")
                trip.ask("SELECT nothing")
                trip.ask("COMMIT")
        assert db.pgconn.transaction_status == TransactionStatus.INERROR
        await _told(db, "ROLLBACK")
        assert await _told(db, "SELECT * FROM kept") == []
        assert await (await db.execute("SELECT 2")).fetchall() == [(2,)]
    await _told(db, "INSERT INTO kept VALUES (1)")
    assert await _told(db, "SELECT * FROM kept") == [(1,)]


async def test_nothing_is_sent_where_asking_fails(db: Db) -> None:
    with pytest.raises(UnicodeEncodeError):
        async with Trip(db) as trip:
            trip.ask("BEGIN")
            trip.ask("SELECT %s", ("\ud800",))
    assert db.pgconn.transaction_status == TransactionStatus.IDLE and await _told(db, "SELECT 1") == [(1,)]


async def test_more_than_fits_a_socket_goes_and_comes(db: Db) -> None:
    long = "x" * 3_000_000
    async with Trip(db) as trip:
        answers = [trip.ask("SELECT %s::text || %s", (long, str(n))) for n in range(8)]
    assert [answer.rows for answer in answers] == [[(f"{long}{n}",)] for n in range(8)]


async def test_a_connection_that_is_lost_says_so(db: Db, postgres: Postgres) -> None:
    [(mine,)] = await _told(db, "SELECT pg_backend_pid()")
    with pytest.raises(psycopg.OperationalError):
        async with Trip(db) as trip:
            trip.ask("SELECT pg_terminate_backend(%s::int)", (mine,))
            trip.ask("SELECT 1")
    assert db.closed
    with pytest.raises(psycopg.OperationalError):
        await _told(db, "SELECT 1")


async def test_who_is_cancelled_leaves_the_connection_as_it_was_or_closed(db: Db) -> None:
    slow = asyncio.create_task(_told(db, "SELECT pg_sleep(60)"))
    while db.pgconn.transaction_status != TransactionStatus.ACTIVE:
        await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(slow, 20)
    assert db.closed or await _told(db, "SELECT 1") == [(1,)]
