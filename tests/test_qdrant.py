"""What Qdrant's index promises beside the suite. It runs on the client's own mode, and the suite on a server too where
SIMONIDES_TEST_QDRANT_URL names one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simonides import Invalid, Unavailable
from simonides.indexes import exact, qdrant
from simonides.query import Query
from simonides.store import Batch, Embedding, Store
from simonides.stores import memory
from simonides.testing.indexes import DIMENSION, MODEL, direction, directions, near_ids, remember, remember_all
from simonides.testing.records import ANA, every, said


@pytest.fixture
async def store() -> Store:
    made = memory.open("memory:")
    await remember_all(made, [said(str(n)) for n in range(100)], directions(100))
    return made


async def expect(index: Any, store: Store) -> None:
    """Assert that the index answers as the exact one does, and finds nothing wrong with itself."""
    truth = exact.open("exact:", store, MODEL, DIMENSION)
    for vector in directions(100)[:5]:
        assert await near_ids(index, every(ANA), vector) == await near_ids(truth, every(ANA), vector)
    assert await index.check() == []


async def test_a_folder_keeps_what_was_written(store: Store, tmp_path: Path) -> None:
    url = f"qdrant:///{tmp_path}/near?small=0"
    index = qdrant.open(url, store, MODEL, DIMENSION)
    await index.catch_up(ANA)
    other = qdrant.open(url, store, "large", 13)  # of the same process: they share the folder
    assert await other.near(Query(scope=ANA), direction(1, dimension=13), 1) == []
    await expect(index, store)
    await index.close()
    await remember(store, said("large"), direction(1, dimension=13), model="large")
    assert len(await other.near(Query(scope=ANA), direction(1, dimension=13), 5)) == 1
    await other.close()
    again = qdrant.open(url, store, MODEL, DIMENSION)
    assert await again._met(ANA, await store.extent(ANA, MODEL)) == qdrant.Lot(1, 100, 0)
    await expect(again, store)
    await again.close()


async def test_what_is_erased_and_what_was_of_a_dropped_model_goes(store: Store, tmp_path: Path) -> None:
    records = await store.find(Query(scope=ANA, limit=1000))
    await store.commit(Batch(embeddings=tuple(Embedding(r.ref, 1, "old", direction(1)[None]) for r in records)))
    url = f"qdrant:///{tmp_path}/near?small=0"
    old, index = qdrant.open(url, store, "old", DIMENSION), qdrant.open(url, store, MODEL, DIMENSION)
    await old.catch_up(ANA)
    await index.catch_up(ANA)
    await store.commit(Batch(erase=tuple(record.ref for record in records[:20])))
    [complaint] = await index.check()
    assert "20 points of erased vectors" in complaint and "`simonides rebuild`" in complaint
    await index.catch_up(ANA)
    await store.drop_model("old")
    assert "of a model that is gone" in (await index.check())[0]
    assert await index.rebuild() == 80
    await expect(index, store)
    assert await old.near(Query(scope=ANA), direction(1), 1) == []
    await old.close()
    await index.close()


@pytest.mark.parametrize("damage", ["a vector", "a point", "the note", "everything"])
async def test_what_is_damaged_is_made_again(store: Store, tmp_path: Path, damage: str) -> None:
    url = f"qdrant:///{tmp_path}/near?small=0"
    index = qdrant.open(url, store, MODEL, DIMENSION)
    await index.catch_up(ANA)
    client, [last] = index._client, index._ids(1, [99])
    assert client is not None
    if damage == "a vector":
        vectors = qdrant.models.PointVectors(id=last, vector={qdrant.NAME: directions(1, seed=9)[0].tolist()})
        await client.update_vectors(index._points, [vectors])
    elif damage == "a point":
        await client.delete(index._points, [last])
    elif damage == "the note":
        await client.delete(index._notes, [qdrant._id(index._lot_name(1))])
    else:
        await client.delete_collection(index._points)
        await expect(index, store)
    await index.close()
    again = qdrant.open(url, store, MODEL, DIMENSION)
    await near_ids(again, Query(scope=ANA), direction(1))
    await expect(again, store)
    await again.close()


async def test_a_server_that_is_not_there_is_an_error_of_ours(store: Store) -> None:
    index = qdrant.open("qdrant://127.0.0.1:1/x?small=0", store, MODEL, DIMENSION)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1 did not answer"):
        await index.near(Query(scope=ANA), direction(1), 1)
    await index.close()


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("qdrant://db.example.com", "https://db.example.com:6333"),
        ("qdrant://db.example.com:7000/mine?tls=off", "http://db.example.com:7000"),
        ("qdrant://localhost/mine?tls=on", "https://localhost:6333"),
        ("qdrant://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_beyond_this_machine_a_server_is_reached_by_tls(url: str, reached: str) -> None:
    server, options = qdrant._parsed(url)
    assert server.url == reached
    assert options.prefix == ("mine" if "mine" in url else "simonides")


@pytest.mark.parametrize(
    "url",
    [
        *("qdrant:", "qdrant:near", "qdrant://", "qdrant:///", "qdrant://me:key@host/x", "qdrant://host/a/b"),
        *("qdrant://host:x/a", "qdrant://host?small=-1", "qdrant://host?tls=maybe", "qdrant://host?quantization=some"),
        *("qdrant::memory:?api_key_file=x", "qdrant://host?api_key=x"),
    ],
)
def test_what_the_url_says_must_make_sense(url: str) -> None:
    with pytest.raises(Invalid):
        qdrant._parsed(url)
