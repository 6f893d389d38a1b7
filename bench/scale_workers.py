"""How much faster two workers derive than one: `python bench/scale_workers.py [--store URL] [--texts N] [--rounds N]`.

Each round starts so many `simonides worker` processes on a store of its own, waits until they have shared the shards
and each has embedded a first text, writes the texts, and from then on times how fast they are followed: neither
starting nor writing is in the figure. Every shard has as many users, and every user as many texts. The embedder has
one thread, so one worker takes one core. One worker and two take turns, as others may use the machine, and so do one
process and two that only embed: what these gain is what the machine has to give. Seconds of processor time are beside
the wall's (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import texts

from simonides.config import open_backend
from simonides.derivers.vectors import Vectors
from simonides.follow import SHARDS, followed, place_name, shard
from simonides.kinds import Note
from simonides.leases import holders, lease
from simonides.record import Record, Scope
from simonides.store import Batch, Change, Store

EMBEDDER = "local:?threads=1"
EACH = 8  # users a shard
WARM = 4 * SHARDS  # texts before those that count
LOOK_S = 0.05
CREWS = (1, 2)


@dataclass(frozen=True, slots=True)
class Round:
    workers: int
    changes: int
    seconds: float
    cpu_s: float  # of the workers
    bare: bool = False  # they only embedded

    @property
    def rate(self) -> float:
        return self.changes / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Return the milliseconds of processor time that a change took."""
        return 1000 * self.cpu_s / self.changes

    def __str__(self) -> str:
        what = "embedding alone" if self.bare else "following"
        return (
            f"{self.workers} {what}: {self.rate:.1f}/s, {self.cpu_ms:.2f} ms of a processor each ({self.seconds:.1f} s)"
        )


# -- workers on a store ------------------------------------------------------------------------------------------


async def measure(url: str, workers: int, number: int, embedder: str = EMBEDDER) -> Round:
    """Return how fast so many workers follow so many changes in that store, which is new."""
    scopes, made = balanced(), list(islice(texts.fresh(), WARM + number))
    records = [Record(scope=scopes[n % len(scopes)], body=Note(text=text)) for n, text in enumerate(made)]
    store: Store = open_backend("stores", url)
    name = Vectors(open_backend("embedders", embedder)).name
    try:
        with _working(url, workers, embedder) as crew:
            await _shared(store, name, workers)
            await _written(store, records[:WARM])
            while await followed(name, store) < WARM:
                await asyncio.sleep(LOOK_S)
            lines = await _written(store, records[WARM:])
            begun, before, done = time.perf_counter(), _cpu_s(crew), await _done(store, name, lines)
            while await _done(store, name, lines) < number:
                await asyncio.sleep(LOOK_S)
            return Round(workers, number - done, time.perf_counter() - begun, _cpu_s(crew) - before)
    finally:
        await store.close()


def balanced() -> list[Scope]:
    """Return EACH users of every shard, one of each shard in turn."""
    found = defaultdict[int, list[Scope]](list)
    for number in count():
        scope = Scope(tenant="default", user=f"user {number}")
        if len(mine := found[shard(scope)]) < EACH:
            mine.append(scope)
        if len(found) == SHARDS and all(len(each) == EACH for each in found.values()):
            return [found[k][n] for n in range(EACH) for k in range(SHARDS)]
    raise AssertionError("there are users without end")


@contextmanager
def _working(url: str, workers: int, embedder: str) -> Iterator[list[int]]:
    """Yield the process ids of the workers."""
    command = [sys.executable, "-m", "simonides", "--store", url, "--embedder", embedder, "worker"]
    crew = [subprocess.Popen([*command, "--log-level", "warning"]) for _ in range(workers)]
    try:
        yield [each.pid for each in crew]
    finally:
        for each in crew:
            each.terminate()
        for each in crew:
            each.wait(60)


