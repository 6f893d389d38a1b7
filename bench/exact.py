"""The nearest vectors as they are: every stored vector against every question, for the index to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simonides.query import Query
from simonides.store import Store

BLOCK = 50_000
LEAST = 1e-6  # cosines nearer than this are equal

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stored:
    """All vectors of a realm and model, row n being slot n, as the store has them: half floats."""

    store: Store
    model: str
    halves: NDArray[np.float16]

    async def nearest(self, query: Query, vectors: Floats, limit: int) -> list[frozenset[str]]:
        """Return for each vector the ids of its nearest; more than the limit where the last are equally near."""
        slots = await self.store.slots(query, self.model)
        scores = np.empty((len(slots), len(vectors)), np.float32)
        for start in range(0, len(slots), BLOCK):
            scores[start : start + BLOCK] = self.halves[slots[start : start + BLOCK]].astype(np.float32) @ vectors.T
        least = np.partition(scores, -limit, axis=0)[-limit] - LEAST
        return [await self._ids(query, slots[scores[:, n] >= least[n]].tolist()) for n in range(len(vectors))]

    async def _ids(self, query: Query, slots: Sequence[int]) -> frozenset[str]:
        return frozenset(record.id for _, record, _ in await self.store.owners(query, self.model, slots))


async def stored(store: Store, query: Query, model: str, dimension: int) -> Stored:
    """Read them all: 768 bytes each."""
    extent = await store.extent(query.scope, model)
    halves = np.zeros((extent.slots, dimension), np.float16)
    for start in range(0, extent.slots, BLOCK):
        found = await store.vectors(query.scope, model, start=start, limit=BLOCK)
        at = [slot for slot, _ in found]
        halves[at] = np.frombuffer(b"".join(half for _, half in found), "<f2").reshape(-1, dimension)
    return Stored(store, model, halves)


def recall_at(limit: int, found: Sequence[Sequence[str]], nearest: Sequence[frozenset[str]]) -> float:
    """Return the share of the nearest that was found."""
    hits = [len(exact.intersection(ids[:limit])) for ids, exact in zip(found, nearest, strict=True)]
    return float(np.mean(hits)) / limit
