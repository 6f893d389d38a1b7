"""What every index owes. Subclass IndexSuite, give it the fixtures below, and run pytest (asyncio_mode = "auto").

`make_store` and `store` are those of `StoreSuite`. `index_over` opens the index over a store, and closes it in the end:
`index_over(store)`, or `index_over(store, model="large", dimension=13)`. See `tests/test_indexes.py`.

    class TestMyIndex(IndexSuite):
        pass

The suite is about few vectors, of which an index must not lose any. How well an approximate index does with many is
for its own tests to say.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ..errors import Invalid
from ..index import Index
from ..kinds import Message
from ..query import Place, Query
from ..record import ACTIVE, ARCHIVED, NEVER, Link, Record, Span, new_id, now
from ..store import Batch, Embedding, Store
from .records import ACME, ANA, BO, OTHER, TEAM, archives, every, fact, queries, said
from .stores import MakeStore, rule, told

MakeIndex = Callable[..., Index]
Vector = NDArray[np.float32]

MODEL, DIMENSION = "small", 8
HALF = 1e-3  # what half floats may take from or add to a cosine
SPRING, SUMMER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)


def direction(*numbers: float, dimension: int = DIMENSION) -> Vector:
    """Return the unit vector that begins with these numbers and goes on with zeros."""
    vector = np.zeros(dimension, np.float32)
    vector[: len(numbers)] = numbers
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def directions(count: int, seed: int = 0, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return random unit vectors, shape (count, dimension)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


async def remember(store: Store, record: Record, *vectors: Vector, model: str = MODEL) -> Record:
    """Put the record and its vectors."""
    await store.commit(Batch(put=(record,)))
    await store.commit(Batch(embeddings=(Embedding(record.ref, record.version, model, np.stack(vectors)),)))
    return record


async def remember_all(store: Store, records: Sequence[Record], vectors: NDArray[np.float32]) -> None:
    """Put the records, one vector each."""
    await store.commit(Batch(put=tuple(records)))
    pairs = zip(records, vectors, strict=True)
    await store.commit(Batch(embeddings=tuple(Embedding(r.ref, r.version, MODEL, v[None]) for r, v in pairs)))


async def near_ids(index: Index, query: Query, vector: Vector, limit: int = 10) -> list[str]:
    return [record.id for record, _ in await index.near(query, vector, limit)]


async def cosines(
    store: Store, query: Query, vectors: Mapping[tuple[str, int], Any], vector: Vector
) -> dict[str, float]:
    """Return what is true: each matching record's best cosine. `vectors` are given by (id, version)."""
    best: dict[str, float] = {}
    for record in await store.find(dataclasses.replace(query, limit=10**9, after=None)):
        for one in vectors.get((record.id, record.version), ()):
            best[record.id] = max(best.get(record.id, -1.0), float(np.float32(np.float16(one)) @ vector))
    return best


def check_nearest(found: Sequence[tuple[Record, float]], true: Mapping[str, float], limit: int) -> None:
    """Assert that these are the nearest, each once, with their cosine, best first; equals may stand for one another."""
    ids, scores = [record.id for record, _ in found], [score for _, score in found]
    assert len(ids) == len(set(ids)) == min(limit, len(true))
    assert set(ids) <= true.keys()
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([true[id] for id in ids], abs=HALF)
    left_out = [score for id, score in true.items() if id not in ids]
    assert not left_out or not scores or max(left_out) <= scores[-1] + HALF


