"""How fast it is served: a real `simonides serve` in a process of its own, and clients in this one.

    python bench/serve.py [--size 100000] [--seconds 8] [--soak 600] [--markdown FILE] [--json FILE] [--folder DIR]

The README beside this file says what each row means. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import texts
import writes
from client import BROKEN, Connection, asking
from clock import WARM, Figure, Watch
from clusters import Clustered, open_clustered, open_modelled
from machine import machine
from opening import resident
from report import MB, MS, RATE, Part, Report, Row

from simonides import AsyncMemory, Memory
from simonides.embedder import Embedder
from simonides.errors import NotFound

CLIENTS = (1, 16, 64)
MOST = CLIENTS[-1]
LIVE = 300  # calls
STARTS = 3
QUESTIONS = 6000  # more than the model's cache holds, so that going round finds none of them in it
SOAKED_BY, SOAKED_EVERY = 16, 10.0  # clients; seconds
SIGNALLED_AFTER_S = 2.0
LOOK_S = 0.1  # between two looks
STOPPED_WITHIN_S = 60
ENTRY = "[simonides.embedders]\nmodelled = clusters:open_modelled\nclustered = clusters:open_clustered\n"
HERE = Path(__file__).parent
BEGUN = time.monotonic()
COUNT = "of them"

PARTS = (
    Part(
        "Recall, k = 10, with the real model",
        (
            Row("library", "through the library, in the client's process"),
            Row("paired", "over HTTP, the same questions in turn"),
            Row("overhead", "what HTTP adds: the median of their differences", target="≤ 2 ms p50"),
            Row("live", "the least that a call costs: /health/live"),
            Row("recall_1", "one client", target="p95: 25 ms"),
            *(Row(f"recall_{n}", f"{n} clients at once") for n in CLIENTS[1:]),
            *(Row(f"recall_{n}_rate", f"{n} client{'s at once' * (n > 1)}", RATE) for n in CLIENTS),
            Row("held", f"{MOST} clients at once, while 1,000 connections are held idle"),
            Row("held_rate", f"{MOST} clients at once, while 1,000 connections are held idle", RATE),
            Row("held_dead", "idle connections that no longer answered then", COUNT, "0"),
        ),
    ),
    Part(
        f"Adding, {MOST} clients at once",
        (
            Row("add_stored", "wait=stored"),
            Row("add_stored_rate", "wait=stored", RATE),
            Row("add_indexed", "wait=indexed, with the real model"),
            Row("add_indexed_rate", "wait=indexed, with the real model", RATE),
            Row("mixed", "nine recalls to an add that waits to be indexed"),
            Row("mixed_rate", "nine recalls to an add that waits to be indexed", RATE),
        ),
    ),
    Part(
        "The server",
        (
            Row("ready", "from its start until it is ready", MS, "≤ 1,000 ms"),
            Row("stop", f"from SIGTERM under {MOST} clients who add until it has ended"),
            Row("lost", "adds that were answered, and are not there afterwards", COUNT, "0"),
            Row("cut", "adds that are there, and were not answered", COUNT, "0"),
            Row("errors", "answers that were none, in all of the above", COUNT, "0"),
            Row("memory_before", "its own memory, at the first answer", MB),
            Row("memory", "its own memory, after all of the above", MB),
            Row("soaked", f"a soak: {SOAKED_BY} clients, nine recalls to an add"),
            Row("soaked_rate", f"a soak: {SOAKED_BY} clients, nine recalls to an add", RATE),
            Row("soaked_memory_before", "its own memory, a tenth into the soak", MB),
            Row("soaked_memory", "its own memory, at its end", MB, "as before"),
        ),
    ),
)  # fmt: skip


def main(given: Sequence[str] | None = None) -> int:
    options = _options(given)
    os.environ["SIMONIDES_CONFIG"] = os.devnull  # the settings of whoever runs this are not what is measured
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    report = Report(PARTS)
    with tempfile.TemporaryDirectory(prefix="simonides-serve-", dir=options.folder) as place:
        there = machine(Path(place).parent)
        asyncio.run(measure(Path(place), options, report))
    there["load"] += f", {os.getloadavg()[0]:.1f} at the end"
    there["took"] = f"{time.monotonic() - BEGUN:.0f} s, {options.seconds:g} s a load" + (
        f", a soak of {options.soak:g} s" if options.soak else ""
    )
    table = report.markdown(there, [options.size])
    print(table, end="")
    if options.markdown:
        options.markdown.write_text(f"# The server\n\n{table}", "utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(there), indent=1) + "\n", "utf-8")
    return 0


async def measure(folder: Path, options: argparse.Namespace, report: Report) -> None:
    """Measure everything. What reads comes first: what writes makes the store grow."""
    size, seconds, soak = options.size, options.seconds, options.soak
    url = f"sqlite:///{folder}/served.db"
    with saying(f"a store of {size:,}"):
        writes.bulk(url, size, Clustered())
    place = Place(folder, url, size, "clustered:" if options.bare else "modelled:")
    with saying("starting"):
        report.put("ready", size, await starts(place))
    asked, said = itertools.cycle(questions(size)), texts.fresh()
    errors = 0
    async with place.serving() as server:
        with saying("the library and HTTP in turn"):
            await in_turn(server, asked, options.paired, report)
        put_memory("memory_before", server, report)
        for clients in CLIENTS:
            with saying(f"recall, {clients} at once"):
                errors += put(
                    f"recall_{clients}", await server.load(clients, seconds, server.recalls(asked)), size, report
                )
        with saying(f"recall, {MOST} at once, {options.idle:,} idle"):
            held = [await Connection.to(server.url) for _ in range(options.idle)]
            dead = await dead_of(server, held)
            errors += dead + put("held", await server.load(MOST, seconds, server.recalls(asked)), size, report)
            report.put("held_dead", size, Figure(dead + await dead_of(server, held)))
            await asyncio.gather(*(each.close() for each in held))
        for name, wait in (("add_stored", "stored"), ("add_indexed", "indexed")):
            await settled(server)
            with saying(f"add, {MOST} at once, wait={wait}"):
                errors += put(name, await server.load(MOST, seconds, server.adds(said, wait)), size, report)
        await settled(server)
        with saying(f"mixed, {MOST} at once"):
            errors += put("mixed", await server.load(MOST, seconds, server.mixed(asked, said)), size, report)
        put_memory("memory", server, report)
        if soak:
            with saying(f"a soak of {soak:g} s"):
                errors += await soaked(server, soak, server.mixed(asked, said), report)
    report.put("errors", size, Figure(errors))
    with saying("SIGTERM"):
        await stopped(place, said, report)


# -- the server ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Load:
    """What clients saw: seconds of each answered call, calls that had no good answer; and the server's CPU seconds."""

    walls: list[float] = field(default_factory=list)
    errors: int = 0
    wall_s: float = 0.0
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and what it can be asked."""

    process: subprocess.Popen[str]
    url: str
    key: str
    place: Place

    @property
    def size(self) -> int:
        return self.place.size

    def recall(self, question: str) -> bytes:
        return asking("POST", "/api/v1/recall", self.key, {"text": question})

    def add(self, text: str, wait: str, **more: str) -> bytes:
        body = {"content": text, "user": texts.COMMON_NAME, **more}
        return asking("POST", f"/api/v1/memories?wait={wait}", self.key, body)

    def recalls(self, asked: Iterable[str]) -> Iterator[bytes]:
        return (self.recall(question) for question in asked)

    def adds(self, said: Iterable[str], wait: str) -> Iterator[bytes]:
        return (self.add(text, wait) for text in said)

    def mixed(self, asked: Iterator[str], said: Iterator[str]) -> Iterator[bytes]:
        for number in itertools.count():
            yield self.add(next(said), "indexed") if number % 10 == 9 else self.recall(next(asked))

    async def load(self, clients: int, seconds: float, requests: Iterator[bytes]) -> Load:
        """Let so many clients ask one thing after another, each on a connection of its own."""
        seen = Load()
        connections = [await Connection.to(self.url) for _ in range(clients)]
        await asyncio.gather(*(each.ask(next(requests)) for each in connections))
        cpu, begun = self.cpu_s(), time.perf_counter()

        async def ask(connection: Connection) -> None:
            while (start := time.perf_counter()) < begun + seconds:
                status, _ = await connection.ask(next(requests))
                seen.walls.append(time.perf_counter() - start)
                seen.errors += status not in (200, 201, 202)

        ended = await asyncio.gather(*(ask(each) for each in connections), return_exceptions=True)
        seen.errors += sum(isinstance(each, BROKEN) for each in ended)
        if other := [each for each in ended if isinstance(each, BaseException) and not isinstance(each, BROKEN)]:
            raise other[0]
        seen.wall_s = time.perf_counter() - begun
        seen.cpu_s = None if cpu is None else (self.cpu_s() or 0.0) - cpu
        await asyncio.gather(*(each.close() for each in connections))
        return seen

    def cpu_s(self) -> float | None:
        """Return the CPU seconds that the process has used, where the system says them."""
        path = Path(f"/proc/{self.process.pid}/stat")
        if not path.exists():
            return None
        user, system = path.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a store in it, and what a server there is told."""

    folder: Path
    store: str
    size: int
    embedder: str

    def environment(self) -> dict[str, str]:
        """Return the settings; the embedder is one of our own, which comes as a package of somebody else's would."""
        package = self.folder / "simonides_bench-1.dist-info"
        package.mkdir(exist_ok=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: simonides-bench\nVersion: 1\n")
        (package / "entry_points.txt").write_text(ENTRY)
        paths = [str(HERE), str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(HERE.parent)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIMONIDES_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(paths),
            "SIMONIDES_CONFIG": os.devnull,
            "SIMONIDES_URL": self.store,
            "SIMONIDES_EMBEDDER": self.embedder,
            "SIMONIDES_CACHE_SECONDS": "0",  # what is measured is recall: see scale_cache.py for answers that are kept
            "SIMONIDES_REQUIRE_KEY": "1",
            "SIMONIDES_LOG": "json",
        }

    def opened(self) -> Embedder:
        """Return the server's embedder, for the library."""
        return open_modelled() if self.embedder == "modelled:" else open_clustered()

    def run(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "simonides", *words]
        return subprocess.Popen(command, env=self.environment(), text=True, stdout=subprocess.PIPE, **more)

    def key(self) -> str:
        """Return the key to every server here, made when it is first asked for."""
        path = self.folder / "key"
        if not path.exists():
            with self.run("keys", "create", "bench", "--quiet") as making:
                path.write_text(making.communicate()[0].strip())
        return path.read_text()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        with (
            (self.folder / "serve.log").open("a") as log,
            self.run("serve", "--json", "--port", "0", stderr=log) as process,
        ):
            try:
                said = ""
                while not said.endswith("}\n"):
                    line = process.stdout.readline() if process.stdout else ""
                    if not line:
                        ended = await asyncio.to_thread(process.wait, STOPPED_WITHIN_S)
                        said = (self.folder / "serve.log").read_text()[-2000:]
                        raise RuntimeError(f"the server did not begin, it ended with {ended}: {said}")
                    said += line
                yield Server(process, json.loads(said)["url"], self.key(), self)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    await asyncio.to_thread(process.wait, STOPPED_WITHIN_S)


# -- what is measured ---------------------------------------------------------------------------------------------


async def starts(place: Place) -> Figure:
    """Measure the time from the start of the process until the store answers."""
    walls, cpus = list[float](), list[float]()
    for _ in range(STARTS):
        begun = time.perf_counter()
        async with place.serving() as server:
            connection = await Connection.to(server.url)
            status, _ = await connection.ask(asking("GET", "/health/ready", server.key))
            walls.append(time.perf_counter() - begun)
            cpus.append(server.cpu_s() or 0.0)
            assert status == 200
            await connection.close()
    return Figure(median(walls) * 1e3, cpu=median(cpus) * 1e3)


async def in_turn(server: Server, asked: Iterator[str], times: int, report: Report) -> None:
    """Ask the library, in this process, and the server the same questions, each first every other time."""
    library, http, library_cpu = list[float](), list[float](), list[float]()
    connection = await Connection.to(server.url)
    server_cpu = 0.0
    async with AsyncMemory(server.place.store, embedder=server.place.opened()) as memory:

        async def by_library(question: str) -> None:
            watch = Watch()
            await memory.recall(question)
            lap = watch.lap()
            library.append(lap.wall_s)
            library_cpu.append(lap.cpu_s)

        async def by_http(question: str) -> None:
            start = time.perf_counter()
            status, _ = await connection.ask(server.recall(question))
            http.append(time.perf_counter() - start)
            assert status == 200

        for number in range(WARM + times):
            if number == WARM:
                server_cpu = server.cpu_s() or 0.0
                del library[:], http[:], library_cpu[:]
            question = next(asked)
            for ask in (by_library, by_http) if number % 2 else (by_http, by_library):
                await ask(question)
    cpu = ((server.cpu_s() or 0.0) - server_cpu) / times
    mine = sum(library_cpu) / times
    differences = [theirs - ours for ours, theirs in zip(library, http, strict=True)]
    report.put("library", server.size, of_walls(library, mine))
    report.put("paired", server.size, of_walls(http, cpu))
    report.put("overhead", server.size, Figure(median(differences) * 1e3, cpu=(cpu - mine) * 1e3))
    before, walls, live = server.cpu_s() or 0.0, list[float](), asking("GET", "/health/live", server.key)
    for _ in range(LIVE):
        start = time.perf_counter()
        await connection.ask(live)
        walls.append(time.perf_counter() - start)
    report.put("live", server.size, of_walls(walls, ((server.cpu_s() or 0.0) - before) / LIVE))
    await connection.close()


async def settled(server: Server) -> None:
    """Wait until what was added can be found by meaning, so that the next load does not pay for the last."""
    connection, position = await Connection.to(server.url), asking("GET", "/api/v1/position", server.key)
    with saying("until all is indexed"):
        while (place := json.loads((await connection.ask(position))[1]))["indexed"] < place["written"]:
            await asyncio.sleep(LOOK_S)
    await connection.close()


async def dead_of(server: Server, held: Sequence[Connection]) -> int:
    """Return how many of these connections do not answer."""
    live, dead = asking("GET", "/health/live", server.key), 0
    for each in held:
        try:
            status, _ = await each.ask(live)
            dead += status != 200
        except BROKEN:
            dead += 1
    return dead


async def soaked(server: Server, seconds: float, requests: Iterator[bytes], report: Report) -> int:
    first = await server.load(SOAKED_BY, seconds / 10, requests)
    put_memory("soaked_memory_before", server, report)
    rest = await server.load(SOAKED_BY, seconds * 0.9, requests)
    put_memory("soaked_memory", server, report)
    return first.errors + put("soaked", rest, server.size, report)


async def stopped(place: Place, said: Iterator[str], report: Report) -> None:
    """Stop the server while clients add, and look for what they added."""
    answered, sent = set[str](), set[str]()
    numbers = itertools.count()

    async def add(server: Server) -> None:
        with contextlib.suppress(*BROKEN):
            connection = await Connection.to(server.url)
            while True:
                id = f"stopped-{next(numbers)}"
                request = server.add(next(said), "stored", id=id)
                sent.add(id)
                status, _ = await connection.ask(request)
                if status in (200, 201, 202):
                    answered.add(id)

    async with place.serving() as server:
        adding = [asyncio.create_task(add(server)) for _ in range(MOST)]
        await asyncio.sleep(SIGNALLED_AFTER_S)
        start = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(server.process.wait, STOPPED_WITHIN_S)
        report.put("stop", place.size, Figure((time.perf_counter() - start) * 1e3))
        assert status == 0, f"it ended with {status}"
        await asyncio.gather(*adding)
    there = present(place.store, sent)
    assert answered, "nothing was added"
    report.put("lost", place.size, Figure(len(answered - there)))
    report.put("cut", place.size, Figure(len(there - answered)))


def present(store: str, ids: Iterable[str]) -> set[str]:
    """Return those ids whose records are in the store."""
    found = set[str]()
    with Memory(store, embedder="none") as memory:
        for id in ids:
            with contextlib.suppress(NotFound):
                memory.get(id)
                found.add(id)
    return found


# -- figures ------------------------------------------------------------------------------------------------------


def put(name: str, seen: Load, size: int, report: Report) -> int:
    """Put the times and the rate of a load into the report, the CPU as the server's for a call; return its errors."""
    calls = len(seen.walls)
    cpu = None if seen.cpu_s is None else seen.cpu_s / calls
    report.put(name, size, of_walls(seen.walls, cpu))
    report.put(f"{name}_rate", size, Figure(calls / seen.wall_s, cpu=None if cpu is None else cpu * 1e6))
    return seen.errors


def put_memory(name: str, server: Server, report: Report) -> None:
    if found := resident(server.process.pid):
        report.put(name, server.size, Figure(found["anonymous"]))


def of_walls(walls: Sequence[float], cpu_s: float | None) -> Figure:
    middle, p95, p99 = (float(each) * 1e3 for each in np.percentile(walls, [50, 95, 99]))
    return Figure(middle, p95, None if cpu_s is None else cpu_s * 1e3, p99)


def questions(size: int) -> list[str]:
    """Return questions as `texts.questions` makes them, many, from few thousands."""
    rng, made = np.random.default_rng([5, size]), list[str]()
    thousands = itertools.cycle(rng.permutation(size // texts.THOUSAND)[:60].tolist())
    while len(made) < QUESTIONS:
        for text in texts.thousand(next(thousands))[len(made) % texts.THOUSAND :][:100]:
            *words, topic = text.split()
            made.append(" ".join([*rng.choice(words, texts.ASKED - 1, replace=False).tolist(), topic]))
    return made


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"{begun - BEGUN:6.1f} s  {what} … ", end="", file=sys.stderr, flush=True)
    yield
    print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how fast Simonides is served. See bench/README.md.")
    parser.add_argument("--size", type=int, default=100_000, help="records, whole thousands; default 100000")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load; default 8")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="of a soak; default none")
    parser.add_argument("--bare", action="store_true", help="without the real model")
    parser.add_argument("--paired", type=int, default=200, help="questions to both; default 200")
    parser.add_argument("--idle", type=int, default=1000, help="connections held idle; default 1000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the store is made; default, the system's")
    options = parser.parse_args(given)
    if options.size < texts.THOUSAND or options.size % texts.THOUSAND:
        parser.error(f"--size is whole thousands, not {options.size}")
    return options


if __name__ == "__main__":
    sys.exit(main())