async def _shared(store: Store, name: str, workers: int) -> None:
    """Wait until the workers have shared the shards, each its part."""
    while True:
        held = Counter(holders(name, await store.cursors(lease(name))).values())
        if sorted(held.values()) == [SHARDS // workers] * workers:
            return
        await asyncio.sleep(LOOK_S)


async def _written(store: Store, records: Sequence[Record]) -> dict[int, list[int]]:
    """Write the records; return their lines of the log, by shards."""
    lines = list[Change]()
    for start in range(0, len(records), 1000):
        lines += await store.commit(Batch(put=tuple(records[start : start + 1000])))
    found = defaultdict[int, list[int]](list)
    for line in lines:
        found[shard(line.scope)].append(line.seq)
    return found


async def _done(store: Store, name: str, lines: dict[int, list[int]]) -> int:
    """Return how many of the lines are followed."""
    places = await store.cursors(name)
    own = places.get(name, 0)
    return sum(bisect_right(mine, max(own, places.get(place_name(name, k), 0))) for k, mine in lines.items())


def _cpu_s(processes: Sequence[int]) -> float:
    """Return the seconds of processor time that processes took so far, where the system tells."""
    total = 0
    with contextlib.suppress(OSError):
        for pid in processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


# -- embedding alone ---------------------------------------------------------------------------------------------


def bare(processes: int, number: int, embedder: str = EMBEDDER) -> Round:
    """Return how fast so many processes embed so many texts, with nothing to read from and nothing to write to."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(processes + 1), context.Queue()
    share = number // processes
    crew = [context.Process(target=_embed, args=(embedder, n * share, share, together, told)) for n in range(processes)]
    for each in crew:
        each.start()
    together.wait()
    begun = time.perf_counter()
    cpu_s = sum(told.get() for _ in crew)
    seconds = time.perf_counter() - begun
    for each in crew:
        each.join()
    return Round(processes, share * processes, seconds, cpu_s, bare=True)


def _embed(embedder: str, start: int, number: int, together: Any, told: Any) -> None:
    async def work() -> float:
        made, mine = open_backend("embedders", embedder), list(islice(texts.fresh(), start, start + number))
        await made.embed(["warm"])
        together.wait()
        before = time.process_time()
        for place in range(0, number, 256):
            await made.embed(mine[place : place + 256])
        return time.process_time() - before

    told.put(asyncio.run(work()))


# -- rounds ------------------------------------------------------------------------------------------------------


async def rounds(url: str | None, number: int, times: int, embedder: str = EMBEDDER) -> list[Round]:
    """Return rounds with one worker and with two, and as many with processes that only embed, in turns."""
    found = list[Round]()
    for turn in range(times):
        for workers in CREWS:
            with tempfile.TemporaryDirectory() as folder:
                own = url.replace("<round>", f"{turn}_{workers}") if url else f"sqlite:///{Path(folder) / 'm.db'}"
                found.append(await measure(own, workers, number, embedder))
                print(found[-1], file=sys.stderr, flush=True)
            found.append(await asyncio.to_thread(bare, workers, number, embedder))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def figures(found: Sequence[Round]) -> dict[str, Any]:
    """Return the medians: changes a second, milliseconds of processor time a change, and what two gain over one."""
    told = dict[str, Any]()
    for what, some in {"workers": False, "embedding alone": True}.items():
        mine = {n: [each for each in found if each.workers == n and each.bare == some] for n in CREWS}
        rates, cpu = ({n: median(map(of, mine[n])) for n in CREWS} for of in (lambda r: r.rate, lambda r: r.cpu_ms))
        ratios = [two.rate / one.rate for one, two in zip(mine[1], mine[2], strict=True)]
        told[what] = {"rate": rates, "cpu_ms": cpu, "ratio": median(ratios), "ratios": ratios}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="URL, with <round> where a round has its own; default: SQLite, in a folder")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embedder", default=EMBEDDER)
    asked = parser.parse_args()
    found = asyncio.run(rounds(asked.store, asked.texts, asked.rounds, asked.embedder))
    print(json.dumps({**figures(found), "rounds": [asdict(each) for each in found]}, indent=2))


if __name__ == "__main__":
    main()