class Finding:
    """near: order, cosine, how many."""

    async def test_the_nearest_comes_first_with_its_cosine(self, store: Store, index_over: MakeIndex) -> None:
        far = await remember(store, said("far"), direction(0, 1))
        close = await remember(store, said("close"), direction(3, 4))
        same = await remember(store, said("same"), direction(1))
        against = await remember(store, said("against"), direction(-1))
        found = await index_over(store).near(Query(scope=ANA), direction(1), 10)
        assert [record.id for record, _ in found] == [same.id, close.id, far.id, against.id]
        assert [score for _, score in found] == pytest.approx([1, 0.6, 0, -1], abs=HALF)

    async def test_no_more_come_than_were_asked_for(self, store: Store, index_over: MakeIndex) -> None:
        vectors = directions(30)
        records = [said(str(n)) for n in range(30)]
        await remember_all(store, records, vectors)
        index = index_over(store)
        true = dict(zip([record.id for record in records], (vectors @ vectors[3]).tolist(), strict=True))
        for limit in (1, 7, 30, 1000):
            check_nearest(await index.near(Query(scope=ANA), vectors[3], limit), true, limit)
        assert await index.near(Query(scope=ANA), vectors[3], 0) == []

    async def test_an_empty_store_has_nothing_near(self, store: Store, index_over: MakeIndex) -> None:
        index = index_over(store)
        assert await index.near(Query(scope=ANA), direction(1), 5) == []
        await index.catch_up(ANA)
        assert await index.check() == []
        assert await index.rebuild() == 0

    async def test_a_record_of_many_parts_counts_once_with_its_nearest(
        self, store: Store, index_over: MakeIndex
    ) -> None:
        long = await remember(store, said("long"), *(direction(1, 0.01 * n) for n in range(40)), direction(0, 1))
        short = await remember(store, said("short"), direction(1, 1))
        found = await index_over(store).near(Query(scope=ANA), direction(1), 2)
        assert [record.id for record, _ in found] == [long.id, short.id]
        assert found[0][1] == pytest.approx(1, abs=HALF)
        assert await near_ids(index_over(store), Query(scope=ANA), direction(0, 1), 1) == [long.id]

    async def test_equal_vectors_are_all_found(self, store: Store, index_over: MakeIndex) -> None:
        records = [said(f"the same {n}") for n in range(25)]
        await remember_all(store, records, np.stack([direction(1, 2, 3)] * 25))
        found = await near_ids(index_over(store), Query(scope=ANA), direction(1, 2, 3), 100)
        assert sorted(found) == sorted(record.id for record in records)

    @pytest.mark.parametrize("dimension", [1, 5, 8, 13, 100])
    async def test_any_dimension_will_do(self, store: Store, index_over: MakeIndex, dimension: int) -> None:
        vectors = directions(20, dimension=dimension)
        records = [said(str(n)) for n in range(20)]
        for record, vector in zip(records, vectors, strict=True):
            await remember(store, record, vector)
        index = index_over(store, dimension=dimension)
        true = dict(zip([record.id for record in records], (vectors @ vectors[0]).tolist(), strict=True))
        check_nearest(await index.near(Query(scope=ANA), vectors[0], 5), true, 5)

    async def test_a_vector_of_another_dimension_is_refused(self, store: Store, index_over: MakeIndex) -> None:
        await remember(store, said("here"), direction(1))
        with pytest.raises(Invalid):
            await index_over(store).near(Query(scope=ANA), direction(1, dimension=9), 1)

    async def test_sparse_vectors_keep_their_order(self, store: Store, index_over: MakeIndex) -> None:
        """As an embedder makes them that only counts words: few components, each large."""
        records = [said(str(n)) for n in range(20)]
        vectors = np.stack([direction(10 + n, 20 - n, dimension=100) for n in range(20)])
        for record, vector in zip(records, vectors, strict=True):
            await remember(store, record, vector)
        found = await near_ids(index_over(store, dimension=100), Query(scope=ANA), direction(1, dimension=100), 20)
        assert found == [record.id for record in reversed(records)]


