"""No read crosses a tenant or a space; neither does a write tell about the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given

from ...errors import Conflict
from ...kinds import Message
from ...query import Query
from ...record import Link, Record, Ref, Scope, Span
from ...store import Batch, Store
from ..records import ANA, BO, OTHER, TEAM, archives, bears, every, queries, said, texts
from .steps import SUMMER, MakeStore, by_words, embedded, found_texts, put, rule, told, unit


class Walls:
    async def test_no_read_crosses_a_wall(self, store: Store) -> None:
        sides = (ANA, TEAM, OTHER)
        for scope in sides:
            record = said(f"bridge of {scope.tenant} {scope.space}", scope)
            await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        for scope in sides:
            for query in (Query(scope=scope), every(scope), every(Scope(tenant=scope.tenant, space=scope.space))):
                text = f"bridge of {scope.tenant} {scope.space}"
                assert await found_texts(store, query) == [text]
                assert await store.count(query) == 1
                assert await by_words(store, query, "bridge acme other main team") == [text]
                assert (await store.slots(query, "small")).tolist() == [0]
                assert len(await store.owners(query, "small", [0, 1, 2])) == 1
            assert await store.models(scope) == {"small": 1}
            assert (await store.spread(scope, ["bridg"])) == (1, {"bridg": 1})

    async def test_one_id_on_both_sides_is_two_records(self, store: Store) -> None:
        sides = [said(scope.tenant, scope, id="same") for scope in (ANA, TEAM, OTHER)]
        for record in sides:
            assert len(await put(store, record)) == 1
        await put(store, sides[0].revise(body=Message(text="revised")))
        await store.commit(Batch(erase=(sides[1].ref,)))
        assert await found_texts(store, Query(scope=ANA)) == ["revised"]
        assert await found_texts(store, every(TEAM)) == []
        assert await found_texts(store, every(OTHER)) == ["other"]
        with pytest.raises(Conflict):
            await put(store, sides[2].revise().revise())

    async def test_erasing_with_another_tenants_name_takes_nothing(self, store: Store) -> None:
        record = said("mine")
        await put(store, record)
        for tenant, space in (("other", "main"), ("acme", "team"), ("ACME", "main"), ("%", "%"), ("*", "*")):
            assert await store.commit(Batch(erase=(Ref(tenant, space, record.id),))) == []
        assert await found_texts(store, Query(scope=ANA)) == ["mine"]

    async def test_whose_a_record_is_never_changes(self, store: Store) -> None:
        mine = said("mine", ANA)
        await put(store, mine)
        open_to_all = dataclasses.replace(ANA, user=None, agent=None, session=None)
        for scope in (BO, dataclasses.replace(ANA, session="another"), open_to_all):
            for batch in (
                Batch(put=(dataclasses.replace(mine.revise(), scope=scope),)),
                Batch(restore=(dataclasses.replace(mine, version=2, scope=scope, known=Span(since=SUMMER)),)),
            ):
                with pytest.raises(Conflict):
                    await store.commit(batch)
        assert await store.find(every(TEAM)) == []
        assert await found_texts(store, every(Scope(tenant=ANA.tenant, space=ANA.space))) == ["mine"]

    async def test_names_that_look_alike_are_not_the_same_wall(self, store: Store) -> None:
        walls = [tuple(wall.split("|")) for wall in ("ab|c", "a|bc", "a|b", "a_|c", "a%|c", "A|b", "a |b", "a|b\x00")]
        for tenant, space in walls:
            await put(store, said(f"{tenant}|{space}", Scope(tenant=tenant, space=space), id="same"))
        for tenant, space in walls:
            scope = Scope(tenant=tenant, space=space)
            assert await found_texts(store, Query(scope=scope)) == [f"{tenant}|{space}"]
        assert {scope.realm for scope in await store.realms()} == set(walls)

    async def test_realms_are_those_that_hold_or_held_something(self, store: Store) -> None:
        assert await store.realms() == []
        record = said("a", OTHER)
        await put(store, said("a"), record, said("a", BO))
        walls = [Scope(tenant="acme", space="main"), Scope(tenant="other", space="main")]
        assert await store.realms() == walls
        await store.commit(Batch(erase=(record.ref,)))
        assert await store.realms() == walls

    async def test_asking_about_an_unknown_realm_makes_none(self, store: Store) -> None:
        nobody = Scope(tenant="nobody")
        assert await store.find(every(nobody)) == []
        assert await store.words(every(nobody), "a") == []
        assert (await store.extent(nobody, "small")).slots == 0
        assert await store.commit(Batch(erase=(Ref("nobody", "main", "x"),))) == []
        assert await store.realms() == []

    async def test_a_link_leads_to_nothing_beyond_the_wall(self, store: Store) -> None:
        await put(store, said("theirs", OTHER, links=(Link("about", "x"),), part_of="x", labels=("a",)))
        assert await store.find(every(ANA, linked=("about", frozenset({"x"})))) == []
        assert await store.find(every(ANA, part_of=frozenset({"x"}))) == []
        assert await store.find(every(ANA, labels=frozenset({"a"}))) == []

    @rule
    @given(kept=archives(), query=queries(), words=texts)
    def test_what_happens_beyond_the_wall_changes_no_answer(
        self, make_store: MakeStore, kept: list[tuple[Record, ...]], query: Query, words: str
    ) -> None:
        async def story() -> None:
            store = await make_store()
            try:
                here = [versions for versions in kept if versions[0].scope.realm == query.scope.realm]
                await _restore(store, here)
                before = await _answers(store, query, words)
                for wall in (Scope(tenant="beyond"), Scope(tenant=query.scope.tenant, space="beyond")):
                    await _restore(store, [_moved(versions, wall) for versions in kept])
                assert await _answers(store, query, words) == before
                for wall in (Scope(tenant="beyond"), Scope(tenant=query.scope.tenant, space="beyond")):
                    await store.commit(Batch(erase=tuple({_moved(v, wall)[0].ref for v in kept})))
                assert await _answers(store, query, words) == before
            finally:
                await store.close()

        told(story())


async def _restore(store: Store, kept: Sequence[Sequence[Record]]) -> None:
    """Restore histories and embed each version, version n of a record with n vectors."""
    versions = [record for history in kept for record in history]
    embeddings = [embedded(record, *[unit(record.version, 1)] * record.version) for record in versions]
    done, refs = list[Sequence[Record]](), set[Ref]()
    for history in kept:  # two histories moved to one realm may have one name: the first is kept
        if history[0].ref not in refs and all(bears(history[-1]) != bears(other[-1]) for other in done):
            done.append(history)
            refs.add(history[0].ref)
    await store.commit(Batch(restore=tuple(record for history in done for record in history)))
    await store.commit(Batch(embeddings=tuple(one for one in embeddings if one.ref in refs)))


def _moved(versions: Sequence[Record], wall: Scope) -> list[Record]:
    def there(scope: Scope) -> Scope:
        return dataclasses.replace(scope, tenant=wall.tenant, space=wall.space)

    return [dataclasses.replace(record, scope=there(record.scope)) for record in versions]


async def _answers(store: Store, query: Query, words: str) -> list[Any]:
    """Return what every reading method says about the query's realm; scores may move, so they are left out."""
    extent = await store.extent(query.scope, "small")
    return [
        await store.find(query),
        await store.count(query),
        sorted((record.id, record.version) for record, _ in await store.words(query, words)),
        sorted((record.id, record.version) for record, _ in await store.words(query, "bridge café 北京")),
        await store.spread(query.scope, ["bridg", "cafe"]),
        (extent.slots, extent.holes),
        await store.vectors(query.scope, "small", start=0, limit=100),
        await store.holes(query.scope, "small", after=0),
        (await store.slots(query, "small")).tolist(),
        sorted(await store.owners(query, "small", range(extent.slots))),
        await store.models(query.scope),
    ]
