"""What survives: processes killed at any point, several at once, full disks, foreign files, callers that go away."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from common import refused

from simonides import (
    AsyncMemory,
    Conflict,
    Damaged,
    Full,
    Invalid,
    Memory,
    Note,
    Record,
    Scope,
    SimonidesError,
    Unavailable,
    engine,
)
from simonides.store import Batch, Change, Store
from simonides.stores import sqlite

PATIENCE = 60.0  # seconds after which something is said to hang
SECRETS = [f"zirconium-{n} lies under the tamarind" for n in range(3)]

unix = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may mount or become nobody")


pytestmark = pytest.mark.usefixtures("home")


def child(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], said: str = "") -> list[str]:
    """Let the child end by itself, which it must do without an error; return what it printed."""
    out, errors = process.communicate(said, timeout=PATIENCE)
    assert process.returncode == 0, errors
    return out.splitlines()


def killed(process: subprocess.Popen[str]) -> list[str]:
    """Kill the child where it stands; return what it had printed and nobody had read yet, whole lines alone."""
    process.send_signal(signal.SIGKILL)
    assert process.stdout and process.stderr
    out = process.stdout.read()  # not communicate(), which would lose what is buffered
    errors = process.stderr.read()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
    assert process.wait(PATIENCE) == -signal.SIGKILL, errors
    return [line.rstrip("\n") for line in out.splitlines(keepends=True) if line.endswith("\n")]


def read(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout and process.stderr
    lines = [process.stdout.readline().rstrip("\n") for _ in range(count)]
    assert all(lines), process.stderr.read()
    return lines


def log_of(url: str) -> list[Change]:
    async def read() -> list[Change]:
        store = sqlite.SqliteStore(url)
        try:
            return await store.changes(limit=10**6)
        finally:
            await store.close()

    return asyncio.run(read())


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- killed while writing ---------------------------------------------------------------------------------------------

WRITES = """
import sys
from simonides import Memory
memory, name, n = Memory(sys.argv[1]), sys.argv[2], 0
def say(record):
    print(record.id, record.version, record.text.encode().hex(), flush=True)
    return record
while True:
    n += 1
    text = f"{name} writes {n} " + "words " * (n % 7 * 60)
    kept = say(memory.remember(text, user=name, labels=["a", "b"], metadata={"n": n}))
    if n % 2:
        say(memory.remember(f"{text} in a session", user=name, session=f"s{n % 5}", role="assistant"))
    if n % 3 == 0:
        say(memory.revise(kept.id, text=f"{text} revised", user=name))
    if n % 4 == 0:
        say(memory.supersede(kept.id, f"{text} superseded", user=name))
"""


@unix
@pytest.mark.parametrize(("durability", "rounds"), [("full", 19), ("normal", 6)])  # two kills a round: 50 in all
def test_no_acknowledged_write_is_lost_when_processes_are_killed(durability: str, rounds: int, home: Path) -> None:
    url, chance = f"sqlite:///{home}/me.db?durability={durability}", random.Random(durability)
    acknowledged: dict[tuple[str, int], str] = {}
    for round in range(rounds):
        writers = [child(WRITES, url, f"{round}-{n}") for n in range(2)]
        lines = [line for writer in writers for line in read(writer, chance.randint(1, 30)) + killed(writer)]
        acknowledged |= {(id, int(version)): text for id, version, text in map(str.split, lines)}
        with Memory(url) as memory:
            assert memory.doctor() == []
            versions = [
                v
                for record in memory.find(archived=True, newest=False, limit=10_000)
                for v in memory.history(record.id)
            ]
            kept = {(record.id, record.version): record.text.encode().hex() for record in versions}
            for id, version in acknowledged.keys() - kept.keys():
                kept[id, version] = memory.history(id)[version - 1].text.encode().hex()  # what was superseded
            assert acknowledged.items() <= kept.items()
            for record in versions:
                assert record.kind == "conversation" or record.text.startswith(f"{record.scope.user} writes ")
                assert record.part_of is None or memory.get(record.part_of).kind == "conversation"
                for old in record.targets("supersedes"):
                    assert memory.get(old).valid.until == record.valid.since
    assert [change.seq for change in log_of(url)] == list(range(1, len(log_of(url)) + 1))


BULK = """
import sys
from simonides import Memory
memory, n = Memory(sys.argv[1]), 0
while True:
    n += 1
    label = f"{sys.argv[2]}-{n}"
    turns = [{"role": "user", "content": f"{label}: {k} " + "words " * 40} for k in range(100)]
    memory.remember(turns, session=label, labels=label)
    print(label, flush=True)