class Filtering:
    """near: only what the query means, as of now."""

    async def test_walls_hold(self, store: Store, index_over: MakeIndex) -> None:
        for scope in (ANA, BO, OTHER, TEAM):
            await remember(
                store, said("the same", scope, id=f"{scope.tenant}-{scope.space}-{scope.user}"), direction(1)
            )
        index = index_over(store)
        assert await near_ids(index, Query(scope=ANA), direction(1)) == ["acme-main-ana"]
        assert await near_ids(index, Query(scope=OTHER), direction(1)) == ["other-main-ana"]
        assert await near_ids(index, Query(scope=TEAM), direction(1)) == ["acme-team-ana"]
        assert await near_ids(index, Query(scope=ACME), direction(1)) == ["acme-main-ana", "acme-main-bo"]

    async def test_models_never_mix(self, store: Store, index_over: MakeIndex) -> None:
        record = await remember(store, said("two models"), direction(1))
        await store.commit(Batch(embeddings=(Embedding(record.ref, 1, "large", direction(0, 1, dimension=13)[None]),)))
        small, large = index_over(store), index_over(store, model="large", dimension=13)
        assert (await small.near(Query(scope=ANA), direction(1), 1))[0][1] == pytest.approx(1, abs=HALF)
        assert (await large.near(Query(scope=ANA), direction(1, dimension=13), 1))[0][1] == pytest.approx(0, abs=HALF)
        assert await index_over(store, model="none").near(Query(scope=ANA), direction(1), 1) == []

    async def test_what_matches_is_found_however_much_lies_nearer(self, store: Store, index_over: MakeIndex) -> None:
        crowd = [said(f"crowd {n}") for n in range(200)]
        await remember_all(store, crowd, np.stack([direction(1, 0.001 * n) for n in range(200)]))
        rare = [said(f"rare {n}", labels=("rare",)) for n in range(3)]
        await remember_all(store, rare, np.stack([direction(-1, n) for n in range(3)]))
        index = index_over(store)
        expected = [rare[2].id, rare[1].id, rare[0].id]
        for query in (
            Query(scope=ANA, labels=frozenset({"rare"})),
            Query(scope=ANA, labels=frozenset({"rare"}), limit=1, newest=True, after=Place(now(), crowd[0].id, 1)),
            Query(scope=ANA, ids=frozenset(expected)),
        ):
            assert await near_ids(index, query, direction(1), 10) == expected
            assert await near_ids(index, query, direction(1), 2) == expected[:2]

    async def test_a_filter_that_was_asked_before_knows_what_came_since(
        self, store: Store, index_over: MakeIndex
    ) -> None:
        await remember_all(store, [said(f"crowd {n}") for n in range(100)], np.stack([direction(1)] * 100))
        index, query = index_over(store), Query(scope=ANA, labels=frozenset({"rare"}))
        expected = list[str]()
        for n in range(4):
            assert await near_ids(index, query, direction(1)) == expected
            record = await remember(store, said(f"rare {n}", labels=("rare",)), direction(-1, 10 - n))
            expected = [*expected, record.id]
        await store.commit(Batch(erase=(record.ref,)))
        assert await near_ids(index, query, direction(1)) == expected[:-1]

    async def test_true_is_not_one(self, store: Store, index_over: MakeIndex) -> None:
        await remember_all(store, [said(f"crowd {n}") for n in range(100)], np.stack([direction(1)] * 100))
        yes = await remember(store, said("yes", metadata={"flag": True}), direction(-1))
        one = await remember(store, said("one", metadata={"flag": 1}), direction(-1))
        index = index_over(store)
        for _ in range(2):
            assert await near_ids(index, Query(scope=ANA, metadata=(("flag", True),)), direction(1)) == [yes.id]
            assert await near_ids(index, Query(scope=ANA, metadata=(("flag", 1),)), direction(1)) == [one.id]

    @pytest.mark.parametrize(
        "filters",
        [
            {"kinds": frozenset({"fact"})},
            {"statuses": frozenset({ARCHIVED})},
            {"statuses": frozenset({ARCHIVED, "no other"})},
            {"labels": frozenset({"home", "work"})},
            {"scope": BO},
            {"scope": BO, "shared": False},
            {"folder": "work"},
            {"pinned": True},
            {"importance_min": 9},
            {"sources": frozenset({"import"})},
            {"part_of": frozenset({"whole"})},
            {"linked": ("about", frozenset({"topic"}))},
            {"metadata": (("city", "Lisbon"),)},
            {"valid_at": SPRING},
            {"since": SPRING, "until": SUMMER},
        ],
        ids=lambda filters: " ".join(filters),
    )
    async def test_each_filter_lets_through_what_it_means(
        self, store: Store, index_over: MakeIndex, filters: Mapping[str, Any]
    ) -> None:
        meant: dict[str, Any] = {
            "scope": BO,
            "status": ARCHIVED if "statuses" in filters else ACTIVE,
            "labels": ("home", "work"),
            "folder": "work/bridge",
            "pinned": True,
            "importance": 10,
            "source": "import",
            "part_of": "whole",
            "links": (Link("about", "topic"),),
            "metadata": {"city": "Lisbon"},
            "valid": Span(SPRING, now() + timedelta(days=9)),
        }
        yes = await remember(store, fact("meant", **meant), direction(-1))
        scope = BO if "scope" in filters else ACME
        crowd = [said(f"crowd {n}", labels=("home",), valid=Span(SUMMER)) for n in range(60)]
        await remember_all(store, crowd, np.stack([direction(1)] * 60))
        query = Query(**({"scope": scope} | dict(filters)))
        assert await near_ids(index_over(store), query, direction(1)) == [yes.id]


