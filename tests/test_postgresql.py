"""How PostgreSQL is reached: URLs, TLS that is verified, errors that say what to do and hold no password."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import psycopg
import pytest
import trustme
from engines import AS_ROOT, NOBODY, Machine, Postgres
from psycopg.conninfo import conninfo_to_dict

from simonides import Full, Invalid, Unavailable
from simonides.postgresql import Connection, Place, Pool, parsed, translated


async def nothing(db: Connection) -> None:
    """Prepare nothing."""


async def one(db: Connection) -> int:
    row = await (await db.execute("SELECT 1")).fetchone()
    assert row
    return int(row[0])


@pytest.mark.parametrize("host", ["db.example.com", "10.0.0.7", "127.0.0.1,db.example.com", "[2001:db8::1]"])
def test_beyond_this_machine_the_server_has_to_prove_who_it_is(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    told = conninfo_to_dict(parsed(f"postgres://me@{host}/memory", "s").conninfo)
    assert (told["sslmode"], told["sslrootcert"]) == ("verify-full", "system")
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").write_text("")
    told = conninfo_to_dict(parsed(f"postgres://me@{host}/memory", "s").conninfo)
    assert told["sslrootcert"] == str(tmp_path / ".postgresql" / "root.crt")
    told = conninfo_to_dict(parsed(f"postgres://me@{host}/memory?sslmode=require", "s").conninfo)
    assert (told["sslmode"], told.get("sslrootcert")) == ("require", None)
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert "sslmode" not in conninfo_to_dict(parsed(f"postgres://me@{host}/memory", "s").conninfo)


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "[::1]", "%2Ftmp", "localhost,127.0.0.1"])
def test_on_this_machine_it_is_left_to_libpq(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGSSLMODE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    assert "sslmode" not in conninfo_to_dict(parsed(f"postgres://{host}/memory", "s").conninfo)


def test_the_environment_may_name_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert conninfo_to_dict(parsed("postgres:///memory", "s").conninfo)["sslmode"] == "verify-full"


def test_what_is_ours_is_taken_out_of_the_url_and_the_rest_is_libpqs() -> None:
    place = parsed(
        "pgvector://me@h1:5432,h2:5433/db?schema=x&small=3&target_session_attrs=primary", "s", {"small": "1"}
    )
    told = conninfo_to_dict(place.conninfo)
    assert (place.schema, place.options) == ("x", {"small": "3"})
    assert (told["host"], told["port"], told["target_session_attrs"]) == ("h1,h2", "5432,5433", "primary")
    assert parsed("postgres://h/db", "mine").schema == "mine"


@pytest.mark.parametrize(
    "url", ["postgres://me:hunter2@h/db?colour=red", "postgres://me:hunter2@h:x/db?a", "postgres://me:hunter2@[/db"]
)
def test_what_cannot_be_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        asyncio.run(Pool(parsed(url, "s"), nothing).run(one))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("schema", ["", "pg_mine", "x" * 64, "a%00b"])
def test_a_schema_is_a_name_that_postgresql_takes(schema: str) -> None:
    with pytest.raises(Invalid, match="schema"):
        parsed(f"postgres://h/db?schema={schema}", "s")


async def test_no_error_holds_the_password() -> None:
    place = parsed("postgres://me:hunter2@127.0.0.1:1/memory", "s")
    pool = Pool(place, nothing)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/memory did not answer") as refused:
        await pool.run(one)
    assert "hunter2" not in f"{refused.value!r} {place!r} {place}"
    await pool.close()
    with pytest.raises(Invalid, match="closed"):
        await pool.run(one)


def test_errors_are_ours() -> None:
    place = Place("host=h dbname=d", "s", {})
    assert isinstance(translated(psycopg.errors.DiskFull("no room"), place), Full)
    for error in (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.OperationalError,
    ):
        assert isinstance(translated(error("x"), place), Unavailable)
    mistake = psycopg.errors.SyntaxError("x")
    assert translated(mistake, place) is mistake


async def test_after_a_restart_the_next_call_is_answered(engines: Machine) -> None:
    server = engines.postgres()
    pool = Pool(parsed(server.url(), "s"), nothing, size=3)
    assert await asyncio.gather(*(pool.run(one) for _ in range(6))) == [1] * 6
    server.kill()
    server.start()
    assert await asyncio.gather(*(pool.run(one) for _ in range(6))) == [1] * 6
    await pool.close()
    server.kill()


async def test_what_could_not_be_prepared_is_tried_again(postgres: Postgres) -> None:
    tried = list[int]()

    async def prepare(db: Connection) -> None:
        tried.append(1)
        if len(tried) == 1:
            raise Unavailable("not yet")

    pool = Pool(parsed(postgres.url(), "s"), prepare)
    with pytest.raises(Unavailable, match="not yet"):
        await pool.run(one)
    assert await asyncio.gather(*(pool.run(one) for _ in range(4))) == [1] * 4
    assert len(tried) == 2
    await pool.close()


async def test_tls_is_verified(engines: Machine, tmp_path: Path) -> None:
    """A server with a certificate for a name that is not its address is not believed, nor one of another authority."""
    ours, other = trustme.CA(), trustme.CA()
    server = engines.postgres(start=False)
    settings = {"ssl": "on"}
    for name, issued in (("right", ours.issue_cert("127.0.0.1")), ("wrong", ours.issue_cert("db.example.com"))):
        for kind, blob in (("crt", issued.cert_chain_pems[0]), ("key", issued.private_key_pem)):
            path = server.folder / f"{name}.{kind}"
            blob.write_to_path(str(path))
            path.chmod(0o600)
            if AS_ROOT:
                os.chown(path, NOBODY, NOBODY)
    for name, ca in (("ours", ours), ("other", other)):
        ca.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))

    async def asked(authority: str) -> int:
        url = server.url(sslmode="verify-full", sslrootcert=f"{tmp_path}/{authority}.pem")
        pool = Pool(parsed(url, f"s{secrets.token_hex(4)}"), nothing)
        try:
            return await pool.run(one)
        finally:
            await pool.close()

    for name, authority, believed in (("right", "ours", True), ("right", "other", False), ("wrong", "ours", False)):
        server.settings |= settings | {
            "ssl_cert_file": f"{server.folder}/{name}.crt",
            "ssl_key_file": f"{server.folder}/{name}.key",
        }
        server.start()
        if believed:
            assert await asked(authority) == 1
        else:
            with pytest.raises(Unavailable, match="certificate"):
                await asked(authority)
        server.stop()
