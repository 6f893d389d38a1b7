"""Asking: recall as a whole and in its parts, and how much of what lies nearest the index finds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import exact
import numpy as np
import texts
from clock import WARM, Figure, Lap, Watch, of_laps, timed, timed_there
from clusters import Clustered, Modelled
from report import ONCE, Report

from simonides import Memory
from simonides.config import open_backend
from simonides.derivers.vectors import Vectors
from simonides.embedder import Embedder
from simonides.errors import Unavailable
from simonides.index import Index
from simonides.query import Query
from simonides.recall.gather import SAYING
from simonides.recall.means import EFFORTS
from simonides.record import Scope
from simonides.store import Store

ASKED, K = 100, 10
ALL = Query(scope=Scope())
RARE = Query(scope=Scope(), labels=frozenset({texts.RARE_NAME}))


def recalls(url: str, size: int, embedder: Clustered, report: Report) -> None:
    asked = texts.questions(size, ASKED + WARM)
    with Memory(url, embedder="none") as memory:
        report.put("recall_words", size, timed(lambda n: memory.recall(asked[n]), ASKED))
    with Memory(url, embedder=embedder) as memory:
        now = datetime.now(UTC)
        report.put("recall", size, timed(lambda n: memory.recall(asked[n]), ASKED))
        report.put("recall_label", size, timed(lambda n: memory.recall(asked[n], labels=[texts.RARE_NAME]), ASKED))
        report.put("recall_user", size, timed(lambda n: memory.recall(asked[n], user=texts.RARE_NAME), ASKED))
        report.put("recall_as_of", size, timed(lambda n: memory.recall(asked[n], as_of=now), ASKED))
    if model := local():
        with Memory(url, embedder=Modelled(embedder, model)) as memory:
            report.put("recall_model", size, timed(lambda n: memory.recall(asked[n]), ASKED))


def recalls_after_adds(url: str, size: int, embedder: Clustered, report: Report) -> None:
    """Measure a recall that has to take in first what was said just before. The store grows by it."""
    asked, said, laps = texts.questions(size, ASKED + WARM), texts.fresh(2 * texts.FRESH), list[Lap]()
    with Memory(url, embedder=embedder) as memory:
        for question in asked:
            memory.remember(next(said), user=texts.COMMON_NAME)
            watch = Watch()
            memory.recall(question)
            laps.append(watch.lap())
    report.put("recall_after_add", size, of_laps(laps[WARM:]))


def parts(url: str, size: int, embedder: Clustered, vectors: Path, report: Report) -> None:
    """Measure what a recall is made of, each part alone; leave the stored vectors in that file, in their order."""
    asyncio.run(_parts(url, size, embedder, vectors, report))


async def _parts(url: str, size: int, embedder: Clustered, vectors: Path, report: Report) -> None:
    store: Store = await asyncio.to_thread(open_backend, "stores", url)
    model = Vectors(embedder).model
    index: Index = open_backend("indexes", "flat:", store, model, embedder.dimension)
    asked = texts.questions(size, ASKED + WARM)
    there = embedder.vectors(asked)

    async def near(query: Query, limit: int) -> Figure:
        return await timed_there(lambda n: index.near(query, there[n], limit), ASKED)

    report.put("near", size, await near(ALL, K))
    report.put("near_rare", size, await near(RARE, K))
    report.put("near_wide", size, await near(Query(scope=Scope(), kinds=SAYING), EFFORTS["medium"].near))
    wide = Query(scope=Scope(), kinds=SAYING, limit=EFFORTS["medium"].words)
    report.put("words", size, await timed_there(lambda n: store.words(wide, asked[n]), ASKED))

    stored = await exact.stored(store, ALL, model, embedder.dimension)
    np.save(vectors, stored.halves[:size])
    for name, query in (("recall_at_10", ALL), ("recall_at_10_rare", RARE)):
        found = [[record.id for record, _ in await index.near(query, vector, K)] for vector in there]
        report.put(name, size, Figure(exact.recall_at(K, found, await stored.nearest(query, there, K))))
    await index.close()
    await store.close()


def model(report: Report) -> None:
    """Measure the real model alone, with questions it has not seen."""
    if embedder := local():
        report.put("model", ONCE, asyncio.run(_model(embedder)))


async def _model(embedder: Embedder) -> Figure:
    asked = texts.questions(texts.THOUSAND, ASKED + WARM)
    figure = await timed_there(lambda n: embedder.embed([asked[n]], query=True), ASKED)
    await embedder.close()
    return figure


def local() -> Embedder | None:
    """Return the real model where it is installed."""
    embedder: Embedder = open_backend("embedders", "local:")
    try:
        embedder.tokens("ready")
    except Unavailable:
        return None
    return embedder
