"""What holds for every record and every query: hypothesis tries to break it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from ...kinds import Message
from ...query import Place, Query
from ...record import Record, Span
from ...store import Batch, Store
from ..records import ANA, archives, every, histories, in_order, queries, records, scopes, texts
from .model import Model, take_step
from .steps import SPRING, MakeStore, complaints, embedded, in_pages, put, rule, told


class Rules:
    @rule
    @given(kept=archives(), asked=st.lists(queries(), min_size=1, max_size=4))
    def test_a_store_means_by_a_query_what_the_query_means(
        self, make_store: MakeStore, kept: list[tuple[Record, ...]], asked: list[Query]
    ) -> None:
        everything = [
            dataclasses.replace(record, body=dataclasses.replace(record.body, text=f"{record.text} mark{n}"))
            for n, record in enumerate(record for versions in kept for record in versions)
        ]

        async def story() -> None:
            store = await make_store()
            try:
                await store.commit(Batch(restore=tuple(everything)))
                await store.commit(Batch(embeddings=tuple(map(embedded, everything))))
                for query in asked:
                    await _check_meaning(store, query, everything)
                assert await complaints(store) == ()
            finally:
                await store.close()

        told(story())

    @rule
    @given(kept=histories(records(st.just(ANA))), query=queries(st.just(ANA), newest=st.just(True)))
    def test_the_newest_come_in_pages_whatever_is_asked(
        self, make_store: MakeStore, kept: tuple[Record, ...], query: Query
    ) -> None:
        copies = [dataclasses.replace(kept[-1], id=f"{n}", version=1, known=Span(SPRING)) for n in range(4)]
        copies = [dataclasses.replace(copy, body=Message(text="copy")) for copy in copies]
        query = dataclasses.replace(query, any_time=False)

        async def story() -> None:
            store = await make_store()
            try:
                await store.commit(Batch(restore=(*kept, *copies)))
                assert await in_pages(store, query, 2) == await store.find(query)
            finally:
                await store.close()

        told(story())

    @rule
    @given(record=records(body=st.builds(Message, text=texts)), more=st.dictionaries(texts, texts, max_size=3))
    def test_what_was_said_is_kept_as_it_was_said(
        self, make_store: MakeStore, record: Record, more: dict[str, str]
    ) -> None:
        record = dataclasses.replace(record, metadata={**record.metadata, **more})

        async def story() -> None:
            store = await make_store()
            try:
                await put(store, record)
                [found] = await store.find(every(record.scope))
                assert dataclasses.replace(found, known=Span()) == record
                assert await put(store, record) == []
                await store.words(every(record.scope), record.text)
            finally:
                await store.close()

        told(story())

    @settings(rule, max_examples=80)
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(
                    ["put", "put", "revise", "revise", "retract", "supersede", "erase", "restore", "again", "stale"]
                ),
                st.integers(0, 7),
                records(scopes(tenants=("acme",))),
                histories(records(scopes(tenants=("acme",)))),
            ),
            max_size=12,
        ),
        asked=st.lists(
            st.tuples(queries(scopes(tenants=("acme",))), st.integers(0, 20), st.integers(-1, 1)), max_size=4
        ),
    )
    def test_after_any_story_a_store_answers_like_a_list_of_versions(
        self,
        make_store: MakeStore,
        steps: list[tuple[str, int, Record, tuple[Record, ...]]],
        asked: list[tuple[Query, int, int]],
    ) -> None:
        async def story() -> None:
            store = await make_store()
            model = Model()
            try:
                for name, which, record, versions in steps:
                    await take_step(store, model, name, which, record, versions)
                for query, which, ticks in asked:
                    await _check_meaning(store, query, model.everything)
                    past = dataclasses.replace(query, known_at=model.moment(which, ticks))
                    await _check_meaning(store, past, model.everything)
                assert [(line.ref, line.version) for line in await store.changes(limit=1000)] == model.log
                assert await complaints(store) == ()
            finally:
                await store.close()

        told(story())


async def _check_meaning(store: Store, query: Query, everything: Sequence[Record]) -> None:
    """Hold every reading method to `Query.matches`."""
    expected = in_order([record for record in everything if query.matches(record)], newest=query.newest)
    assert await store.find(query) == expected
    assert await store.count(query) == len(expected)
    for record in everything[:5]:
        page = dataclasses.replace(query, after=Place.of(record), limit=2)
        assert await store.find(page) == [one for one in expected if page.comes_after(one)][:2]
    meant = {(record.id, record.version) for record in expected}
    for record in everything:
        if record.text.rpartition(" mark")[1]:
            found = await store.words(query, "mark" + record.text.rpartition(" mark")[2])
            there = {(record.id, record.version)} & meant if record.scope.realm == query.scope.realm else set()
            assert {(one.id, one.version) for one, _ in found} == there
    extent = await store.extent(query.scope, "small")
    if extent.slots:
        slots = (await store.slots(query, "small")).tolist()
        owned = await store.owners(query, "small", range(extent.slots))
        assert sorted(slot for slot, _, _ in owned) == slots
        owners = sorted((record for _, record, _ in owned), key=lambda one: (one.id, one.version))
        assert owners == sorted(expected, key=lambda one: (one.id, one.version))