"""


@unix
def test_a_list_is_kept_whole_or_not_at_all_when_the_process_is_killed(home: Path) -> None:
    url, acknowledged = f"sqlite:///{home}/me.db", set[str]()
    for round in range(8):
        writer = child(BULK, url, round)
        acknowledged |= {*read(writer, round % 3 + 1), *killed(writer)}
    with Memory(url) as memory:
        talks = {talk.text: talk for talk in memory.conversations(limit=10_000)}
        assert acknowledged <= talks.keys()
        for label, talk in talks.items():
            assert memory.count(labels=label) == 100 == len(memory.messages(talk.id))
        assert memory.count() == 101 * len(talks) and memory.doctor() == []


# -- killed while forgetting ------------------------------------------------------------------------------------------

FORGETS = """
import os, signal, sys
import apsw
url, die_at, counted = sys.argv[1], sys.argv[2], [0]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def trace(cursor, sql, values):
    if armed and (sql.split()[0] not in ("SELECT", "PRAGMA") or "checkpoint" in sql):
        counted[0] += 1
        if die_at == str(counted[0]):
            die()
    return True
armed = False
apsw.connection_hooks.append(lambda connection: setattr(connection, "exec_trace", trace))
from simonides import Memory
memory = Memory(url)
if die_at == "export":
    os.replace = die
armed = True
print("ready", flush=True)
memory.forget(user="gone")
print(counted[0], flush=True)
memory.close()
"""


def filled(home: Path) -> str:
    """Make a store with secrets in several versions, in an export, and among what stays."""
    url = f"sqlite:///{home}/me.db"
    with Memory(url) as memory:
        memory.remember([f"stays {n} " + "words " * 30 for n in range(20)], user="stays")
        for n, secret in enumerate(SECRETS):
            kept = memory.remember(
                secret, user="gone", id=f"gone-{n}", labels=["quartzite"], metadata={"k": "feldspar"}
            )
            memory.revise(kept.id, text=f"{secret}, and so on")
        (home / "me.db-files" / "exports").mkdir(parents=True, exist_ok=True)
        memory.export()
    return url


def check_all_or_nothing(home: Path, url: str) -> bool:
    """Open the store that a forget was killed in; return whether the secrets are gone."""
    with Memory(url) as memory:
        assert memory.doctor() == []
        assert memory.count(user="stays", shared=False) == 20
        left = memory.find(user="gone", newest=False)
        if left:
            assert [record.text for record in left] == [f"{secret}, and so on" for secret in SECRETS]
            assert [len(memory.history(record.id)) for record in left] == [2, 2, 2]
            assert len(memory.recall("zirconium tamarind", user="gone")) == 3
            return False
        files = {path: held for path, held in files_below(home).items() if path.suffix != ".gz"}
        for word in (b"zirconium", b"tamarind", b"quartzit", b"feldspar"):
            assert [path.name for path, held in files.items() if word in held.lower()] == []
        from simonides.exports import read as exported

        for path in home.rglob("*.jsonl*"):
            assert [
                record.text for record in exported(path) if "zirconium" in getattr(record, "text", "zirconium")
            ] == []
    return True


@unix
def test_a_forget_that_is_killed_at_any_statement_is_done_or_undone(home: Path) -> None:
    (home / "dry").mkdir()
    [_, said] = finished(child(FORGETS, filled(home / "dry"), "never"))
    total, outcomes = int(said), list[bool]()
    points = sorted({*range(1, total + 1, max(1, total // 20)), total})
    for point in points:
        (folder := home / str(point)).mkdir()
        process = child(FORGETS, url := filled(folder), point)
        assert process.wait(PATIENCE) in (-signal.SIGKILL, 0)  # 0: with fewer statements this time it came to its end
        process.communicate()
        outcomes.append(check_all_or_nothing(folder, url))
    assert outcomes == sorted(outcomes) and {*outcomes} == {True, False}  # undone up to some point, done from there on


@unix
def test_a_forget_that_is_killed_before_it_reaches_the_exports_reaches_them_later(home: Path) -> None:
    process = child(FORGETS, url := filled(home), "export")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.communicate()
    assert check_all_or_nothing(home, url)


@unix
def test_a_forget_that_is_killed_at_any_moment_is_done_or_undone(home: Path) -> None:
    for round in range(6):
        (folder := home / str(round)).mkdir()
        process = child(FORGETS, url := filled(folder), "never")
        read(process, 1)
        try:
            process.wait(round * 0.008)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        check_all_or_nothing(folder, url)


# -- several processes ------------------------------------------------------------------------------------------------

SEVERAL = """
import sys
from simonides import Memory
memory = Memory(sys.argv[1])
input()
for n in range(120):
    print(memory.remember(f"{sys.argv[2]} writes {n}", user=sys.argv[2], session="shared" if n % 2 else None).id)
