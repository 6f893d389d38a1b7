"""Every directory passes the same suite; what is said here beside it is about the file, and about several processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from common import JUNE
from engines import Machine, Postgres

from simonides import Damaged, Invalid, Unavailable, config
from simonides.directories.sqlite import SCHEMA, SqliteDirectory, migrate
from simonides.directory import Directory, digest
from simonides.errors import NotFound
from simonides.testing.directories import BOUND, PLAIN, DirectorySuite, MakeDirectory

DIRECTORIES = ("memory:", "sqlite:///<tmp>/me.db-keys", "postgres:")

unix = pytest.mark.skipif(os.name == "nt", reason="there are no modes, and there is no SIGKILL")


def opened(url: str) -> Directory:
    directory: Directory = config.open_backend("directories", url)
    return directory


@pytest.fixture(params=DIRECTORIES)
def make_directory(request: pytest.FixtureRequest, tmp_path: Path) -> MakeDirectory:
    """Return what opens a new, empty directory each time; whoever opens one closes it."""
    numbers = itertools.count()
    server = request.getfixturevalue("postgres") if request.param == "postgres:" else None

    async def make() -> Directory:
        if server:
            return opened(server.url(schema=f"keys_{secrets.token_hex(8)}"))
        return opened(request.param.replace("<tmp>", f"{tmp_path}/{next(numbers)}"))

    return make


@pytest.fixture
async def directory(make_directory: MakeDirectory) -> AsyncIterator[Directory]:
    made = await make_directory()
    yield made
    await made.close()


class TestDirectories(DirectorySuite):
    pass


# -- the file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "me.db-keys"


@pytest.fixture
async def filed(path: Path) -> AsyncIterator[Directory]:
    made = opened(f"sqlite:///{path}")
    yield made
    await made.close()


async def test_keys_are_there_when_the_file_is_opened_again(path: Path) -> None:
    first = opened(f"sqlite:///{path}")
    key, secret = await first.make(BOUND)
    await first.note({key.id: JUNE})
    await first.close()
    again = opened(f"sqlite:///{path}")
    found = await again.find(secret)
    assert found is not None and (found.id, found.used, found.spaces) == (key.id, JUNE, BOUND.spaces)
    await again.close()


async def test_a_directory_that_is_closed_says_so(filed: Directory) -> None:
    _, secret = await filed.make(PLAIN)
    assert await filed.find(secret)
    for _ in range(2):
        await filed.close()
    with pytest.raises(Invalid, match="closed"):
        await filed.find(secret)
    with pytest.raises(Invalid, match="closed"):
        await filed.make(PLAIN)


async def test_no_secret_is_in_any_byte_of_the_files(filed: Directory, path: Path) -> None:
    made = [await filed.make(grant) for grant in (PLAIN, BOUND) * 20]
    for key, secret in made:
        await filed.find(secret)
        await filed.find(secret[:-1] + "x")
        await filed.revoke(key.id, JUNE)
    written = b"".join(each.read_bytes() for each in path.parent.iterdir())
    for key, secret in made:
        drawn = secret.removeprefix(f"sim_{key.id}_").encode()
        assert key.id.encode() in written and digest(secret) in written
        assert drawn not in written and drawn[:16] not in written and drawn[-16:] not in written


@unix
async def test_nobody_else_may_read_the_files(path: Path) -> None:
    before = os.umask(0)
    try:
        directory = opened(f"sqlite:///{path}")
        await directory.make(PLAIN)
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("me.db-keys", "me.db-keys-wal", "me.db-keys-shm"), 0o600)
    await directory.close()


@pytest.mark.parametrize("url", ["sqlite:", "sqlite:///", "sqlite:me.db", "sqlite:///k?x=1", "sqlite:///:memory:"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        opened(url)


def test_what_is_no_directory_of_keys_is_not_touched(tmp_path: Path) -> None:
    theirs = apsw.Connection(str(tmp_path / "theirs"))
    theirs.execute("CREATE TABLE theirs (x)")
    theirs.close()
    (tmp_path / "text").write_bytes(b"nothing like a database" * 200)
    (tmp_path / "folder").mkdir()
    for name, error in (("theirs", Invalid), ("text", Damaged), ("folder", Unavailable)):
        before = (tmp_path / name).read_bytes() if name != "folder" else b""
        with pytest.raises(error):
            opened(f"sqlite:///{tmp_path / name}")
        assert name == "folder" or (tmp_path / name).read_bytes() == before


async def test_a_file_that_is_not_as_it_was_made_is_said_to_be_damaged(filed: Directory, path: Path) -> None:
    apsw.Connection(str(path)).execute("DROP TABLE keys")
    for call in (filed.keys(), filed.make(PLAIN)):
        with pytest.raises(Damaged, match="no such table"):
            await call


async def test_a_store_of_memory_is_no_directory_of_keys(home: Path) -> None:
    from simonides import Memory

    with Memory("me.db", embedder="none"), pytest.raises(Invalid, match="another program"):
        opened("sqlite:///me.db")


async def test_a_newer_schema_is_left_alone_and_an_older_one_migrated_as_a_whole(path: Path) -> None:
    directory = SqliteDirectory(f"sqlite:///{path}")
    key, secret = await directory.make(PLAIN)
    await directory.close()
    db = apsw.Connection(str(path))
    steps = {SCHEMA + 1: "ALTER TABLE keys ADD COLUMN mood TEXT", SCHEMA + 2: "SELECT no_such_function()"}
    with pytest.raises(apsw.SQLError):
        migrate(db, steps, SCHEMA + 2)
    again = opened(f"sqlite:///{path}")  # it is as it was
    assert await again.find(secret) == key
    await again.close()
    for _ in range(2):
        migrate(db, steps, SCHEMA + 1)
    assert db.execute("SELECT id, mood FROM keys").fetchall() == [(key.id, None)]
    db.close()
    with pytest.raises(Damaged, match="newer"):
        opened(f"sqlite:///{path}")


def test_the_keys_to_a_store_lie_beside_its_file(home: Path) -> None:
    data = config.data_folder()
    for store, url in (
        ("me.db", "sqlite:///me.db-keys"),
        ("sqlite:////srv/me.db?durability=normal", "sqlite:////srv/me.db-keys"),
        (config.settings().store_url, f"sqlite:///{data / 'memory.db'}-keys"),
        (":memory:", f"sqlite:///{data / 'keys.db'}"),
        ("memory:", f"sqlite:///{data / 'keys.db'}"),
        ("postgres://host/db", "postgres://host/db?schema=simonides_keys"),
        (
            "postgresql://me:p%40w@host/db?schema=acme&sslmode=require&read_url=x",
            "postgres://me:p%40w@host/db?sslmode=require&schema=acme_keys",
        ),
        ("other://host/db", f"sqlite:///{data / 'keys.db'}"),
    ):
        assert config.directory_url(store) == url


def test_the_index_that_fits_a_store_lies_beside_it(home: Path) -> None:
    for store, url in (
        ("me.db", "flat:"),
        (":memory:", "flat:"),
        ("postgres://me@host/db", "pgvector://me@host/db?schema=simonides_near"),
        ("postgresql://h1,h2/db?schema=acme&read_url=x", "pgvector://h1,h2/db?schema=acme_near"),
    ):
        assert config.Settings(store=store).index_url == url
    assert config.Settings(store="postgres://host/db", index="exact:").index_url == "exact:"


# -- several processes -------------------------------------------------------------------------------------------


async def test_keys_in_postgresql_survive_a_kill_of_the_server(engines: Machine) -> None:
    server = engines.postgres()
    first, second = opened(server.url()), opened(f"postgres{server.url().removeprefix('postgresql')}")
    key, secret = await first.make(BOUND)
    assert await second.find(secret) == key
    server.kill()
    server.start()
    assert await first.find(secret) == key
    assert (await second.revoke(key.id, JUNE)).closed(JUNE) == "revoked"
    found = await first.find(secret)
    assert found is not None and found.revoked == JUNE
    server.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simonides.postgresql.WAIT_S", 0.5)
        with pytest.raises(Unavailable):
            await first.find(secret)
    for directory in (first, second):
        await directory.close()


async def test_a_schema_of_another_program_holds_no_keys(postgres: Postgres) -> None:
    directory = opened(postgres.url(schema="information_schema"))
    with pytest.raises(Invalid, match="another program"):
        await directory.keys()
    await directory.close()


async def test_several_that_make_the_schema_at_once_all_write_to_it(postgres: Postgres) -> None:
    url = postgres.url(schema=f"keys_{secrets.token_hex(8)}")
    several = [opened(url) for _ in range(4)]
    made = await asyncio.gather(*(directory.make(PLAIN) for directory in several * 5))
    assert {key.id for key in await several[0].keys()} == {key.id for key, _ in made}
    for directory in several:
        await directory.close()


CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from simonides import config
from simonides.directory import Grant
async def main():
    directory = config.open_backend("directories", sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "make":
            key, secret = await directory.make(Grant(name="theirs", tenant="acme"))
            print(key.id, secret, flush=True)
        elif what == "revoke":
            print((await directory.revoke(rest[0], datetime(2026, 6, 1, tzinfo=UTC))).id, flush=True)
        elif what == "find":
            found = await directory.find(rest[0])
            print(found and found.closed(datetime.now(UTC)), found is not None, flush=True)
asyncio.run(main())
"""


