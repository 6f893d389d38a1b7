"""Whole memories in and out of a running server: in memory that does not grow, within limits, and leaving nothing."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from serving import PATIENCE_S, Served, child, served, until

from simonides import Memory
from simonides.intake import Watch, take_in
from simonides.record import Record, Scope
from simonides.servers import spool
from simonides.serving import Serving

MB = 2**20
SENT = 60 * MB
GROWS_BY = 90 * MB  # at most, while that goes in and out: what the caches of the database and buffers take

posix = pytest.mark.skipif(sys.platform == "win32", reason="files are held by locks of POSIX")


def own_memory(pid: int) -> int:
    """Return the bytes of a process that are its own: not those of files that it has mapped."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Anonymous:"))


@contextlib.contextmanager
def highest(pid: int) -> Iterator[list[int]]:
    """Give a list whose last number is how much memory of its own the process ever had meanwhile."""
    peak, done = [own_memory(pid)], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            peak.append(max(peak[-1], own_memory(pid)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peak
    finally:
        done.set()
        looking.join()


def lines(size: int, seed: int) -> Iterator[bytes]:
    """Yield messages as JSON lines, about so many bytes: long words, so that indexing them costs little."""
    drawn, number = random.Random(seed), 0
    while size > 0:
        words = " ".join(f"{drawn.getrandbits(512):x}" for _ in range(500))
        line = json.dumps({"session": f"{seed}-{number // 20}", "role": "user", "content": words}).encode() + b"\n"
        yield line
        size, number = size - len(line), number + 1


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell memory")
def test_large_files_go_in_and_out_in_memory_that_does_not_grow(home: Path) -> None:
    with child(home, SIMONIDES_EMBEDDER="none") as server, httpx.Client(base_url=server.url, timeout=300) as client:
        assert client.post("/api/v1/import", content=lines(3 * MB, 1)).json()["new"] > 40
        before = own_memory(server.process.pid)
        with highest(server.process.pid) as peak:
            said = client.post("/api/v1/import", content=lines(SENT, 2)).json()
            assert said["problems_count"] == 0 and said["new"] == said["read"]
            got = 0
            with client.stream("GET", "/api/v1/export", headers={"Accept-Encoding": "identity"}) as answer:
                for block in answer.iter_raw():
                    got += len(block)
        assert got > SENT
        assert peak[-1] - before < GROWS_BY, f"{before / MB:.0f} MB, then {peak[-1] / MB:.0f} MB"


# -- what is sent lies in a file meanwhile -------------------------------------------------------------------------


@posix
def test_what_a_killed_server_was_sent_is_gone_once_it_starts_again(home: Path) -> None:
    place, hold = home / "spool", threading.Event()
    place.mkdir()

    def body() -> Iterator[bytes]:
        yield b'{"content": "the safe is behind the mirror"}\n'
        hold.wait(PATIENCE_S)

    def send(url: str) -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{url}/api/v1/import", content=body(), timeout=PATIENCE_S)

    with child(home, TMPDIR=str(place), SIMONIDES_EMBEDDER="none") as server:
        sending = threading.Thread(target=send, args=(server.url,))
        sending.start()
        until(lambda: any(place.glob("simonides-import-*")))
        server.process.kill()
        server.process.wait()
    hold.set()
    sending.join()
    assert len(list(place.glob("simonides-import-*"))) == 1
    with child(home, TMPDIR=str(place), SIMONIDES_EMBEDDER="none") as server:
        until(lambda: not any(place.glob("simonides-import-*")))
        assert server.stop() == 0


@posix
def test_what_a_living_process_is_sent_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "simonides-import-left").write_text("what was said")
    (tmp_path / "others").write_text("not ours")
    (tmp_path / "simonides-import-link").symlink_to(tmp_path / "others")
    with spool._held() as (_, path):
        assert spool.sweep() == 1
        assert path.exists() and (tmp_path / "others").exists()
    assert not path.exists()


# -- how much at once ----------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Served]:
    with served(serving=Serving(port=0, directory="memory:", streams_max=1, imports_max=1)) as found:
        yield found


def limited(answer: httpx.Response) -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["code"] == "limited" and int(answer.headers["retry-after"]) >= 1
    return True


def streamed(client: httpx.Client, url: str, **more: dict[str, str]) -> httpx.Response:
    """Return the answer to a question for a stream, without waiting for its end."""
    with client.stream("GET", url, **more) as answer:  # type: ignore[arg-type]
        if answer.status_code != 200:
            answer.read()
        return answer


def test_a_key_has_so_many_streams_of_events_open(server: Served) -> None:
    events = f"{server.url}/api/v1/events"
    with httpx.Client(timeout=PATIENCE_S) as client:
        with client.stream("GET", events) as first:
            assert first.status_code == 200
            assert limited(streamed(client, events))
        until(lambda: streamed(client, events).status_code == 200)


def test_so_with_those_of_mcp(server: Served) -> None:
    begin = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    takes = {"Accept": "application/json, text/event-stream"}
    with httpx.Client(timeout=PATIENCE_S) as client:
        sessions = []
        for _ in range(2):
            begun = client.post(f"{server.url}/mcp", json=begin, headers=takes)
            sessions.append(takes | {"Mcp-Session-Id": begun.headers["mcp-session-id"]})
        with client.stream("GET", f"{server.url}/mcp", headers=sessions[0]) as first:
            assert first.status_code == 200
            assert limited(streamed(client, f"{server.url}/mcp", headers=sessions[1]))
            assert client.post(f"{server.url}/mcp", json=begin, headers=takes).status_code == 200
        until(lambda: streamed(client, f"{server.url}/mcp", headers=sessions[1]).status_code == 200)


def test_a_key_sends_so_many_imports_at_once(server: Served) -> None:
    imports, begun, hold = f"{server.url}/api/v1/import", threading.Event(), threading.Event()
    line, found = b'{"role": "user", "content": "a line"}\n', list[httpx.Response]()

    def body() -> Iterator[bytes]:
        yield line
        begun.set()
        assert hold.wait(PATIENCE_S)

    first = threading.Thread(target=lambda: found.append(httpx.post(imports, content=body(), timeout=PATIENCE_S)))
    first.start()
    assert begun.wait(PATIENCE_S)
    until(lambda: limited(httpx.post(imports, content=line)))
    hold.set()
    first.join()
    assert found[0].json()["read"] == 2  # the conversation of the file, and what is said in it
    assert httpx.post(imports, content=line).status_code in (200, 202)


# -- imported again ------------------------------------------------------------------------------------------------

HERE = Scope(tenant="default", space="main")


def chat(*said: str, live: str = "b", title: str = "A chat") -> str:
    """Return an export of ChatGPT: a question and two answers to it, of which `live` is the one that counts."""
    told = dict(zip("qab", (*said, *("Where is the key?", "With Ana", "With Rui")[len(said) :]), strict=True))
    nodes = {
        key: {
            "id": key, "parent": None if key == "q" else "q",
            "message": {
                "author": {"role": "user" if key == "q" else "assistant"}, "create_time": 1767225600 + place,
                "content": {"content_type": "text", "parts": [text]},
            },
        }
        for place, (key, text) in enumerate(told.items())
    }  # fmt: skip
    return json.dumps([{"conversation_id": "talk", "title": title, "current_node": live, "mapping": nodes}])


def said(memory: Memory) -> dict[str, Record]:
    return {record.text: record for record in memory.find(archived=True, ended=True, limit=100)}


CORRECTIONS: dict[str, Callable[[Memory, Record], object]] = {
    "archived": lambda memory, record: memory.revise(record.id, archived=True),
    "labelled": lambda memory, record: memory.revise(record.id, labels=["x"]),
    "filed": lambda memory, record: memory.revise(record.id, folder="a/b"),
    "pinned": lambda memory, record: memory.revise(record.id, pinned=True),
    "weighed": lambda memory, record: memory.revise(record.id, importance=9),
    "described": lambda memory, record: memory.revise(record.id, metadata={"room": 2}),
    "dated": lambda memory, record: memory.revise(record.id, at="2026-02-03T00:00:00+00:00"),
    "ended": lambda memory, record: memory.revise(record.id, ends="2026-02-03T00:00:00+00:00"),
    "revised": lambda memory, record: memory.revise(record.id, text="With Maria"),
    "superseded": lambda memory, record: memory.supersede(record.id, "With Maria"),
    "retracted": lambda memory, record: memory.retract(record.id),
}


@pytest.mark.parametrize("how", CORRECTIONS)
def test_what_was_changed_here_stays_when_the_same_file_is_imported_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(chat())
    with Memory(":memory:", embedder="hashing:") as memory:
        take_in(memory, [path], HERE)
        CORRECTIONS[how](memory, said(memory)["With Rui"])
        for record in list(said(memory).values()):
            memory.revise(record.id, folder="all")  # and what comes after it is no reason either
        before = said(memory)
        assert not take_in(memory, [path], HERE).new
        assert said(memory) == before


def test_a_branch_that_is_taken_up_again_is_found_again_whatever_was_organised_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    with Memory(":memory:", embedder="hashing:") as memory:
        for live, other in (("Rui", "Ana"), ("Ana", "Rui"), ("Rui", "Ana")):
            path.write_text(chat(live={"Ana": "a", "Rui": "b"}[live]))
            take_in(memory, [path], HERE)
            found = said(memory)
            assert [found[f"With {name}"].status for name in (live, other)] == ["active", "archived"]
            assert not take_in(memory, [path], HERE).new
            memory.revise(found["With Rui"].id, labels=[live])


def test_what_a_source_says_otherwise_is_taken_over_beside_what_was_changed_here(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(chat())
    with Memory(":memory:", embedder="hashing:") as memory:
        take_in(memory, [path], HERE)
        memory.revise(said(memory)["With Rui"].id, labels=["x"], ends="2026-02-03T00:00:00+00:00")
        path.write_text(chat("Where is the key?", "With Ana", "With Rui, at 12", title="Keys"))
        assert sum(take_in(memory, [path], HERE).new.values()) == 2
        found = said(memory)
        assert "Keys" in found and "With Rui" not in found
        assert found["With Rui, at 12"].labels == ("x",) and found["With Rui, at 12"].valid.until
        assert not take_in(memory, [path], HERE).new


def test_a_label_that_a_file_gives_later_comes_and_one_that_was_taken_off_here_stays_off(tmp_path: Path) -> None:
    path, text = tmp_path / "flat.md", "---\ntags: [{}]\n---\nThe boiler is serviced every October.\n"
    with Memory(":memory:", embedder="hashing:") as memory:

        def labels() -> list[str]:
            take_in(memory, [path], HERE)
            return list(said(memory)["flat.md"].labels)

        path.write_text(text.format("home"))
        assert labels() == ["home"]
        memory.organise(said(memory)["flat.md"].id, labels=["mine"])
        assert labels() == ["mine"]
        path.write_text(text.format("home, porto"))
        assert labels() == ["home", "mine", "porto"]
        memory.organise(said(memory)["flat.md"].id, labels=["mine"])
        assert labels() == ["mine"]


def test_a_passage_that_was_archived_by_hand_stays_so_and_one_that_was_gone_comes_back(tmp_path: Path) -> None:
    path, all_of_it = tmp_path / "flat.md", "# Keys\n\nWith Ana.\n\n# Heating\n\nIn October.\n"
    path.write_text(all_of_it)
    with Memory(":memory:", embedder="hashing:") as memory:

        def looked_at() -> dict[str, str]:
            Watch(memory, tmp_path, HERE).look()
            return {record.text.split()[1]: record.status for record in said(memory).values() if record.kind == "chunk"}

        assert looked_at() == {"Keys": "active", "Heating": "active"}
        path.write_text("# Keys\n\nWith Ana.\n\n")
        assert looked_at() == {"Keys": "active", "Heating": "archived"}
        memory.revise(next(record.id for record in said(memory).values() if "Ana" in record.text), archived=True)
        path.write_text(all_of_it)
        assert looked_at() == {"Keys": "archived", "Heating": "active"}
        assert looked_at() == {"Keys": "archived", "Heating": "active"}


# -- at a terminal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_progress_goes_on_evenly_with_what_is_kept_not_with_what_is_read(tmp_path: Path, packed: bool) -> None:
    path, told = tmp_path / "talk.jsonl", list[int]()
    rows = [{"role": "user", "content": f"line {n} " + "x" * 60, "about": "y" * 150} for n in range(900)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    size = path.stat().st_size
    assert size < 256 * 1024  # read at once
    with Memory(":memory:", embedder="hashing:") as memory:
        take_in(memory, [path], Scope(tenant="default", space="main"), told.append)
    assert told == sorted(told) and len(set(told)) > 5 and told[-1] == size
    assert max(later - before for before, later in zip([0, *told], told, strict=False)) < size / 4


def test_what_is_slow_is_kept_in_smaller_parts(tmp_path: Path) -> None:
    path, told = tmp_path / "talk.jsonl", list[float]()
    path.write_text("".join(json.dumps({"role": "user", "content": f"line {n}"}) + "\n" for n in range(400)))

    class Slow:
        def keep(self, records: list[object]) -> list[object]:
            told.append(len(records))
            time.sleep(0.005 * len(records))
            return records

    take_in(Slow(), [path], Scope(tenant="default", space="main"))  # type: ignore[arg-type]
    assert told[0] == 128 and min(told[1:-1]) < 128 and sum(told) == 401
