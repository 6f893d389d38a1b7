"""Reads every matching vector from the store, each time: nothing is kept, so nothing can be out of date.

`exact:` is what the other indexes are compared with, and serves where there are few vectors, or memory must be spared.
"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from ..errors import Invalid
from ..query import Query
from ..record import Record, Scope
from ..store import Store

BLOCK = 512  # vectors read at once, with their records


class ExactIndex:
    def __init__(self, url: str, store: Store, model: str, dimension: int) -> None:
        if url != "exact:":
            raise Invalid(f"{url!r}: this index has no options; write exact:")
        self._store, self._model, self._dimension = store, model, dimension

    async def near(self, query: Query, vector: NDArray[np.float32], limit: int) -> list[tuple[Record, float]]:
        if vector.shape != (self._dimension,):
            raise Invalid(f"a vector of shape {vector.shape} was given; {self._model} has {self._dimension} dimensions")
        best: dict[str, tuple[Record, float]] = {}
        slots = (await self._store.slots(query, self._model)).tolist()
        for start in range(0, len(slots), BLOCK):
            owned = await self._store.owners(query, self._model, slots[start : start + BLOCK])
            for record, score in await asyncio.to_thread(_scored, owned, vector):
                if record.id not in best or score > best[record.id][1]:
                    best[record.id] = record, score
            nearest = sorted(best.values(), key=lambda hit: (-hit[1], hit[0].id))[: max(0, limit)]
            best = {record.id: (record, score) for record, score in nearest}
        return list(best.values())

    async def catch_up(self, scope: Scope) -> None:
        """There is nothing that could be behind."""

    async def check(self) -> list[str]:
        return []

    async def rebuild(self) -> int:
        return (await self._store.models()).get(self._model, 0)

    async def close(self) -> None:
        """There is nothing to let go of."""


def _scored(owned: list[tuple[int, Record, bytes]], vector: NDArray[np.float32]) -> list[tuple[Record, float]]:
    """Return each vector's record and cosine, which half floats may take a little over 1."""
    scores = ((record, float(np.frombuffer(half, "<f2").astype(np.float32) @ vector)) for _, record, half in owned)
    return [(record, min(1.0, max(-1.0, score))) for record, score in scores]


open = ExactIndex
