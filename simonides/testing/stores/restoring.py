"""restore: an export read back."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from ...errors import Conflict
from ...kinds import Message
from ...query import Query
from ...record import NEVER, Link, Span, now
from ...store import Batch, Store
from ..records import ANA, entity, every, said
from .steps import MAY, SPRING, SUMMER, MakeStore, by_words, found_texts, put


class Restoring:
    async def test_what_is_restored_has_the_clocks_it_had(self, store: Store) -> None:
        first = said("first", known=Span(SPRING, SUMMER))
        second = dataclasses.replace(first.revise(body=Message(text="second")), known=Span(SUMMER))
        lines = await store.commit(Batch(restore=(first, second)))
        assert [(line.id, line.version) for line in lines] == [(first.id, 1), (first.id, 2)]
        assert await store.find(every(ANA)) == [first, second]
        assert await found_texts(store, Query(scope=ANA, known_at=MAY)) == ["first"]

    async def test_restoring_twice_is_no_news(self, store: Store) -> None:
        record = said("first", known=Span(SPRING))
        await store.commit(Batch(restore=(record,)))
        assert await store.commit(Batch(restore=(record,))) == []
        assert len(await store.changes()) == 1

    async def test_restoring_over_other_content_is_a_conflict(self, store: Store) -> None:
        record = said("first", known=Span(SPRING))
        await store.commit(Batch(restore=(record,)))
        with pytest.raises(Conflict):
            await store.commit(Batch(restore=(dataclasses.replace(record, body=Message(text="other")),)))

    async def test_versions_are_restored_in_order(self, store: Store) -> None:
        first = said("first", known=Span(SPRING, SUMMER))
        second = dataclasses.replace(first.revise(), known=Span(SUMMER))
        with pytest.raises(Conflict):
            await store.commit(Batch(restore=(second, first)))
        assert await store.changes() == []

    async def test_the_next_version_ends_what_was_restored_as_believed_still(self, store: Store) -> None:
        first = said("first", known=Span(SPRING))
        second = dataclasses.replace(first.revise(body=Message(text="second")), known=Span(SUMMER))
        await store.commit(Batch(restore=(first,)))
        await store.commit(Batch(restore=(second,)))
        found, _ = await store.find(every(ANA))
        assert found.known == Span(SPRING, SUMMER)

    async def test_what_was_restored_is_revised_later(self, store: Store) -> None:
        future = now() + timedelta(days=365)
        record = said("restored", known=Span(future))  # from a machine whose clock was wrong
        await store.commit(Batch(restore=(record,)))
        await put(store, record.revise(body=Message(text="revised")))
        old, new = await store.find(every(ANA))
        assert old.known.since == future
        assert new.known.since is not None and new.known.since > future
        assert old.known.until == new.known.since

    async def test_a_restored_record_may_not_take_a_live_key(self, store: Store) -> None:
        await put(store, entity("Lisbon"))
        with pytest.raises(Conflict):
            await store.commit(Batch(restore=(entity("Lisbon", known=Span(SPRING)),)))

    async def test_an_earlier_version_that_bore_the_key_restores_beside_the_one_that_bears_it(
        self, store: Store
    ) -> None:
        first = entity("Lisbon", known=Span(SPRING, SUMMER))
        second = dataclasses.replace(first.revise(valid=NEVER), known=Span(SUMMER))
        heir = entity("Lisbon", known=Span(SUMMER))
        await store.commit(Batch(restore=(heir,)))
        await store.commit(Batch(restore=(first,)))
        await store.commit(Batch(restore=(second,)))
        assert await store.find(Query(scope=ANA)) == [heir]

    async def test_the_key_of_a_version_that_is_believed_no_longer_is_free(self, store: Store) -> None:
        first = entity("Lisbon", known=Span(SPRING, SUMMER))
        heir = entity("Lisbon", known=Span(SUMMER))
        await store.commit(Batch(restore=(first,)))
        await store.commit(Batch(restore=(heir,)))
        await store.commit(Batch(restore=(dataclasses.replace(first.revise(valid=NEVER), known=Span(SUMMER)),)))
        assert await store.find(Query(scope=ANA)) == [heir]

    async def test_what_was_restored_is_found_by_its_words(self, store: Store) -> None:
        await store.commit(Batch(restore=(said("a bridge", known=Span(SPRING)),)))
        assert await by_words(store, Query(scope=ANA), "bridges") == ["a bridge"]

    async def test_a_whole_store_can_be_restored_into_another(self, store: Store, make_store: MakeStore) -> None:
        record, city = said("first", labels=("a",)), entity("Lisbon", links=(Link("about", "x"),))
        await put(store, record, city)
        await put(store, record.revise(body=Message(text="second")), city.revise(valid=NEVER))
        kept = await store.find(every(ANA))
        other = await make_store()
        try:
            await other.commit(Batch(restore=tuple(kept)))
            assert await other.find(every(ANA)) == kept
            assert [(line.id, line.version) for line in await other.changes()] == [(r.id, r.version) for r in kept]
        finally:
            await other.close()
