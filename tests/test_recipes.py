"""Vectors by a new recipe take the place of those by an older one, and nothing is lost or kept twice on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simonides import AsyncMemory, Unavailable
from simonides.derivers import vectors
from simonides.derivers.vectors import Vectors, older
from simonides.embedders import hashing
from simonides.follow import STEP, settle
from simonides.store import Batch, Store
from simonides.stores import sqlite
from simonides.testing.records import ANA, every, said

EMBEDDER = "hashing:"
TEXTS = [f"the ferry number {n}" for n in range(7)]


class Tiring(hashing.HashingEmbedder):
    """Embeds a few texts, and then no more."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        self.left -= len(texts)
        if self.left < 0:
            raise Unavailable("tired")
        return await super().embed(texts, query=query)


@pytest.fixture(autouse=True)
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "DROPPED", 2)


def by(recipe: int, monkeypatch: pytest.MonkeyPatch) -> Vectors:
    """Return the follower of a release with that recipe, and be that release."""
    monkeypatch.setattr(vectors, "RECIPE", recipe)
    return Vectors(hashing.open(EMBEDDER))


async def filled(store: Store, follower: Vectors) -> None:
    await store.commit(Batch(put=tuple(said(text) for text in TEXTS)))
    await settle([follower], store)


async def there(path: Path) -> dict[str, int]:
    store = sqlite.open(f"sqlite:///{path}")
    try:
        return await store.models()
    finally:
        await store.close()


def test_older_is_what_the_same_embedder_made_by_a_smaller_number() -> None:
    models = ["a/int8/1", "a/int8/2", "a/int8/3", "a/int8/10", "a/1", "b/int8/1", "a/int8/x", "a/int8", "", "1"]
    assert older("a/int8/3", models) == ["a/int8/1", "a/int8/2"]
    assert older("a/int8/11", models) == ["a/int8/1", "a/int8/2", "a/int8/3", "a/int8/10"]


async def test_old_vectors_go_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = by(2, monkeypatch)
    await filled(store, old)
    new = by(3, monkeypatch)
    await settle([new], store)
    left = list[int]()
    while await new.tidy(store):
        left.append((await store.models()).get(old.model, 0))
    assert left == [5, 3, 1, 0]
    assert await store.models() == {new.model: 7}
    assert (await store.cursor(old.name), await store.cursor(new.name)) == (0, await store.head())
    assert (await store.check()).complaints == ()


async def test_a_release_with_the_old_recipe_makes_again_what_was_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = by(2, monkeypatch)
    await filled(store, old)
    new = by(3, monkeypatch)
    await settle([new], store)
    for _ in range(2):  # cut off here
        assert await new.tidy(store)
    await settle([old], store)
    assert await store.models() == {old.model: 7, new.model: 7}
    assert len(await store.slots(every(ANA), old.model)) == 7
    assert not await new.tidy(store)  # the other is at work here
    assert await store.models() == {old.model: 7, new.model: 7}
    again = by(3, monkeypatch)
    while await again.tidy(store):
        pass
    assert await store.models() == {new.model: 7}


async def test_what_was_cut_off_between_is_gone_on_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = by(2, monkeypatch)
    await filled(store, old)
    for _ in range(9):  # each opened anew, and cut off after one transaction of the tidying
        new = by(3, monkeypatch)
        await settle([new], store)
        await new.tidy(store)
    assert await store.models() == {new.model: 7}
    assert (await store.check()).complaints == ()


async def test_other_embedders_and_newer_recipes_keep_their_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = by(4, monkeypatch)
    await filled(store, newest)
    other = Vectors(hashing.open("hashing:?dimension=64"))
    await settle([other], store)
    assert not await by(3, monkeypatch).tidy(store)
    assert await store.models() == {newest.model: 7, other.model: 7}


async def test_a_memory_drops_old_vectors_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = tmp_path / "me.db", by(2, monkeypatch)
    async with AsyncMemory(path, embedder=EMBEDDER) as memory:
        await memory.remember(TEXTS)
        before = await memory.recall("ferry number 3")
    assert await there(path) == {old.model: 7}
    new = by(3, monkeypatch)
    openings = 0
    while old.model in await there(path):
        async with AsyncMemory(path, embedder=EMBEDDER) as memory:  # closed while old vectors are dropped
            assert [hit.id for hit in await memory.recall("ferry number 3")] == [hit.id for hit in before]
            openings += 1
    async with AsyncMemory(path, embedder=EMBEDDER) as memory:
        assert [hit.id for hit in await memory.recall("ferry number 3")] == [hit.id for hit in before]
        assert await memory.doctor() == []
    assert openings <= len(TEXTS)
    assert await there(path) == {new.model: 7}


async def test_a_memory_left_open_drops_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "me.db"
    by(2, monkeypatch)
    async with AsyncMemory(path, embedder=EMBEDDER) as memory:
        await memory.remember(TEXTS)
    new = by(3, monkeypatch)
    async with asyncio.timeout(60), AsyncMemory(path, embedder=EMBEDDER) as memory:
        await memory.recall("ferry")
        while (await memory.stats())["vectors"] > len(TEXTS):
            await asyncio.sleep(0.01)
    assert await there(path) == {new.model: 7}


@pytest.mark.parametrize("left", [0, STEP])
async def test_old_vectors_stay_until_everything_has_new_ones(
    left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old, many = tmp_path / "me.db", by(2, monkeypatch), STEP + 10
    async with AsyncMemory(path, embedder=EMBEDDER) as memory:
        await memory.remember([f"the ferry number {n}" for n in range(many)])
    new = by(3, monkeypatch)
    async with AsyncMemory(path, embedder=Tiring(left)) as memory:
        await memory.settle()
        assert memory.behind
    assert await there(path) == {old.model: many} | ({new.model: left} if left else {})
    async with AsyncMemory(path, embedder=Tiring(many)) as memory:
        await memory.settle()
    assert (await there(path))[new.model] == many
    assert (await there(path)).get(old.model, 0) < many
