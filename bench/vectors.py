"""How fast the flat index finds, and how well: wall and CPU time of `near`, recall@10 against an exact scan.

    python bench/vectors.py 10000 100000 1000000

The vectors are synthetic: clusters of unequal size, each in a subspace of 30 dimensions, with noise in all 384. The
store is a few arrays, so that its time is not measured; the files are real.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simonides.index import Index
from simonides.indexes import flat
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope
from simonides.store import Extent, Store

DIMENSION, CLUSTERS, INNER = 384, 2000, 30
QUERIES, WANTED = 200, 10
SCOPE = Scope(tenant="bench")


class ArrayStore:
    """A store that has nothing but vectors; labels are shares: "0.1" is on every tenth."""

    def __init__(self, vectors: NDArray[np.float16], folder: str) -> None:
        self.identity, self.folder, self._vectors = "bench", folder, vectors

    async def extent(self, scope: Scope, model: str) -> Extent:
        return Extent(1, len(self._vectors), 0)

    async def vectors(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, bytes]]:
        return [(start + n, one.tobytes()) for n, one in enumerate(self._vectors[start : start + limit])]

    async def holes(self, scope: Scope, model: str, *, after: int) -> list[int]:
        return []

    async def slots(self, query: Query, model: str, *, start: int = 0, limit: int | None = None) -> NDArray[np.int64]:
        step = _step(query)
        return np.arange(-(-start // step) * step, len(self._vectors), step)

    async def owners(self, query: Query, model: str, slots: Sequence[int]) -> list[tuple[int, Record, bytes]]:
        step = _step(query)
        return [(slot, _record(slot), self._vectors[slot].tobytes()) for slot in slots if slot % step == 0]

    async def models(self, scope: Scope | None = None) -> dict[str, int]:
        return {"bench": len(self._vectors)}

    async def realms(self) -> list[Scope]:
        return [SCOPE]


def _record(slot: int) -> Record:
    return Record(scope=SCOPE, body=Note(text=str(slot)), id=str(slot))


def _step(query: Query) -> int:
    return round(1 / min((float(label) for label in query.labels or ()), default=1.0))


def clustered(count: int, seed: int) -> NDArray[np.float16]:
    """Return unit vectors, shape (count, 384); the clusters are the same for every seed."""
    fixed = np.random.default_rng(0)
    centres = fixed.standard_normal((CLUSTERS, DIMENSION), np.float32)
    bases = fixed.standard_normal((50, INNER, DIMENSION), np.float32)
    shares = 1 / np.arange(1, CLUSTERS + 1)
    rng = np.random.default_rng(seed + 1)
    made = np.empty((count, DIMENSION), np.float16)
    for start in range(0, count, 20_000):
        stop = min(count, start + 20_000)
        which = rng.choice(CLUSTERS, stop - start, p=shares / shares.sum())
        inner = rng.standard_normal((stop - start, INNER), np.float32)
        vectors = centres[which] + rng.standard_normal((stop - start, DIMENSION), np.float32) * 0.7
        for basis in range(50):
            at = which % 50 == basis
            vectors[at] += inner[at] @ bases[basis] * 0.25
        made[start:stop] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


async def measure(count: int, options: str) -> None:
    vectors, asked = clustered(count, 0), clustered(QUERIES, 1).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        index = flat.open(f"flat:{options}", cast(Store, ArrayStore(vectors, folder)), "bench", DIMENSION)
        started = time.perf_counter()
        await index.catch_up(SCOPE)
        filled = time.perf_counter() - started
        print(f"{count:>9,} rows, filled and tuned in {filled:.1f} s, load {os.getloadavg()[0]:.1f}")
        for label in (None, "0.5", "0.1", "0.01", "0.001"):
            await measure_filter(index, vectors, asked, label)
        await index.close()


async def measure_filter(
    index: Index, vectors: NDArray[np.float16], asked: NDArray[np.float32], label: str | None
) -> None:
    for limit in (WANTED, 50, 100) if label is None else (WANTED,):
        query = Query(scope=SCOPE, labels=frozenset({label}) if label else None)
        for vector in asked[:10]:
            await index.near(query, vector, limit)
        walls, cpus, answers = list[float](), list[float](), list[list[str]]()
        for vector in asked:
            wall, cpu = time.perf_counter(), time.process_time()
            found = await index.near(query, vector, limit)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            answers.append([record.id for record, _ in found])
        recall = recalled(vectors, asked[:50], answers, limit, _step(query))
        asked_for = f"filter {label or 'none':>5}, {limit:>3} wanted"
        print(f"  {asked_for}: {shown(walls)}; cpu {shown(cpus)}; recall {recall:.4f}")


def recalled(
    vectors: NDArray[np.float16], asked: NDArray[np.float32], answers: Sequence[Sequence[str]], limit: int, step: int
) -> float:
    blocks = (vectors[start : start + 20_000] for start in range(0, len(vectors), 20_000))
    scores = np.concatenate([block.astype(np.float32) @ asked.T for block in blocks])
    scores[np.arange(len(scores)) % step > 0] = -2
    least = np.partition(scores, -limit, axis=0)[-limit]
    places = [np.array([int(id) for id in answer]) for answer in answers[: len(asked)]]
    found = sum(np.count_nonzero(scores[at, n] >= least[n]) for n, at in enumerate(places))
    return float(found / sum(min(limit, -(-len(scores) // step)) for _ in places))


def shown(times: Sequence[float]) -> str:
    p50, p95 = np.percentile(times, [50, 95]) * 1000
    return f"p50 {p50:.2f}, p95 {p95:.2f} ms"


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument.startswith("?")]
    for size in [int(argument) for argument in sys.argv[1:] if argument.isdecimal()] or [10_000, 100_000]:
        asyncio.run(measure(size, "".join(chosen)))
