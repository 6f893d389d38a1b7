"""Every store passes the same suite; `conftest.py` says which there are."""

import dataclasses
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from simonides.errors import Conflict
from simonides.record import NEVER, Record
from simonides.store import Batch, Store
from simonides.testing.records import ACME, ANA, OTHER, TEAM, entity, every, histories, records, said
from simonides.testing.stores import MakeStore, StoreSuite, rule, told
from simonides.testing.stores.steps import complaints

BRIDGE = said("bridge", id="a")
close = records(st.sampled_from([ANA, OTHER]))  # so close together that ids and keys meet
together = st.one_of(
    close, close, histories(close), st.lists(close, min_size=2, max_size=4).map(tuple), close.map(Record.revise)
)


async def _written(store: Store, field: str, *versions: Record) -> bool:
    try:
        await store.commit(Batch(**{field: versions}))
    except Conflict:
        return False
    return True


async def _all_of(store: Store) -> list[Any]:
    """Return everything that the store answers but for the times it gave."""
    found: list[Any] = [(line.seq, line.id, line.version, line.kind, line.scope) for line in await store.changes()]
    for scope in (ACME, TEAM, OTHER, dataclasses.replace(OTHER, space="team")):
        everything = every(scope, shared=False)
        labelled = dataclasses.replace(everything, labels=frozenset({"home"}))
        found += [_timeless(record) for query in (everything, labelled) for record in await store.find(query)]
        linked = dataclasses.replace(everything, linked=("about", frozenset({"a", "b"})))
        found.append(await store.count(linked))
        found.append(sorted((hit.id, hit.version) for hit, _ in await store.words(everything, "bridge harbour lisbon")))
        found.append(await store.spread(scope, ["bridg", "2021", "lisbon"]))
    return found


def _timeless(record: Record) -> Record:
    open_known = dataclasses.replace(record.known, since=None, until=NEVER.until if record.known.until else None)
    return dataclasses.replace(record, known=open_known, begun=None)


class TestStores(StoreSuite):
    async def test_thousands_are_put_at_once(self, store: Store) -> None:
        kept = [said(f"bridge {number}", id=f"{number:04}", labels=("home",)) for number in range(2_345)]
        changes = await store.commit(Batch(put=tuple(kept)))
        assert [change.seq for change in changes] == list(range(1, 2_346))
        assert [(change.id, change.version) for change in changes] == [(record.id, 1) for record in kept]
        assert [record.text for record in await store.find(every(ACME))] == [record.text for record in kept]
        assert await store.count(every(ACME, labels=frozenset({"home"}))) == 2_345
        assert [record.id for record, _ in await store.words(every(ACME), "2344")] == ["2344"]
        assert await complaints(store) == ()

    @rule
    @given(first=st.lists(close, max_size=3), then=st.lists(together, max_size=5), restored=st.booleans())
    @example(first=[], then=[(BRIDGE, BRIDGE)], restored=False)
    @example(first=[], then=[(BRIDGE.revise(), said("harbour", id="b"))], restored=False)
    @example(first=[], then=[(entity("lisbon", id="a"), entity("lisbon", id="b"))], restored=True)
    def test_a_batch_writes_what_its_records_write_one_by_one(
        self, make_store: MakeStore, first: list[Record], then: list[Any], restored: bool
    ) -> None:
        versions = [record for some in then for record in (some if isinstance(some, tuple) else (some,))]
        field = "restore" if restored else "put"

        async def story() -> None:
            at_once, one_by_one = await make_store(), await make_store()
            try:
                for record in first:
                    for store in (at_once, one_by_one):
                        await _written(store, "put", record)
                before = await _all_of(at_once)
                if await _written(at_once, field, *versions):
                    for record in versions:
                        assert await _written(one_by_one, field, record)
                    assert await _all_of(at_once) == await _all_of(one_by_one)
                else:
                    assert not all([await _written(one_by_one, field, record) for record in versions])
                    assert await _all_of(at_once) == before
                assert await complaints(at_once) == await complaints(one_by_one) == ()
            finally:
                await at_once.close()
                await one_by_one.close()

        told(story())