memory.close()
"""


def test_two_processes_that_write_at_once_lose_nothing(home: Path) -> None:
    url = f"sqlite:///{home}/me.db"
    writers = [child(SEVERAL, url, name) for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda writer: finished(writer, "go\n"), writers))
    ids = [id for lines in said for id in lines]
    assert len(set(ids)) == len(ids) == 240
    with Memory(url) as memory:
        assert {record.id for record in memory.find(limit=1000, kinds=["note", "message"])} == set(ids)
        assert len(memory.conversations()) == 2 and memory.doctor() == []
    log = log_of(url)
    assert [change.seq for change in log] == list(range(1, 243)) and [change.at for change in log] == sorted(
        c.at for c in log
    )


READS = """
import sys, threading
from simonides import Memory
memory, seen, over = Memory(sys.argv[1]), 0, threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
print("ready", flush=True)
while not over.is_set():
    count = memory.count(user="u")
    assert count >= seen, (count, seen)
    assert count % 10 == 0, count
    seen = count
    assert all(hit.text.startswith("the bridge number") for hit in memory.recall("bridge", user="u"))
assert memory.count(user="u") == 600
memory.close()
"""


def test_a_process_that_reads_sees_whole_writes_and_only_more_of_them(home: Path) -> None:
    with Memory("me.db") as memory:
        readers = [child(READS, "me.db") for _ in range(2)]
        for reader in readers:
            read(reader, 1)
        for n in range(60):
            memory.remember([f"the bridge number {n}-{k}" for k in range(10)], user="u")
        for reader in readers:
            finished(reader, "over\n")


ON_ASKING = """
import sys
from simonides import Memory
with Memory(sys.argv[1]) as memory:
    for line in sys.stdin:
        memory.remember(line.strip())
        print("kept", flush=True)
"""


def test_what_another_process_writes_is_found_by_the_next_recall_by_meaning(home: Path) -> None:
    with Memory("me.db", embedder="hashing:") as memory:
        other = child(ON_ASKING, "me.db")
        assert other.stdin
        for number in range(1, 6):
            print(f"the bridge number {number}", file=other.stdin, flush=True)
            read(other, 1)
            hits = memory.recall("bridge number", limit=20)
            assert len(hits) == number and all("near" in hit.by for hit in hits)
        assert memory.doctor() == []
        finished(other)


HOLDS = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
input()
db.execute("COMMIT")
"""


