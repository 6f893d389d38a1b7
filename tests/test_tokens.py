"""Token vectors: packed small, compared fast, and a function of the text alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simonides.derivers.vectors import TOKENS_MAX, Vectors
from simonides.embedder import TOKEN_BYTES, TOKEN_DIMENSION, TokenEmbedder
from simonides.embedders import hashing, local, minilm
from simonides.store import Batch, Embedding
from simonides.stores import sqlite
from simonides.stores.memory import open as open_store
from simonides.testing.records import ANA, said
from simonides.tokens import STEPS, likenesses, pack, unpack

Array = NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)


def unit(seed: int, count: int) -> Array:
    """Return random directions."""
    vectors = np.random.default_rng(seed).standard_normal((count, TOKEN_DIMENSION))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


# -- packing ----------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 40))
def test_what_is_packed_is_unpacked_as_good_as_it_was(seed: int, count: int) -> None:
    vectors = unit(seed, count)
    packed = pack(vectors)
    assert len(packed) == count * TOKEN_BYTES
    again = unpack(packed)
    assert again.shape == (count, TOKEN_DIMENSION) and again.dtype == np.float32
    assert np.allclose(np.linalg.norm(again, axis=1), 1, atol=1e-5)
    # Each number is off by half a step at most, so the vector by no more than all of them together.
    off = np.abs(vectors).max(axis=1) / (2 * STEPS) * TOKEN_DIMENSION**0.5
    assert ((again * vectors).sum(axis=1) > np.sqrt(1 - off**2) - 1e-5).all()


def test_every_number_keeps_its_place_and_sign() -> None:
    steps = np.resize(np.arange(-STEPS, STEPS + 1), TOKEN_DIMENSION).astype(np.float32)
    vector = steps / np.linalg.norm(steps)
    assert np.allclose(unpack(pack(vector[None])), vector[None], atol=1e-6)


def test_what_points_nowhere_is_packed_too() -> None:
    nowhere = np.zeros((1, TOKEN_DIMENSION), np.float32)
    assert np.array_equal(unpack(pack(nowhere)), nowhere)


def test_no_tokens_are_no_bytes() -> None:
    assert pack(np.empty((0, TOKEN_DIMENSION), np.float32)) == b""
    assert unpack(b"").shape == (0, TOKEN_DIMENSION)


@given(seeds, st.lists(st.integers(0, 4), max_size=6), st.integers(0, 4))
def test_likenesses_are_those_of_a_plain_loop(seed: int, lengths: list[int], asked_for: int) -> None:
    asked = unit(seed, asked_for)
    texts = [pack(unit(seed + n, length)) for n, length in enumerate(lengths)]
    plain = [[max([0.0, *(float(token @ wanted) for token in unpack(text))]) for wanted in asked] for text in texts]
    found = likenesses(asked, texts)
    assert found.shape == (len(texts), len(asked))
    assert np.allclose(found, np.array(plain).reshape(found.shape), atol=1e-5)


def test_a_text_is_like_its_own_tokens_and_like_nothing_where_it_has_none() -> None:
    tokens = unit(1, 3)
    texts = [b"", pack(tokens[:2]), b"", pack(tokens[2:]), b""]
    found = likenesses(unpack(pack(tokens)), texts)
    assert found[1, :2] == pytest.approx([1, 1], abs=1e-5) and found[3, 2] == pytest.approx(1, abs=1e-5)
    assert not found[[0, 2, 4]].any()


# -- the model --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def embedder() -> AsyncIterator[local.LocalEmbedder]:
    opened = local.open("local:")
    yield opened
    await opened.close()


TEXTS = (
    "The bridge was finished in June.",
    "",
    "the of and",
    "!?",
    "東京タワー",
    "Bo likes tea, and Ana likes coffee.",
)


async def test_a_texts_tokens_are_the_same_alone_and_among_others(embedder: local.LocalEmbedder) -> None:
    vectors, tokens = await embedder.encode(TEXTS)
    for text, vector, packed in zip(TEXTS, vectors, tokens, strict=True):
        embedder.clear_cache()
        [alone], [packed_alone] = await embedder.encode([text])
        assert packed_alone == packed
        np.testing.assert_array_equal(alone, vector)
    np.testing.assert_array_equal(await embedder.embed(TEXTS), vectors)
    assert isinstance(embedder, TokenEmbedder)


async def test_words_that_say_something_have_a_token_each(embedder: local.LocalEmbedder) -> None:
    texts = ["bridge", "The bridge, of the...", "the of and", "bridge harbour ferry"]
    counts = [len(packed) // TOKEN_BYTES for packed in (await embedder.encode(texts))[1]]
    assert counts == [1, 1, 3, 3]  # of stop words alone, all are kept: there is nothing else


async def test_a_word_is_like_the_same_word_elsewhere_and_less_like_another(embedder: local.LocalEmbedder) -> None:
    _, [asked, same, other] = await embedder.encode(
        ["bridge", "we crossed the bridge at night", "my sister bakes cakes"]
    )
    [[alike], [unlike]] = likenesses(unpack(asked), [same, other])
    assert alike > 0.5 > unlike


async def test_the_same_text_twice_has_the_same_tokens_from_the_cache(embedder: local.LocalEmbedder) -> None:
    first = await embedder.encode(TEXTS)
    again = await embedder.encode([*TEXTS, *TEXTS])
    assert again[1] == first[1] * 2
    assert (await embedder.encode([]))[1] == []


class Pooled(local.LocalEmbedder):
    """The same model with a graph that ends in the mean over the tokens."""

    def _load(self) -> Any:
        whole = super()._load()

        class Graph:
            get_inputs = whole.get_inputs

            def run(self, names: None, inputs: Any) -> list[Array]:
                return [whole.run(names, inputs)[0].mean(axis=1)]

        return Graph()


async def test_a_graph_that_pools_its_tokens_has_none_to_give() -> None:
    embedder = Pooled()
    vectors, tokens = await embedder.encode(TEXTS)
    assert tokens == [b""] * len(TEXTS) and vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    await embedder.close()


async def test_minilm_gives_vectors_and_no_tokens() -> None:
    pytest.importorskip("simonides_minilm")
    embedder = minilm.open("minilm:")
    vectors, tokens = await embedder.encode(["The bridge was finished in June.", ""])
    assert tokens == [b"", b""]
    np.testing.assert_array_equal(await embedder.embed(["The bridge was finished in June.", ""]), vectors)
    await embedder.close()


# -- with the record --------------------------------------------------------------------------------------------------


async def test_a_records_tokens_are_kept_up_to_a_limit(embedder: local.LocalEmbedder) -> None:
    store = open_store("memory:")
    short, long = said("a bridge"), said("bridge harbour ferry lighthouse. " * 100)
    vectors = Vectors(embedder)
    batch = await vectors.follow(await store.commit(Batch(put=(short, long))), store)
    await store.commit(batch)
    tokens = await store.tokens(ANA, vectors.model, [(short.id, 1), (long.id, 1)])
    assert len(tokens[0]) // TOKEN_BYTES >= 1
    assert len(tokens[1]) == TOKENS_MAX * TOKEN_BYTES
    await store.close()


async def test_an_embedder_without_tokens_leaves_none() -> None:
    store, record = open_store("memory:"), said("a bridge")
    vectors = Vectors(hashing.open("hashing:"))
    await store.commit(await vectors.follow(await store.commit(Batch(put=(record,))), store))
    assert (await store.models()) == {vectors.model: 1}
    assert await store.tokens(ANA, vectors.model, [(record.id, 1)]) == [b""]
    await store.close()


async def test_what_a_dropped_model_said_of_tokens_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    store, record = sqlite.open(f"sqlite:///{path}"), said("a bridge")
    embeddings = tuple(
        Embedding(record.ref, 1, model, np.eye(1, 2, dtype=np.float32), model.encode()) for model in ("one", "two")
    )
    await store.commit(Batch(put=(record,), embeddings=embeddings))
    await store.drop_model("one")
    db = apsw.Connection(str(path))
    assert db.execute("SELECT value FROM tokens").fetchall() == [(b"two",)]
    db.close()
    await store.close()
