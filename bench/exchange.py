"""Whole memories over HTTP: a large file of JSON lines in, everything out again, and that into another server.

    python bench/exchange.py [--size 1000] [--embedder none] [--markdown FILE] [--json FILE] [--folder DIR]

Each row says how fast it was and how much memory the server took at most meanwhile: that must not grow with the file,
so a quarter of it is sent first. The client reads and writes in blocks, too. Progress goes to stderr, the table to
stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import texts
from machine import machine
from opening import resident
from serve import Place, Server, saying

MB = 10**6
BLOCK = 1 << 20  # bytes that the client reads at once
LOOK_S = 0.05  # between two looks at the server's memory
TALK = 40  # messages of one session
SAID = 5  # made-up texts in one message: about a thousand characters
HEADS = ("", "MB", "seconds", "MB/s", "lines/s", "own memory before, MB", "at most, MB", "resident at most, MB")


@dataclass(frozen=True, slots=True)
class Moved:
    """What went in or out, and what it took: bytes, lines, seconds, and the server's memory in MB."""

    what: str
    size: int
    lines: int
    seconds: float
    before: float
    anonymous: float
    resident: float

    def cells(self) -> tuple[str, ...]:
        rates = (self.size / MB / self.seconds, self.lines / self.seconds)
        memory = (self.before, self.anonymous, self.resident)
        return (self.what, f"{self.size / MB:,.0f}", f"{self.seconds:,.1f}", *(f"{n:,.0f}" for n in (*rates, *memory)))


def main(given: Sequence[str] | None = None) -> int:
    options = _options(given)
    os.environ["SIMONIDES_CONFIG"] = os.devnull
    with tempfile.TemporaryDirectory(prefix="simonides-exchange-", dir=options.folder) as place:
        there = machine(Path(place).parent)
        found = asyncio.run(measure(Path(place), options))
    there["load"] += f", {os.getloadavg()[0]:.1f} at the end"
    there["embedder"] = options.embedder
    table = "\n".join(
        f"| {' | '.join(row)} |" for row in (HEADS, ["---"] * len(HEADS), *(each.cells() for each in found))
    )
    told = "\n".join(f"- {name}: {value}" for name, value in there.items()) + f"\n\n{table}\n"
    print(told, end="")
    if options.markdown:
        options.markdown.write_text(f"# Import and export over HTTP\n\n{told}", "utf-8")
    if options.json:
        rows = [{name: getattr(each, name) for name in Moved.__slots__} for each in found]
        options.json.write_text(json.dumps({"machine": there, "rows": rows}, indent=1) + "\n", "utf-8")
    return 0


async def measure(folder: Path, options: argparse.Namespace) -> list[Moved]:
    size, found = options.size * MB, list[Moved]()
    numbers = itertools.count()
    parts = [(folder / "quarter.jsonl", size // 4), (folder / "rest.jsonl", size - size // 4)]
    for path, part in parts:
        with saying(f"a file of {part / MB:,.0f} MB"):
            write(path, part, numbers)
    whole = folder / "everything.jsonl"
    async with _server(folder / "one", options).serving() as server:
        for what, (path, _) in zip(("import, a quarter", "import, the rest"), parts, strict=True):
            found.append(await watched(what, server, lambda path=path: sent(server, path)))
            path.unlink()
        found.append(await watched("export, everything", server, lambda: taken(server, whole)))
    async with _server(folder / "other", options).serving() as server:
        found.append(await watched("import of that export", server, lambda: sent(server, whole)))
    return found


def _server(folder: Path, options: argparse.Namespace) -> Place:
    folder.mkdir()
    (folder / "spool").mkdir()
    os.environ["TMPDIR"] = str(folder / "spool")  # where the server puts what it is sent, on the same disk
    return Place(folder, f"sqlite:///{folder}/served.db", 0, options.embedder)


def write(path: Path, size: int, numbers: Iterator[int]) -> None:
    """Write messages of sessions, about so many bytes."""
    said = texts.fresh()
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            for _ in range(100):
                number = next(numbers)
                content = " ".join(itertools.islice(said, SAID))
                role = "user" if number % 2 else "assistant"
                line = {"session": f"talk-{number // TALK}", "role": role, "content": f"{number} {content}"}
                file.write(json.dumps(line) + "\n")


async def watched(what: str, server: Server, work: Callable[[], tuple[int, int]]) -> Moved:
    """Do it, and look at the server's memory meanwhile."""
    with saying(what), _peak(server.process.pid) as peak:
        begun = time.perf_counter()
        size, lines = await asyncio.to_thread(work)
        seconds = time.perf_counter() - begun
    return Moved(what, size, lines, seconds, peak["before"], peak["anonymous"], peak["resident"])


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[dict[str, float]]:
    peak, done = {**resident(pid), "before": resident(pid).get("anonymous", 0.0)}, threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            for name, value in resident(pid).items():
                peak[name] = max(peak.get(name, 0.0), value)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peak
    finally:
        done.set()
        looking.join()


def sent(server: Server, path: Path) -> tuple[int, int]:
    """Send the file as an import; return its bytes and how many lines of it were read."""
    with path.open("rb") as file, _connected(server) as connection:
        length = str(path.stat().st_size)
        headers = {"Content-Type": "application/x-ndjson", "Content-Length": length, **_key(server)}
        connection.request("POST", "/api/v1/import", file, headers)
        answer = connection.getresponse()
        said: dict[str, Any] = json.loads(answer.read())
    assert answer.status in (200, 202), said
    assert not said["problems_count"] and said["read"] - said["new"] <= 1, said  # a talk may begin in the file before
    return path.stat().st_size, said["read"]


def taken(server: Server, path: Path) -> tuple[int, int]:
    """Write an export to that file; return its bytes and lines."""
    size = lines = 0
    with path.open("wb") as file, _connected(server) as connection:
        connection.request("GET", "/api/v1/export", headers=_key(server))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while block := answer.read(BLOCK):
            file.write(block)
            size, lines = size + len(block), lines + block.count(b"\n")
    return size, lines


@contextlib.contextmanager
def _connected(server: Server) -> Iterator[http.client.HTTPConnection]:
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=3600, blocksize=BLOCK)
    try:
        yield connection
    finally:
        connection.close()


def _key(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.key}"}


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure import and export over HTTP. See bench/README.md.")
    parser.add_argument("--size", type=int, default=1000, metavar="MB", help="of the file; default 1000")
    parser.add_argument("--embedder", default="none", help="of the server; default none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the stores are made; default, the system's")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