def test_a_process_that_holds_the_store_is_waited_for_and_reading_goes_on(home: Path) -> None:
    with Memory("me.db") as memory, ThreadPoolExecutor(2) as pool:
        before = memory.remember("before")
        holder = child(HOLDS, "me.db")
        read(holder, 1)
        writes = [pool.submit(memory.remember, f"waits {n}") for n in range(2)]
        with pytest.raises(TimeoutError):
            writes[0].result(2)
        assert memory.find() == [before] and memory.recall("before")[0].record == before
        finished(holder, "over\n")
        assert {write.result(PATIENCE).text for write in writes} == {"waits 0", "waits 1"}
        assert memory.count() == 3


NEW = """
import sys
from simonides import Memory
while path := sys.stdin.readline().strip():
    with Memory(path) as memory:
        memory.remember("hello", user=sys.argv[1])
    print(path, flush=True)
"""


def test_two_processes_may_make_the_same_store_at_the_same_moment(home: Path) -> None:
    makers = [child(NEW, name) for name in "ab"]
    for round in range(20):
        for maker in makers:
            assert maker.stdin
            maker.stdin.write(f"{round}.db\n")
            maker.stdin.flush()
        for maker in makers:
            read(maker, 1)
        with Memory(f"{round}.db") as memory:
            assert memory.count() == 2 and memory.doctor() == []
    for maker in makers:
        finished(maker, "\n")


def test_many_threads_may_make_the_same_store_at_the_same_moment(home: Path) -> None:
    def make(path: str) -> str:
        together.wait(PATIENCE)
        with Memory(path) as memory:
            return memory.remember("hello").id

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for round in range(25):
            ids = set(pool.map(make, [f"{round}.db"] * 8))
            with Memory(f"{round}.db") as memory:
                assert {record.id for record in memory.find()} == ids and len(ids) == 8 and memory.doctor() == []


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    folder = home / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill_up(memory: Memory, size: int) -> list[str]:
    kept = list[str]()
    with pytest.raises(SimonidesError) as caught:
        while True:
            texts = [random.randbytes(size // 2).hex() for _ in range(3)]
            memory.remember(texts, user="u")
            kept += texts
    assert isinstance(caught.value, Full), repr(caught.value)
    assert "full" in str(caught.value) and len(kept) > 0
    return kept


@root
@pytest.mark.parametrize("size", [200, 60_000])
def test_a_full_disk_is_said_plainly_and_costs_nothing_that_was_kept(size: int, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * 1024 * 1024))
    url = str(small_disk / "me.db")
    with Memory(url) as memory:
        kept = fill_up(memory, size)
        for _ in range(3):
            assert isinstance(refused(memory.remember, "x" * 500_000), Full)
        assert sorted(record.text for record in memory.find(limit=10_000)) == sorted(kept)
        assert len(memory.recall(kept[0], limit=1)) == 1
    with Memory(url) as memory:  # opens while there is no room
        assert memory.count() == len(kept)
        ballast.unlink()
        memory.remember("there is room again", user="u")
        assert memory.count() == len(kept) + 1 and memory.doctor() == []
    assert [change.seq for change in log_of(f"sqlite:///{url}")] == list(range(1, len(kept) + 2))


@root
def test_forgetting_on_a_full_disk_is_done_or_refused_and_can_be_done_later(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * 1024 * 1024))
    url = str(small_disk / "me.db")
    with Memory(url) as memory:
        memory.remember("the zirconium secret", user="gone")
        kept = fill_up(memory, 20_000)
        try:
            memory.forget(user="gone")
            gone = True
        except SimonidesError as error:
            assert isinstance(error, Full | Unavailable)
            gone = False
            left = memory.count(user="gone")
            assert left == 1 or "nothing of this call was kept" not in str(error), (
                "it was erased, and says that it was not"
            )
    with Memory(url) as memory:  # opens while there is no room, whatever was cut off
        assert memory.count(user="u") == len(kept)
    ballast.unlink()
    with Memory(url) as memory:
        if not gone and memory.count(user="gone"):
            memory.forget(user="gone")
        assert memory.count(user="gone") == 0 and memory.doctor() == []
        assert all(b"zirconium" not in held for held in files_below(small_disk).values())