class Following:
    """The index after revisions, erasures and growth."""

    async def test_a_revision_is_found_by_what_it_says_now(self, store: Store, index_over: MakeIndex) -> None:
        index = index_over(store)
        paris = await remember(store, fact("lives in Paris"), direction(1))
        assert await near_ids(index, Query(scope=ANA), direction(1)) == [paris.id]
        await asyncio.sleep(0.002)
        before = now()
        await asyncio.sleep(0.002)
        await remember(store, paris.revise(body=dataclasses.replace(paris.body, text="in Rome")), direction(0, 1))
        for query, text, cosine in (
            (Query(scope=ANA), "in Rome", 0),
            (Query(scope=ANA, known_at=before), paris.text, 1),
            (Query(scope=ANA, any_time=True), paris.text, 1),
        ):
            [(record, score)] = await index.near(query, direction(1), 10)
            assert (record.id, record.text) == (paris.id, text)
            assert score == pytest.approx(cosine, abs=HALF)

    async def test_what_is_no_longer_true_is_not_near(self, store: Store, index_over: MakeIndex) -> None:
        index = index_over(store)
        wrong = await remember(store, fact("is allergic to nuts"), direction(1))
        assert await near_ids(index, Query(scope=ANA), direction(1)) == [wrong.id]
        await remember(store, wrong.revise(valid=NEVER), direction(1))
        assert await near_ids(index, Query(scope=ANA), direction(1)) == []
        assert await near_ids(index, Query(scope=ANA, any_time=True), direction(1)) == [wrong.id]

    async def test_what_is_erased_is_not_near(self, store: Store, index_over: MakeIndex) -> None:
        index, records = index_over(store), [said(str(n)) for n in range(12)]
        await remember_all(store, records, directions(12))
        assert len(await index.near(Query(scope=ANA), direction(1), 20)) == 12
        await store.commit(Batch(erase=tuple(record.ref for record in records[::2])))
        for _ in range(2):
            found = await near_ids(index, every(ANA), direction(1), 20)
            assert sorted(found) == sorted(record.id for record in records[1::2])
            await index.catch_up(ANA)
        assert await index.check() == []
        await store.commit(Batch(erase=tuple(record.ref for record in records)))
        await index.catch_up(ANA)
        assert await index.near(every(ANA), direction(1), 20) == []

    async def test_the_newest_is_found_without_catching_up(self, store: Store, index_over: MakeIndex) -> None:
        index = index_over(store)
        for n in range(40):
            vector = direction(math.cos(n / 10), math.sin(n / 10))
            record = await remember(store, said(str(n)), vector)
            assert await near_ids(index, Query(scope=ANA), vector, 1) == [record.id]

    async def test_two_indexes_over_one_store_agree(self, store: Store, index_over: MakeIndex) -> None:
        one, other = index_over(store), index_over(store)
        vectors, records = directions(60), [said(str(n)) for n in range(60)]
        for start in range(0, 60, 20):
            await remember_all(store, records[start : start + 20], vectors[start : start + 20])
            await one.catch_up(ANA)
            await store.commit(Batch(erase=(records[start].ref,)))
            assert await one.near(Query(scope=ANA), vectors[1], 8) == await other.near(Query(scope=ANA), vectors[1], 8)
            await asyncio.gather(other.catch_up(ANA), one.catch_up(ANA))
            assert await one.check() == await other.check() == []
        await one.rebuild()
        await remember(store, said("after"), direction(1))
        assert await one.near(Query(scope=ANA), direction(1), 8) == await other.near(Query(scope=ANA), direction(1), 8)

    async def test_it_answers_while_it_catches_up(self, store: Store, index_over: MakeIndex) -> None:
        index, vectors = index_over(store), directions(200)
        records = [said(str(n)) for n in range(200)]
        await remember_all(store, records[:20], vectors[:20])

        async def write() -> None:
            for start in range(20, 200, 20):
                await remember_all(store, records[start : start + 20], vectors[start : start + 20])
                await store.commit(Batch(erase=(records[start].ref,)))
                await index.catch_up(ANA)

        async def ask() -> None:
            for _ in range(15):
                assert await near_ids(index, Query(scope=ANA), vectors[5], 1) == [records[5].id]
                await asyncio.sleep(0)

        await asyncio.gather(write(), *(ask() for _ in range(4)))
        assert len(await index.near(Query(scope=ANA), vectors[0], 1000)) == 191
        assert await index.check() == []

    async def test_it_is_made_again_from_the_store(self, store: Store, index_over: MakeIndex) -> None:
        records, index = [said(str(n)) for n in range(30)], index_over(store)
        await remember_all(store, records, directions(30))
        await remember(store, said("elsewhere", OTHER), direction(1))
        await store.commit(Batch(erase=(records[4].ref,)))
        before = await index.near(Query(scope=ANA), direction(1), 10)
        assert await index.rebuild() == 30
        assert await index.near(Query(scope=ANA), direction(1), 10) == before
        assert await index.check() == []

    async def test_a_dropped_model_is_gone_and_may_come_again(self, store: Store, index_over: MakeIndex) -> None:
        index, record = index_over(store), said("one")
        await remember(store, record, direction(1))
        assert len(await index.near(Query(scope=ANA), direction(1), 1)) == 1
        await store.drop_model(MODEL)
        await index.catch_up(ANA)
        assert await index.near(Query(scope=ANA), direction(1), 1) == []
        await store.commit(Batch(embeddings=(Embedding(record.ref, 1, MODEL, direction(0, 1)[None]),)))
        [(_, score)] = await index.near(Query(scope=ANA), direction(1), 1)
        assert score == pytest.approx(0, abs=HALF)


