"""identity, counts, rebuild, check."""

from __future__ import annotations

import dataclasses

import pytest

from ...errors import Conflict
from ...kinds import Message
from ...record import Link, Ref, Scope, Span
from ...store import Batch, Certificate, Cursor, Store
from ..records import ANA, OTHER, entity, every, fact, said
from .steps import SPRING, MakeStore, complaints, embedded, put, unit


class Upkeep:
    async def test_every_store_is_another(self, store: Store, make_store: MakeStore) -> None:
        other = await make_store()
        try:
            assert store.identity and other.identity and store.identity != other.identity
            await put(store, said("mine"))
            assert await other.find(every(ANA)) == []
        finally:
            await other.close()

    async def test_an_empty_store_is_healthy(self, store: Store) -> None:
        assert await complaints(store) == ()
        assert await store.models() == {}
        assert await store.changes() == []

    async def test_the_head_is_the_last_line_of_the_log(self, store: Store) -> None:
        assert await store.head() == 0
        record = said("bridge")
        for batch in (Batch(put=(record,)), Batch(put=(said("harbour"), said("ferry"))), Batch(erase=(record.ref,))):
            await store.commit(batch)
            assert await store.head() == (await store.changes())[-1].seq == await store.head()
        await store.commit(Batch(embeddings=(embedded(said("gone")),)), cursor=Cursor("reader", 0, 4))
        with pytest.raises(Conflict):
            await store.commit(Batch(put=(said("harbour"),)), cursor=Cursor("reader", 0, 4))
        assert await store.head() == 4

    async def test_each_realm_has_a_head_of_its_own(self, store: Store) -> None:
        mine, theirs = said("bridge"), said("bridge", OTHER)
        heads = {ANA: 0, OTHER: 0}

        async def check(about: Scope, *batches: Batch) -> None:
            for batch in batches:
                heads[about] = (await store.commit(batch))[-1].seq
                assert {scope: await store.head(scope) for scope in heads} == heads
                assert await store.head(dataclasses.replace(about, user=None)) == heads[about]
                assert await store.head() == max(heads.values())

        assert await store.head(ANA) == 0
        await check(ANA, Batch(put=(mine, said("harbour"))))
        await check(OTHER, Batch(put=(theirs,)), Batch(restore=(said("old", OTHER, known=Span(SPRING)),)))
        await check(ANA, Batch(put=(mine.revise(body=Message(text="ferry")),)), Batch(erase=(mine.ref,)))
        done = Certificate("done", SPRING, OTHER, (theirs.id,), (), {}, "memory")
        await check(OTHER, Batch(erase=(theirs.ref,)), Batch(certificate=done))
        with pytest.raises(Conflict):
            await store.commit(Batch(put=(said("lost"),)), cursor=Cursor("reader", 3, 4))
        await store.commit(Batch(embeddings=(embedded(said("gone")),)))
        assert {scope: await store.head(scope) for scope in heads} == heads

    async def test_a_store_in_use_is_healthy(self, store: Store) -> None:
        record, erased = said("one", labels=("a",), links=(Link("about", "x"),)), entity("Lisbon")
        await store.commit(Batch(put=(record, erased), embeddings=(embedded(record), embedded(erased))))
        await put(store, record.revise(body=Message(text="two")), said("three", OTHER))
        await store.commit(Batch(erase=(erased.ref,), restore=(said("old", known=Span(SPRING)),)))
        assert await complaints(store) == ()
        assert (await store.check()).counts == await store.counts()

    async def test_counts_say_how_much_there_is(self, store: Store) -> None:
        record = said("one")
        await store.commit(Batch(put=(record, fact("two")), embeddings=(embedded(record, unit(1, 0), unit(0, 1)),)))
        await put(store, record.revise(body=Message(text="one again")))
        await put(store, gone := said("elsewhere", OTHER))
        expected = {"records": 3, "versions": 4, "vectors": 2, "changes": 4, "message": 2, "fact": 1, "spaces": 2}
        counts = await store.counts()
        assert {name: counts[name] for name in expected} == expected
        await store.commit(Batch(erase=(record.ref, gone.ref)))
        counts = await store.counts()
        assert (counts["records"], counts["versions"], counts["vectors"], counts["changes"]) == (1, 1, 0, 6)
        assert counts["spaces"] == 1, "a space that holds nothing is none"

    async def test_a_rebuild_changes_no_answer(self, store: Store) -> None:
        record = said("red bridge")
        await put(store, record, said("bridge", OTHER), said("erased bridge", id="x"))
        await put(store, record.revise(body=Message(text="blue bridge")))
        await store.commit(Batch(erase=(Ref("acme", "main", "x"),)))
        before = [await store.words(every(scope), "red bridge") for scope in (ANA, OTHER)]
        await store.rebuild()
        assert [await store.words(every(scope), "red bridge") for scope in (ANA, OTHER)] == before
        assert await complaints(store) == ()

    async def test_a_store_closes_after_anything(self, make_store: MakeStore) -> None:
        unused = await make_store()
        await unused.close()
        used = await make_store()
        with pytest.raises(Conflict):
            await put(used, said("a").revise())
        await used.close()