LIMITED = """
import resource, signal, sys
from simonides import Memory, SimonidesError, Unavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
memory, kept = Memory(sys.argv[1]), 0
try:
    while True:
        memory.remember(f"{kept} " + "words " * 3000)
        kept += 1
except Unavailable as error:
    print(kept, flush=True)
    assert memory.count() == kept
"""


@unix
def test_a_file_that_may_not_grow_is_an_error_of_ours_and_costs_nothing_that_was_kept(home: Path) -> None:
    [said] = finished(child(LIMITED, "me.db"))
    with Memory("me.db") as memory:
        assert memory.count() == int(said) > 0 and memory.doctor() == []
        memory.remember("more")


# -- what is no store of ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"this is no database\n" * 500,
        b"SQLite format 3\x00" + b"\xff" * 9000,
        random.Random(1).randbytes(9000),
        b"x",
        b"my to-do list\n" * 9,
    ],
)
def test_a_file_that_is_no_database_is_left_as_it_is(content: bytes, home: Path) -> None:
    (home / "me.db").write_bytes(content)
    assert isinstance(refused(Memory, "me.db"), Damaged)
    assert (home / "me.db").read_bytes() == content


def test_a_database_of_another_program_is_left_as_it_is(home: Path) -> None:
    with sqlite3.connect("other.db") as db:
        db.execute("CREATE TABLE meta (x)")
        db.execute("PRAGMA user_version = 1")
    db.close()
    before = (home / "other.db").read_bytes()
    assert isinstance(refused(Memory, "other.db"), Invalid)
    assert (home / "other.db").read_bytes() == before


