"""What the engines of a scaled memory cost beside those of one machine, and beside an engine used raw by its client.

    python bench/scale.py                            # every figure, with a PostgreSQL of its own
    python bench/scale.py near --records 20000 --postgres postgresql://me@db/bench

Each function below measures one thing and returns rows of a table; ratios are of calls that took turns in one run.
The vectors are those of `vectors.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vectors import DIMENSION, QUERIES, clustered

from simonides import config
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope
from simonides.store import Batch, Embedding, Store

SCOPE, MODEL = Scope(tenant="bench"), "bench"
BATCH = 1000
Row = dict[str, str]


@dataclass(frozen=True)
class Bench:
    """What a figure is measured with."""

    records: int
    postgres: str  # the URL of a database that may be filled
    folder: Path

    def url(self, scheme: str, **options: str) -> str:
        more = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}:{self.postgres.partition(':')[2]}{'?' if more else ''}{more}"


# -- figures -----------------------------------------------------------------------------------------------------


async def near(bench: Bench) -> list[Row]:
    """`near` of pgvector over a store in SQLite, beside the statement that its client would send, on the same graph."""
    import psycopg

    from simonides.indexes.pgvector import Half, PgvectorIndex

    vectors, asked = clustered(bench.records, 0), clustered(QUERIES, 1).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    store = await _filled(f"sqlite:///{bench.folder}/near.db?durability=normal", vectors)
    url = bench.url("pgvector", schema="bench_near", exact="1000")
    index = PgvectorIndex(url, store, MODEL, DIMENSION)
    begun = time.perf_counter()
    await index.catch_up(SCOPE)
    rows = [{"what": f"pgvector: {bench.records:,} rows and their graph", "p50": _seconds(time.perf_counter() - begun)}]
    flat = config.open_backend("indexes", "flat:", store, MODEL, DIMENSION)
    await flat.catch_up(SCOPE)
    async with await psycopg.AsyncConnection.connect(bench.postgres, autocommit=True) as db:
        [table] = await (await db.execute("SELECT 'bench_near.lot_' || lot FROM bench_near.lots")).fetchone() or [""]
        await db.execute("SET hnsw.iterative_scan = strict_order")
        for k in (10, 100):
            await db.execute(f"SET hnsw.ef_search = {max(160, k + k // 5)}".encode())
            sql = f"SELECT slot FROM {table} ORDER BY v <#> %s::halfvec LIMIT {k}".encode()

            async def raw(vector: Any, sql: bytes = sql) -> list[str]:
                found = await db.execute(sql, [Half(vector)], prepare=True, binary=True)
                return [f"{slot:08}" for (slot,) in await found.fetchall()]

            async def ours(vector: Any, which: Any = index, k: int = k) -> list[str]:
                return [id for id, _ in await which.near(Query(scope=SCOPE), vector, k)]

            async def embedded(vector: Any, k: int = k) -> list[str]:
                return [id for id, _ in await flat.near(Query(scope=SCOPE), vector, k)]

            ways = {"raw": raw, "simonides, pgvector": ours, "simonides, flat": embedded}
            rows += await _compared(f"near, k={k}", ways, vectors, asked, k)
    for part in (index, flat, store):
        await part.close()
    return rows


FIGURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {"near": near}


# -- measuring ---------------------------------------------------------------------------------------------------


async def _filled(url: str, vectors: Any) -> Store:
    """Return a store with a record for each vector, which has its number as its id."""
    store: Store = config.open_backend("stores", url)
    for start in range(0, len(vectors), BATCH):
        some = range(start, min(start + BATCH, len(vectors)))
        records = [Record(scope=SCOPE, id=f"{n:08}", body=Note(text=f"number {n}")) for n in some]
        await store.commit(Batch(put=tuple(records)))
        embeddings = (Embedding(r.ref, 1, MODEL, vectors[n][None]) for n, r in zip(some, records, strict=True))
        await store.commit(Batch(embeddings=tuple(embeddings)))
    return store


async def _compared(
    what: str, ways: dict[str, Callable[[Any], Awaitable[list[str]]]], vectors: Any, asked: Any, k: int
) -> list[Row]:
    """Return what each way of asking takes, in turns, beside the first; and which share of the nearest it finds."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    found = dict.fromkeys(ways, 0)
    full = vectors.astype(np.float32)
    for number, vector in enumerate([*asked[:10], *asked]):
        best = full @ vector
        true = {f"{n:08}" for n in np.argpartition(best, -k)[-k:]}
        for name, ask in ways.items():
            begun = time.perf_counter()
            ids = await ask(vector)
            if number >= 10:  # before that, all of them warm up
                took[name].append(time.perf_counter() - begun)
                found[name] += len(true & set(ids))
    first = np.median(took[next(iter(ways))])
    return [
        {
            "what": f"{what}: {name}",
            "p50": _ms(np.median(times)),
            "p95": _ms(np.quantile(times, 0.95)),
            "ratio": f"{np.median(times) / first:.2f}",
            "recall": f"{found[name] / k / len(asked):.3f}",
        }
        for name, times in took.items()
    ]


def _ms(seconds: Any) -> str:
    return f"{seconds * 1000:.2f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    columns = ("what", "p50", "p95", "ratio", "recall")
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row.get(column, '') for column in columns)} |"


# -- running -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _server(url: str) -> AsyncIterator[str]:
    """Yield the URL of a PostgreSQL: the one given, or one of this run's own, which flushes as others do."""
    if url:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from engines import machine

    with machine() as made:
        settings = {"fsync": "on", "shared_buffers": "512MB"}
        yield made.postgres(settings=settings).url()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="which; none: all")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--postgres", default="", metavar="URL", help="a database that may be filled")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    told = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with _server(told.postgres) as postgres:
            for name in told.figures or FIGURES:
                rows += await FIGURES[name](Bench(told.records, postgres, Path(folder)))
    lines = "\n".join(table(rows))
    print(lines)
    if told.markdown:
        told.markdown.write_text(f"# Scale: {told.records:,} records\n\n{lines}\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
