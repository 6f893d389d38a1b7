"""What the engines of a scaled memory cost beside those of one machine, and beside an engine used raw by its client.

    python bench/scale.py                            # every figure, with a PostgreSQL of its own
    python bench/scale.py near --records 20000 --postgres postgresql://me@db/bench

Each function below measures one thing and returns rows of a table. Ratios are of calls that took turns in one run: to
the engine used by hand for the nearest alone, and for the same job. The CPU is that of this process, without the
engine's.
The vectors are those of `vectors.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import scale_workers
import texts
import writes
from client import Connection
from clock import WARM, Lap, Watch
from clusters import Clustered
from scale_cache import cache_figures, valkey
from serve import Place, questions
from vectors import DIMENSION, QUERIES, clustered

from simonides import AsyncMemory, config
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope
from simonides.store import Batch, Embedding, Store

SCOPE, MODEL = Scope(tenant="bench"), "bench"
BATCH = 1000
ASKED, ADDED = 100, 100
CONNECTED, ACTIVE, THINKS_S, WARMS_S, LIVES_S = 1_000, 64, 2.0, 5.0, 30.0
EMBEDDED, ROUNDS = 3_000, 3  # texts a round
Row = dict[str, str]
Way = Callable[[Any], Awaitable[Any]]
Right = Callable[[int, Any], float]  # of what was told, and what was found


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
    full = vectors.astype(np.float32)
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
                return [record.id for record, _ in await which.near(Query(scope=SCOPE), vector, k)]

            async def embedded(vector: Any, k: int = k) -> list[str]:
                return [record.id for record, _ in await flat.near(Query(scope=SCOPE), vector, k)]

            told = [*asked[:WARM], *asked]
            nearest = [{f"{n:08}" for n in np.argpartition(full @ one, -k)[-k:]} for one in told]
            ways = {"raw": raw, "simonides, pgvector": ours, "simonides, flat": embedded}
            rows += await _in_turn(
                f"near, k={k}",
                ways,
                told,
                lambda number, ids, k=k, nearest=nearest: len(nearest[number] & set(ids)) / k,
            )
    for part in (index, flat, store):
        await part.close()
    return rows


async def recall(bench: Bench) -> list[Row]:
    """Recall and add through the library, on PostgreSQL with pgvector and on SQLite with flat, beside pgvector used by
    hand: for the ten nearest alone, and for the same job, by vectors and words. No model is waited for.
    """
    import psycopg
    from scale_raw import BOTH, VECTORS, Raw

    embedder, size = Clustered(), bench.records
    urls = {
        "PostgreSQL": bench.url("postgresql", schema="bench_recall"),
        "SQLite": f"sqlite:///{bench.folder}/recall.db",
    }
    rows = list[Row]()
    for name, url in urls.items():
        figure = await asyncio.to_thread(writes.bulk, url, size, embedder)
        rows.append({"what": f"bulk import: {name}", "p50": f"{figure.value:,.0f}/s"})
    asked, said = texts.questions(size, ASKED + WARM), list(islice(texts.fresh(), ADDED))
    async with contextlib.AsyncExitStack() as parts:
        db = await parts.enter_async_context(await psycopg.AsyncConnection.connect(bench.postgres, autocommit=True))
        raw = {
            "raw pgvector, vectors only": Raw(db, embedder, VECTORS),
            "raw pgvector, vectors and words": Raw(db, embedder, BOTH),
        }
        for each in raw.values():
            await each.fill(size)
        memories = {
            name: await parts.enter_async_context(AsyncMemory(url, embedder=embedder)) for name, url in urls.items()
        }

        def ours(name: str, effort: str) -> Way:
            return lambda text: memories[name].recall(text, effort=effort)

        def ours_add(name: str) -> Way:
            return lambda text: memories[name].remember(text, user=texts.COMMON_NAME)

        rows += await _sizes(db, "bench_recall", size)
        recalls = {f"{name}, effort {effort}": ours(name, effort) for name in urls for effort in ("low", "medium")}
        rows += await _in_turn("recall", {name: each.recall for name, each in raw.items()} | recalls, asked)
        adds = {name: ours_add(name) for name in urls}
        rows += await _in_turn("add", {name: each.add for name, each in raw.items()} | adds, said)
    return rows


async def _sizes(db: Any, schema: str, size: int) -> list[Row]:
    """Return what a record takes on the disk, by what it is kept for, indexes included."""
    sql = b"""
        SELECT regexp_replace(c.relname, '_[0-9]+$', ''), sum(pg_total_relation_size(c.oid)) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN (%s, %s) AND c.relkind = 'r' GROUP BY 1
    """
    found = await (await db.execute(sql, (schema, f"{schema}_near"))).fetchall()
    kept = sorted(((name, int(bytes)) for name, bytes in found), key=lambda each: -each[1])
    return [{"what": f"bytes a record: {name}", "p50": f"{n / size:,.0f}"} for name, n in kept if n / size >= 10]


async def users(bench: Bench) -> list[Row]:
    """A thousand connected users of a server over PostgreSQL, 64 of whom ask and then think for two seconds or so."""
    url = bench.url("postgresql", schema="bench_users")
    await asyncio.to_thread(writes.bulk, url, bench.records, Clustered())
    place = Place(bench.folder, url, bench.records, "clustered:")
    asked, walls, errors = itertools.cycle(questions(bench.records)), list[float](), 0
    async with place.serving() as server:
        held = [await Connection.to(server.url) for _ in range(CONNECTED - ACTIVE)]
        active = [await Connection.to(server.url) for _ in range(ACTIVE)]
        random.seed(5)

        async def live(connection: Connection, seconds: float) -> None:
            nonlocal errors
            await asyncio.sleep(random.uniform(0, THINKS_S))
            end = time.perf_counter() + seconds
            while (begun := time.perf_counter()) < end:
                status, _ = await connection.ask(server.recall(next(asked)))
                walls.append(time.perf_counter() - begun)
                errors += status != 200
                await asyncio.sleep(random.expovariate(1 / THINKS_S))

        for seconds in (WARMS_S, LIVES_S):
            walls.clear()
            await asyncio.gather(*(live(each, seconds) for each in active))
        await asyncio.gather(*(each.close() for each in (*held, *active)))
    return [
        {
            "what": f"{CONNECTED:,} users, {ACTIVE} active: {len(walls) / LIVES_S:.0f} recalls/s, {errors} errors",
            "p50": _ms(np.median(walls)),
            "p95": _ms(np.quantile(walls, 0.95)),
        }
    ]


async def cache(bench: Bench) -> list[Row]:
    """A recall whose answer is kept, and what the cache itself takes."""
    with valkey() as redis:
        found = await asyncio.to_thread(cache_figures, f"sqlite:///{bench.folder}/cache.db", 20_000, redis)
    return [
        {"what": name, "p50": f"{figure.value:.2f} ms", "p95": f"{figure.p95 or 0:.2f} ms"}
        for name, figure in found.items()
    ]


async def workers(bench: Bench) -> list[Row]:
    """How many changes a second one worker embeds, and two, with the real model on one thread each; over PostgreSQL.
    Beside them processes that only embed: what two of them gain over one is what the machine has to give.
    """
    url = bench.url("postgresql", schema="bench_workers_<round>")
    told = scale_workers.figures(await scale_workers.rounds(url, EMBEDDED, ROUNDS))
    names = {"workers": "simonides worker × {}", "embedding alone": "the model alone × {}"}
    return [
        {
            "what": f"{name.format(count)}, {told[kind]['cpu_ms'][count]:.1f} ms of a processor each",
            "p50": f"{told[kind]['rate'][count]:.0f}/s",
            **({"ratio": f"{told[kind]['ratio']:.2f}"} if count > 1 else {}),
        }
        for kind, name in names.items()
        for count in scale_workers.CREWS
    ]


FIGURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "near": near,
    "recall": recall,
    "users": users,
    "cache": cache,
    "workers": workers,
}


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


async def _in_turn(what: str, ways: Mapping[str, Way], told: Sequence[Any], right: Right | None = None) -> list[Row]:
    """Return what each way takes of each thing it is told, after WARM of them, in turns, beside those whose names
    begin with "raw". `right` says how good what was found for which of them is.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in ways}
    good: dict[str, list[float]] = {name: [] for name in ways}
    for number, one in enumerate(told):
        for name, way in ways.items():
            watch = Watch()
            found = await way(one)
            if number >= WARM:
                laps[name].append(watch.lap())
                good[name] += [right(number, found)] if right else []
    walls = {name: np.array([lap.wall_s for lap in its]) for name, its in laps.items()}
    first, *others = [np.median(walls[name]) for name in ways if name.startswith("raw")]
    return [
        {
            "what": f"{what}: {name}",
            "p50": _ms(np.median(its)),
            "p95": _ms(np.quantile(its, 0.95)),
            "CPU here": _ms(np.median([lap.cpu_s for lap in laps[name]])),
            "ratio": f"{np.median(its) / first:.2f}",
            "same job": "".join(f"{np.median(its) / other:.2f}" for other in others),
            "recall": f"{np.mean(good[name]):.3f}" if right else "",
        }
        for name, its in walls.items()
    ]


def _ms(seconds: Any) -> str:
    return f"{seconds * 1000:.2f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    columns = ("what", "p50", "p95", "CPU here", "ratio", "same job", "recall")
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
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        async with _server(told.postgres) as postgres:
            for name in told.figures or FIGURES:
                rows += await FIGURES[name](Bench(told.records, postgres, Path(folder)))
                print(f"{name}: done", file=sys.stderr, flush=True)
    lines = "\n".join(table(rows))
    print(lines)
    if told.markdown:
        told.markdown.write_text(f"# Scale: {told.records:,} records\n\n{lines}\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(main())