def test_a_store_of_a_newer_simonides_is_left_as_it_is(home: Path) -> None:
    with Memory("me.db") as memory:
        memory.remember("from the future")
    with sqlite3.connect("me.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (home / "me.db").read_bytes()
    error = refused(Memory, "me.db")
    assert isinstance(error, Damaged) and "newer" in str(error)
    assert (home / "me.db").read_bytes() == before


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_store_is_an_error_of_ours_and_never_an_empty_answer(share: float, home: Path) -> None:
    with Memory("me.db") as memory:
        kept = memory.remember([f"text {n} " + "words " * 100 for n in range(300)])
    held = (home / "me.db").read_bytes()
    (home / "me.db").write_bytes(held[: int(len(held) * share)])
    try:
        with Memory("me.db") as memory:
            assert memory.doctor() != []
            found = memory.find(limit=1000)
            assert len(found) == len(kept)
    except SimonidesError as error:
        assert isinstance(error, Damaged)


def test_a_store_with_a_damaged_page_says_so(home: Path) -> None:
    with Memory("me.db") as memory:
        memory.remember([f"text {n} " + "words " * 100 for n in range(300)])
    with open("me.db", "r+b") as file:
        file.seek(len((home / "me.db").read_bytes()) // 2 // 4096 * 4096)
        file.write(b"\xee" * 8192)
    with Memory("me.db") as memory:
        assert memory.doctor() != []


@pytest.mark.parametrize("path", [".", "folder", "/proc/nothing/me.db", "me.txt/me.db", "x" * 300 + ".db"])
def test_a_path_that_cannot_be_a_file_is_an_error_of_ours(path: str, home: Path) -> None:
    (home / "folder").mkdir()
    (home / "me.txt").write_text("a file")
    assert isinstance(refused(Memory, path), Unavailable | Invalid)


NOBODY = """
import os, sys
import simonides.stores.sqlite
from simonides import Memory, Unavailable
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        with Memory(path) as memory:
            memory.remember("written where nothing may be written")
    except Unavailable as error:
        print("refused", flush=True)
"""


@root
def test_a_folder_that_may_not_be_written_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setenv("SIMONIDES_CONFIG", str(folder / "config.toml"))
        with Memory(folder / "old.db") as memory:
            memory.remember("old")
        assert (
            finished(child(NOBODY, folder / "new.db", folder / "sub" / "new.db", folder / "old.db")) == ["refused"] * 3
        )
        assert [path.name for path in folder.iterdir() if path.name.startswith("new") or path.name == "sub"] == []


@pytest.mark.parametrize("case", ["a folder", "no text", "not allowed"])
def test_a_configuration_that_cannot_be_read_is_an_error_of_ours(case: str, home: Path) -> None:
    config = home / "config.toml"
    if case == "a folder":
        config.mkdir()
    elif case == "no text":
        config.write_bytes(b"\xff\xfe\x00")
    else:
        if os.name == "nt" or os.geteuid() != 0:
            pytest.skip("only root may become nobody")
        config.write_text("")
        code = NOBODY.replace("except Unavailable", "except Exception").replace('"refused"', "type(error).__mro__")
        [said] = finished(child(code, home / "me.db"))
        assert "SimonidesError" in said
        return
    assert isinstance(refused(Memory, "me.db"), Invalid | Unavailable)


# -- many callers -----------------------------------------------------------------------------------------------------


async def test_64_callers_of_one_asynchronous_memory_lose_nothing(home: Path) -> None:
    async def caller(memory: AsyncMemory, n: int) -> list[Record]:
        kept = []
        for k in range(10):
            kept.append(
                await memory.remember(f"caller {n} says {k}", user=f"u{n % 8}", session=f"s{n % 3}" if n % 2 else None)
            )
            assert await memory.get(kept[-1].id, user=f"u{n % 8}") == kept[-1]
            await memory.recall("caller", user=f"u{n % 8}", limit=3)
        return kept

    async with AsyncMemory("me.db") as memory:
        kept = sum(await asyncio.gather(*(caller(memory, n) for n in range(64))), list[Record]())
        assert len({record.id for record in kept}) == 640
        found = await memory.find(kinds=["note", "message"], limit=1000)
        assert {record.id: record for record in found} == {record.id: record for record in kept}
        assert len(await memory.conversations()) == 12 and await memory.doctor() == []
    log = await asyncio.to_thread(log_of, f"sqlite:///{home}/me.db")
    assert [change.seq for change in log] == list(range(1, 653))


@pytest.mark.parametrize("url", ["me.db", ":memory:"])
def test_16_threads_that_share_a_memory_lose_nothing(url: str, home: Path) -> None:
    def caller(n: int) -> list[Record]:
        kept = []
        for k in range(25):
            kept.append(memory.remember(f"thread {n} says {k}", user=f"u{n}"))
            memory.recall("thread says", user=f"u{n}", limit=3)
            assert memory.count(user=f"u{n}") == k + 1
        return kept

    with Memory(url) as memory, ThreadPoolExecutor(16) as pool:
        kept = [record for records in pool.map(caller, range(16)) for record in records]
        assert {record.id for record in memory.find(limit=1000)} == {record.id for record in kept}
        assert len(kept) == 400 and memory.doctor() == []


async def test_of_many_writers_of_one_id_one_wins_and_no_neighbour_is_harmed(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        same = [memory.remember(f"text {n}", id="same", space="new") for n in range(32)]
        lists = [
            memory.remember([{"content": f"{n}", "id": "twice"}, {"content": "other", "id": "twice"}], space="new")
            for n in range(8)
        ]
        others = [memory.remember(f"neighbour {n}", space="new") for n in range(32)]
        said = await asyncio.gather(*same, *lists, *others, return_exceptions=True)
        won = [each for each in said[:32] if isinstance(each, Record)]
        assert len(won) == 1 and all(isinstance(each, Conflict) for each in said[:40] if each is not won[0])
        assert await memory.get("same", space="new") == won[0]
        assert await memory.count(space="new") == 33  # and nothing of the lists
        assert await memory.count() == 0 and await memory.doctor() == []


async def test_a_caller_that_is_cancelled_harms_nobody(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        tasks = [
            asyncio.create_task(memory.remember([f"{n} says one", f"{n} says two"], labels=f"n{n}")) for n in range(40)
        ]
        for step, task in enumerate(tasks):
            if step % 2:
                task.cancel()
            await asyncio.sleep(0)
        said = await asyncio.gather(*tasks, return_exceptions=True)
        for n, each in enumerate(said):
            whole = await memory.count(labels=f"n{n}")
            assert whole == 2 if isinstance(each, list) else whole in (0, 2)
        assert isinstance(await memory.remember("goes on"), Record) and await memory.doctor() == []


async def test_an_opening_that_is_cancelled_can_be_tried_again(home: Path) -> None:
    memory = AsyncMemory("me.db")
    for step in range(6):
        task = asyncio.create_task(memory.remember(f"try {step}"))
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await asyncio.wait_for(memory.remember("kept"), PATIENCE)).text == "kept"
    await memory.close()


def test_a_healthy_memory_has_no_complaints_whatever_was_read_and_written_before(home: Path) -> None:
    with Memory("me.db") as memory:
        for _ in range(5):
            for n in range(30):
                memory.remember(f"note {n}")
            memory.recall("note")
            assert [memory.doctor() for _ in range(4)] == [[]] * 4
        memory.rebuild()
        assert [memory.doctor() for _ in range(4)] == [[]] * 4


# -- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2, 20])
@pytest.mark.parametrize("url", ["me.db", ":memory:"])
async def test_closing_answers_everybody_who_still_waits(url: str, steps: int, home: Path) -> None:
    memory = await AsyncMemory(url).open()
    tasks = [asyncio.create_task(memory.remember(f"text {n}", session="s" if n % 2 else None)) for n in range(30)]
    tasks += [asyncio.create_task(memory.find()) for _ in range(10)]  # type: ignore[arg-type]
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.wait_for(memory.close(), PATIENCE)
    _, waiting = await asyncio.wait(tasks, timeout=4)
    for task in waiting:
        task.cancel()
    assert not waiting, f"{len(waiting)} callers wait for ever"
    said = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, Record | list | SimonidesError) for each in said), said
    if url == "me.db":
        async with AsyncMemory(url) as again:
            for each in said:
                if isinstance(each, Record):
                    assert await again.get(each.id) == each
            assert await again.doctor() == []


@contextmanager
def threads(count: int, work: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    started = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in started:
        thread.start()
    yield started


def test_closing_answers_every_thread_that_still_waits(home: Path) -> None:
    for round in range(5):
        memory, kept, errors, begun = (
            Memory(f"{round}.db"),
            list[Record](),
            list[BaseException](),
            threading.Semaphore(0),
        )

        def work() -> None:
            try:
                while True:
                    kept.append(memory.remember("text"))  # noqa: B023
                    begun.release()  # noqa: B023
            except BaseException as error:
                errors.append(error)  # noqa: B023

        with threads(8, work) as started:
            for _ in range(8 + round * 5):
                assert begun.acquire(timeout=PATIENCE)
            memory.close()
            for thread in started:
                thread.join(4)
            assert not any(thread.is_alive() for thread in started), "a thread waits for ever"
        assert len(errors) == 8 and all(isinstance(error, Invalid) for error in errors), errors
        with Memory(f"{round}.db") as again:
            assert {record.id for record in kept} <= {record.id for record in again.find(limit=10_000)}


USES: dict[str, Callable[[Any], Any]] = {
    "remember": lambda m: m.remember("x"),
    "recall": lambda m: m.recall("x"),
    "context": lambda m: m.context("x"),
    "get": lambda m: m.get("x"),
    "find": lambda m: m.find(),
    "count": lambda m: m.count(),
    "history": lambda m: m.history("x"),
    "messages": lambda m: m.messages("x"),
    "conversations": lambda m: m.conversations(),
    "revise": lambda m: m.revise("x", text="y"),
    "supersede": lambda m: m.supersede("x", "y"),
    "retract": lambda m: m.retract("x"),
    "forget": lambda m: m.forget("x"),
    "certificates": lambda m: m.certificates(),
    "export": lambda m: m.export("x.jsonl"),
    "keep": lambda m: m.keep([]),
    "restore": lambda m: m.restore([]),
    "stats": lambda m: m.stats(),
    "doctor": lambda m: m.doctor(),
    "rebuild": lambda m: m.rebuild(),
    "settle": lambda m: m.settle(),
}


@pytest.mark.parametrize("name", USES)
async def test_a_closed_memory_says_that_it_is_closed(name: str, home: Path) -> None:
    with Memory("me.db") as memory:
        pass
    memory.close()
    error = refused(USES[name], memory)
    assert isinstance(error, Invalid) and "closed" in str(error)
    async with AsyncMemory("me.db") as core:
        pass
    await core.close()
    with pytest.raises(Invalid, match="closed"):
        await USES[name](core)


async def test_a_memory_that_was_never_opened_can_be_closed(home: Path) -> None:
    memory = AsyncMemory("never.db")
    await memory.close()
    with pytest.raises(Invalid, match="closed"):
        await memory.open()
    assert not (home / "never.db").exists()


async def test_closing_waits_for_an_opening_under_way(home: Path) -> None:
    memory = AsyncMemory("me.db")
    opening = asyncio.create_task(memory.open())
    await asyncio.sleep(0)
    await memory.close()
    assert opening.done(), "what it opens later nobody would close"
    await opening


async def test_a_first_call_that_is_given_up_leaves_no_store_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that opens it cannot be stopped: what it has opened in the end is closed."""
    began, go, made = threading.Event(), threading.Event(), list[Store]()
    really = engine.open_store

    def slowly(*given: str) -> Store:
        began.set()
        assert go.wait(20)
        made.append(really(*given))
        return made[0]

    monkeypatch.setattr(engine, "open_store", slowly)
    memory = AsyncMemory("me.db")
    call = asyncio.create_task(memory.recall("where do I live?"))
    await asyncio.to_thread(began.wait, 20)
    call.cancel()
    await asyncio.sleep(0.01)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(Invalid, match="closed"):
        await made[0].realms()
    monkeypatch.undo()
    assert await memory.recall("where do I live?") == []
    await memory.close()


def test_a_memory_called_from_inside_itself_says_what_to_use_instead(home: Path) -> None:
    with Memory("me.db") as memory:
        records = [Record(scope=Scope(), body=Note(text="x"))]
        error = refused(memory.keep, records, progress=lambda _: memory.count())  # type: ignore[arg-type]
        assert isinstance(error, Invalid) and "AsyncMemory" in str(error)
        assert memory.count() == 1


async def test_a_memory_may_be_used_while_another_loop_runs(home: Path) -> None:
    with Memory("me.db") as memory:
        assert memory.recall(memory.remember("from inside a loop").text)


def test_what_was_refused_at_the_door_leaves_no_thread_and_no_loop_behind(home: Path) -> None:
    before = ours()
    for _ in range(3):
        refused(Memory, "me.db", tenant="")
        refused(Memory, "mongodb://x")
        refused(Memory, ".")
    gc.collect()  # what was not closed complains here
    assert ours() == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file that is there and cannot be read")
@pytest.mark.parametrize("embedder", ["none", "hashing:"])
async def test_an_opening_that_fails_leaves_nothing_open_and_may_be_tried_again(embedder: str, home: Path) -> None:
    store, record = sqlite.open(f"sqlite:///{home}/me.db"), Record(scope=Scope(), body=Note(text="x"))
    await store.commit(Batch(put=(record,)))
    await store.commit(Batch(erase=(record.ref,)))  # cut off here: opening is to finish it
    await store.close()
    export = home / "me.db-files" / "exports" / "all.jsonl"
    export.parent.mkdir(parents=True)
    export.symlink_to("/proc/self/mem")
    before, memory = ours(), AsyncMemory("me.db", embedder=embedder)
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot look into"):
            await memory.open()
        gc.collect()  # what was not closed complains here
        assert ours() == before
    export.unlink()
    assert await memory.count() == 0
    assert len(await memory.certificates()) == 1
    await memory.close()


def ours() -> list[str]:
    """Return the names of the threads of ours that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simonides")]