class Child:
    """A process of its own that has the directory open."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", CHILD, f"sqlite:///{path}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.says()

    def says(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()

    def asked(self, *words: str) -> list[str]:
        self.tell(*words)
        return self.says()

    def tell(self, *words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


async def test_what_another_process_makes_or_revokes_is_seen_at_once(filed: Directory, path: Path, home: Path) -> None:
    child = Child(path)
    try:
        for _ in range(5):
            id, secret = child.asked("make")
            found = await filed.find(secret)
            assert found is not None and found.id == id
            assert await filed.find(secret) == found  # from what is at hand
            assert child.asked("revoke", id) == [id]
            closed = await filed.find(secret)
            assert closed is not None and closed.closed(JUNE) == "revoked"
            key, secret = await filed.make(PLAIN)
            assert child.asked("find", secret) == ["None", "True"]
            await filed.revoke(key.id, JUNE)
            assert child.asked("find", secret) == ["revoked", "True"]
    finally:
        child.end()


async def test_what_is_at_hand_is_not_read_again_until_somebody_writes(
    filed: Directory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(filed, SqliteDirectory)
    _, secret = await filed.make(PLAIN)
    reads = list[Any]()
    run = filed._run
    monkeypatch.setattr(filed, "_run", lambda *args: reads.append(args) or run(*args))
    for _ in range(3):
        await filed.find(secret)
    assert len(reads) == 1
    other = opened(f"sqlite:///{path}")
    await other.make(PLAIN)
    await other.close()
    await filed.find(secret)
    assert len(reads) == 2


async def test_what_is_at_hand_is_bounded(filed: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(filed, SqliteDirectory)
    monkeypatch.setattr("simonides.directories.sqlite.CACHED", 3)
    made = [await filed.make(PLAIN) for _ in range(8)]
    for key, secret in made * 2:
        assert await filed.find(secret) == key
    assert len(filed._cache) == 3


def test_several_processes_that_make_the_file_at_once_all_write_to_it(path: Path, home: Path) -> None:
    path.parent.mkdir()
    children = [Child.__new__(Child) for _ in range(3)]
    command = [sys.executable, "-c", CHILD, f"sqlite:///{path}"]
    for child in children:
        child.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert [child.says() for child in children] == [["ready"]] * 3
        for child in children * 20:
            child.tell("make")
        made = {id for child in children for _ in range(20) for id, _ in [child.says()]}
    finally:
        for child in children:
            child.end()
    assert len(made) == 60

    async def listed() -> set[str]:
        directory = opened(f"sqlite:///{path}")
        try:
            return {key.id for key in await directory.keys()}
        finally:
            await directory.close()

    assert asyncio.run(listed()) == made


@unix
async def test_a_key_that_was_acknowledged_survives_a_kill(path: Path, home: Path) -> None:
    acknowledged = list[tuple[str, str]]()
    for _ in range(8):
        child = Child(path)
        for _ in range(3):
            id, secret = child.asked("make")
            acknowledged.append((id, secret))
        child.asked("revoke", id)
        child.tell("make")  # it is killed over this one
        child.process.send_signal(signal.SIGKILL)
        child.end()
        directory = opened(f"sqlite:///{path}")
        for n, (id, secret) in enumerate(acknowledged):
            key = await directory.find(secret)
            assert key is not None and key.id == id
            assert (key.revoked is not None) == (n % 3 == 2)
        with pytest.raises(NotFound):
            await directory.get("nobody")
        await directory.close()