_component = st.integers(-2, 2)
_vectors = (
    st.lists(st.lists(_component, min_size=5, max_size=5).filter(any), min_size=1, max_size=3)
    .map(lambda rows: np.stack([direction(*row, dimension=5) for row in rows]))
)  # fmt: skip


class Rules:
    @settings(rule, max_examples=25)
    @given(
        kept=archives(),
        drawn=st.lists(_vectors, min_size=1, max_size=6),
        asked=st.lists(st.tuples(queries(), _vectors, st.integers(1, 8)), min_size=1, max_size=4),
    )
    def test_the_nearest_are_those_the_query_means(
        self,
        make_store: MakeStore,
        index_over: MakeIndex,
        kept: list[tuple[Record, ...]],
        drawn: list[NDArray[np.float32]],
        asked: list[tuple[Query, NDArray[np.float32], int]],
    ) -> None:
        async def story() -> None:
            store = await make_store()
            index = index_over(store, dimension=5)
            vectors = await _restored(store, kept, drawn)
            for query, vector, limit in asked:
                true = await cosines(store, query, vectors, vector[0])
                meant = await store.find(dataclasses.replace(query, limit=10**9, after=None))
                for count in (limit, 10**6):
                    found = await index.near(query, vector[0], count)
                    check_nearest(found, true, count)
                    for record, cosine in found:  # that very version, and it is the one that lies so near
                        ways = vectors[record.id, record.version].astype(np.float16).astype(np.float32) @ vector[0]
                        assert record in meant and ways.max() == pytest.approx(cosine, abs=HALF)
            await index.close()
            await store.close()

        told(story())

    @settings(rule, max_examples=25)
    @given(
        steps=st.lists(st.tuples(st.sampled_from(["add", "add", "revise", "erase", "catch up", "ask"]), st.integers()))
    )
    def test_whatever_happened_the_nearest_are_right(
        self, make_store: MakeStore, index_over: MakeIndex, steps: list[tuple[str, int]]
    ) -> None:
        async def story() -> None:
            store = await make_store()
            index, live, vectors = index_over(store), list[Record](), dict[tuple[str, int], Any]()
            for number, (step, which) in enumerate(steps):
                if step == "add" or not live:
                    live += [said(str(number), id=new_id(), labels=("odd",) if number % 2 else ())]
                    vectors[live[-1].id, 1] = directions(1 + number % 3, seed=number)
                    await remember(store, live[-1], *vectors[live[-1].id, 1])
                elif step == "revise":
                    place = which % len(live)
                    live[place] = live[place].revise(body=Message(text=str(number)))
                    vectors[live[place].id, live[place].version] = directions(1, seed=number)
                    await remember(store, live[place], *directions(1, seed=number))
                elif step == "erase":
                    await store.commit(Batch(erase=(live.pop(which % len(live)).ref,)))
                elif step == "catch up":
                    await index.catch_up(ANA)
                for query in (Query(scope=ANA), Query(scope=ANA, labels=frozenset({"odd"})), every(ANA)):
                    true = await cosines(store, query, vectors, direction(1))
                    check_nearest(await index.near(query, direction(1), 3), true, 3)
            await index.catch_up(ANA)
            assert await index.check() == []
            await index.close()
            await store.close()

        told(story())


async def _restored(
    store: Store, kept: Iterable[Sequence[Record]], drawn: Sequence[NDArray[np.float32]]
) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Restore the histories, every other version with one of the vectors drawn; return those by (id, version)."""
    vectors: dict[tuple[str, int], NDArray[np.float32]] = {}
    for number, version in enumerate(version for versions in kept for version in versions):
        version = dataclasses.replace(version, id=f"{version.id}-{'-'.join(version.scope.realm)}")
        await store.commit(Batch(restore=(version,)))
        if number % 3:
            one = drawn[number % len(drawn)]
            vectors[version.id, version.version] = one
            await store.commit(Batch(embeddings=(Embedding(version.ref, version.version, MODEL, one),)))
    return vectors


class IndexSuite(Finding, Filtering, Following, Rules):
    """All that an index owes."""
