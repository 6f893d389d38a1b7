"""How much faster two workers derive than one: `python bench/scale_workers.py [--store URL] [--texts N] [--rounds N]`.

Each round starts so many `simonides worker` processes on a store of its own, waits until they have shared the shards,
writes the texts, and times until all are followed. The embedder has one thread, so that one worker takes one core.
One worker and two take turns, as others may use the machine; CPU seconds are beside the wall's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import texts

from simonides.config import open_backend
from simonides.derivers.vectors import Vectors
from simonides.follow import followed
from simonides.kinds import Note
from simonides.leases import holders, lease
from simonides.record import Record, Scope
from simonides.store import Batch, Store

EMBEDDER = "local:?threads=1"
USERS = 500  # whose memories are spread over the shards


@dataclass(frozen=True, slots=True)
class Round:
    workers: int
    seconds: float
    cpu_s: float
    changes: int

    @property
    def rate(self) -> float:
        return self.changes / self.seconds


async def measure(url: str, workers: int, count: int, embedder: str = EMBEDDER) -> Round:
    """Return how long so many workers take for so many changes in that store, which is new."""
    store: Store = open_backend("stores", url)
    name = Vectors(open_backend("embedders", embedder)).name
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        with _working(url, workers, embedder):
            await _shared(store, name, workers)
            begun = time.perf_counter()
            made = [_record(n, text) for n, text in zip(range(count), texts.fresh(), strict=False)]
            for start in range(0, count, 1000):
                await store.commit(Batch(put=tuple(made[start : start + 1000])))
            head = await store.head()
            while await followed(name, store) < head:
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - begun
    finally:
        await store.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(workers, seconds, cpu_s, count)


def _record(number: int, text: str) -> Record:
    return Record(scope=Scope(tenant="default", user=f"user {number % USERS}"), body=Note(text=text))


@contextmanager
def _working(url: str, workers: int, embedder: str) -> Iterator[None]:
    command = [sys.executable, "-m", "simonides", "--store", url, "--embedder", embedder, "worker"]
    crew = [subprocess.Popen([*command, "--log-level", "warning"]) for _ in range(workers)]
    try:
        yield
    finally:
        for each in crew:
            each.terminate()
        for each in crew:
            each.wait(60)


async def _shared(store: Store, name: str, workers: int) -> None:
    """Wait until the workers have shared the shards and loaded the model for a first text."""
    await store.commit(Batch(put=tuple(_record(n, f"warm {n}") for n in range(64))))
    while True:
        held = Counter(holders(name, await store.cursors(lease(name))).values())
        if len(held) == workers and sum(held.values()) == 64 and await followed(name, store) >= await store.head():
            return
        await asyncio.sleep(0.1)


async def rounds(url: str | None, count: int, number: int, embedder: str = EMBEDDER) -> list[Round]:
    """Return rounds with one worker and with two, in turns."""
    found = []
    for turn in range(number):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                own = (
                    f"sqlite:///{Path(folder) / 'm.db'}" if url is None else url.replace("<round>", f"{turn}_{workers}")
                )
                found.append(await measure(own, workers, count, embedder))
                print(found[-1], file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", help="URL, with <round> where a round has its own; default: SQLite, in a folder")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embedder", default=EMBEDDER)
    asked = parser.parse_args()
    found = asyncio.run(rounds(asked.store, asked.texts, asked.rounds, asked.embedder))
    rates = {n: median(each.rate for each in found if each.workers == n) for n in (1, 2)}
    ratios = [two.rate / one.rate for one, two in zip(found[::2], found[1::2], strict=True)]
    told = {"changes_s": rates, "ratio": rates[2] / rates[1], "ratios": ratios}
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
