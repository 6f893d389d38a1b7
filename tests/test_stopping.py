"""A server answers at once; told to stop, it does not wait for all that is to be embedded, and loses none of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simonides.embedders.hashing import open as hashing
from simonides.memory import AsyncMemory
from simonides.servers import house
from simonides.servers.run import bound
from simonides.serving import Serving

STORED = 300


class Slow:
    """Hashing, as slow as a model on a machine that has much else to do: these would take it a minute."""

    def __init__(self) -> None:
        self._inner = hashing("hashing:")
        self.name, self.dimension, self.max_tokens = self._inner.name, self._inner.dimension, self._inner.max_tokens
        self.unrelated = self._inner.unrelated

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        for _ in texts:
            await asyncio.sleep(0 if query else 0.2)
        return await self._inner.embed(texts, query=query)

    def tokens(self, text: str) -> int:
        return self._inner.tokens(text)

    def clear_cache(self) -> None:
        self._inner.clear_cache()

    async def close(self) -> None:
        await self._inner.close()


async def test_what_is_still_to_be_embedded_waits_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house._Measured, "_patience_s", 0.5)
    store = f"sqlite:///{tmp_path}/m.db"
    async with house.opened(store, Serving(directory="memory:"), embedder=Slow()) as served:  # type: ignore[arg-type]
        await served.desk.memory.remember([f"note {number} of the harbour" for number in range(STORED)])
        await asyncio.sleep(0.2)
        begun = time.monotonic()
    assert time.monotonic() - begun < 20
    async with AsyncMemory(store, embedder="hashing:") as memory:
        assert await memory.count() == STORED
        await memory.settle()
        assert (await memory.recall("note 299 of the harbour"))[0].by and memory.behind is None
        place = await memory.position()
        assert place.indexed == place.written


async def test_a_memory_of_ones_own_embeds_all_before_it_is_closed(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/m.db"
    async with AsyncMemory(store, embedder="hashing:", settled=False) as memory:
        await memory.remember([f"note {number}" for number in range(STORED)])
    async with AsyncMemory(store, embedder=Slow(), settled=False) as memory:  # type: ignore[arg-type]
        place = await memory.position()
        assert place.indexed == place.written


def test_answers_do_not_wait_for_the_acknowledgement_of_their_heads() -> None:
    """asyncio sends small parts at once (TCP_NODELAY) where a socket says that it is TCP; otherwise 40 ms pass."""
    for each in bound("127.0.0.1", 0):
        with each:
            assert each.proto == socket.IPPROTO_TCP
