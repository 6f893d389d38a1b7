"""Embeddings: their slots, the holes that an erase leaves, and models beside each other."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import numpy as np
import pytest

from ...errors import Invalid
from ...kinds import Fact, Message
from ...query import Place, Query
from ...record import ARCHIVED, Scope, now
from ...store import Batch, Store
from ..records import ANA, BO, OTHER, TEAM, every, fact, said
from .steps import complaints, embedded, floats, found_texts, only, put, unit


class Vectors:
    async def test_vectors_are_half_floats_in_slots_from_zero(self, store: Store) -> None:
        one, two = said("one"), said("two")
        await put(store, one, two)
        await store.commit(Batch(embeddings=(embedded(one, unit(3, 4)), embedded(two, unit(1, 0), unit(0, 1)))))
        found = await store.vectors(ANA, "small", start=0, limit=10)
        assert [(slot, len(vector)) for slot, vector in found] == [(0, 4), (1, 4), (2, 4)]
        assert floats(found[0][1]) == pytest.approx([0.6, 0.8], abs=1e-3)
        assert [floats(vector) for _, vector in found[1:]] == [[1, 0], [0, 1]]
        extent = await store.extent(ANA, "small")
        assert (extent.slots, extent.holes) == (3, 0)

    async def test_vectors_are_written_with_their_record(self, store: Store) -> None:
        record = said("one")
        lines = await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        assert len(lines) == 1
        assert (await store.slots(Query(scope=ANA), "small")).tolist() == [0]

    async def test_vectors_are_read_in_pages(self, store: Store) -> None:
        kept = [said(str(n)) for n in range(7)]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embedded(record) for record in kept)))
        for start, limit in itertools.product(range(9), (0, 1, 3, 100)):
            slots = [slot for slot, _ in await store.vectors(ANA, "small", start=start, limit=limit)]
            assert slots == list(range(7))[start:][:limit]

    async def test_what_is_embedded_already_is_left_out(self, store: Store) -> None:
        record = said("one")
        again = embedded(record, unit(0, 1))
        await store.commit(Batch(put=(record,), embeddings=(embedded(record), again)))
        await store.commit(Batch(embeddings=(again,)))
        assert [floats(vector) for _, vector in await store.vectors(ANA, "small", start=0, limit=9)] == [[1, 0]]
        assert (await store.extent(ANA, "small")).slots == 1

    async def test_the_vectors_of_what_is_gone_are_left_out(self, store: Store) -> None:
        record, erased = said("one"), said("two")
        await put(store, record, erased)
        await store.commit(Batch(erase=(erased.ref,)))
        unknown = (embedded(record.revise()), embedded(erased), embedded(said("never")), embedded(said("x", OTHER)))
        assert await store.commit(Batch(embeddings=(*unknown, embedded(record)))) == []
        assert (await store.extent(ANA, "small")).slots == 1
        assert (await store.slots(every(ANA), "small")).tolist() == [0]
        assert await store.models() == {"small": 1}

    async def test_every_version_keeps_its_vectors(self, store: Store) -> None:
        record = fact("lives in Paris")
        await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        believed = (await only(store, Query(scope=ANA))).known.since
        revised = record.revise(body=Fact(text="lives in Lisbon"))
        await store.commit(Batch(put=(revised,), embeddings=(embedded(revised),)))
        assert (await store.slots(Query(scope=ANA), "small")).tolist() == [1]
        assert (await store.slots(Query(scope=ANA, known_at=believed), "small")).tolist() == [0]
        assert (await store.slots(every(ANA), "small")).tolist() == [0, 1]

    async def test_slots_are_those_of_what_matches(self, store: Store) -> None:
        kept = [said(str(n), labels=("even",) if n % 2 == 0 else ()) for n in range(150)]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embedded(record) for record in kept)))
        query = Query(scope=ANA, labels=frozenset({"even"}), limit=3, after=Place(now(), "z", 1))
        found = await store.slots(query, "small")
        assert found.dtype == np.int64 and found.tolist() == list(range(0, 150, 2))
        assert (await store.slots(query, "small", start=3)).tolist() == list(range(4, 150, 2))
        assert (await store.slots(query, "small", start=4, limit=2)).tolist() == [4, 6]
        assert (await store.slots(Query(scope=BO), "small")).tolist() == []

    async def test_owners_are_those_of_the_slots_whose_record_matches(self, store: Store) -> None:
        mine, other = said("mine", pinned=True), said("other")
        embeddings = (embedded(mine, unit(1, 0), unit(0, 1)), embedded(other))
        await store.commit(Batch(put=(mine, other), embeddings=embeddings))
        found = await store.owners(Query(scope=ANA, pinned=True), "small", [1, 2, 99])
        [there] = await store.find(Query(scope=ANA, pinned=True))
        assert [(slot, record, floats(vector)) for slot, record, vector in found] == [(1, there, [0, 1])]
        assert {slot for slot, _, _ in await store.owners(Query(scope=ANA, limit=1), "small", [0, 1, 2])} == {0, 1, 2}
        slots = await store.slots(Query(scope=ANA), "small")
        assert len(await store.owners(Query(scope=ANA), "small", list(slots))) == 3
        assert await store.owners(Query(scope=ANA), "small", []) == []
        assert await store.owners(Query(scope=ANA), "nothing", [0, 1]) == []

    async def test_a_record_of_many_vectors_is_read_once_for_all_of_them(self, store: Store) -> None:
        """It may be of megabytes, and what lies near may be a hundred passages of it."""
        long, short = said("long " * 1000), said("short")
        embeddings = (embedded(long, *(unit(1, n) for n in range(20))), embedded(short))
        await store.commit(Batch(put=(long, short), embeddings=embeddings))
        found = await store.owners(Query(scope=ANA), "small", range(21))
        assert sorted((slot, record.id) for slot, record, _ in found) == [
            *((slot, long.id) for slot in range(20)),
            (20, short.id),
        ]
        assert len({id(record) for _, record, _ in found}) == 2

    async def test_an_erase_leaves_holes_that_are_never_filled(self, store: Store) -> None:
        kept = [said(str(n)) for n in range(4)]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embedded(record) for record in kept)))
        await store.commit(Batch(erase=(kept[2].ref,)))
        await store.commit(Batch(erase=(kept[0].ref,)))
        late = said("late")
        await store.commit(Batch(put=(late,), embeddings=(embedded(late),)))
        assert [slot for slot, _ in await store.vectors(ANA, "small", start=0, limit=9)] == [1, 3, 4]
        assert await store.holes(ANA, "small", after=0) == [2, 0]
        assert await store.holes(ANA, "small", after=1) == [0]
        assert await store.holes(ANA, "small", after=2) == []
        extent = await store.extent(ANA, "small")
        assert (extent.slots, extent.holes) == (5, 2)
        assert (await store.slots(every(ANA), "small")).tolist() == [1, 3, 4]
        assert await store.owners(every(ANA), "small", [0, 2]) == []
        assert await store.models() == {"small": 3}

    async def test_an_erase_empties_every_version_in_every_model(self, store: Store) -> None:
        record = said("one")
        versions = (record, record.revise(body=Message(text="two")))
        embeddings = tuple(embedded(version, model=model) for version in versions for model in ("small", "large"))
        await store.commit(Batch(put=versions, embeddings=embeddings))
        await store.commit(Batch(erase=(record.ref,)))
        for model in ("small", "large"):
            assert await store.vectors(ANA, model, start=0, limit=9) == []
            assert sorted(await store.holes(ANA, model, after=0)) == [0, 1]
        assert await store.models() == {}

    async def test_what_is_written_anew_gets_slots_of_its_own(self, store: Store) -> None:
        record = said("one")
        await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        await store.commit(Batch(erase=(record.ref,)))
        await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        assert (await store.slots(Query(scope=ANA), "small")).tolist() == [1]

    async def test_two_models_and_two_dimensions_never_mix(self, store: Store) -> None:
        record = said("one")
        large = embedded(record, unit(1, 2, 3), unit(3, 2, 1), model="large")
        await store.commit(Batch(put=(record,), embeddings=(embedded(record), large)))
        assert [len(vector) for _, vector in await store.vectors(ANA, "small", start=0, limit=9)] == [4]
        assert [len(vector) for _, vector in await store.vectors(ANA, "large", start=0, limit=9)] == [6, 6]
        assert (await store.slots(Query(scope=ANA), "large")).tolist() == [0, 1]
        assert await store.models() == {"small": 1, "large": 2}
        assert (await store.extent(ANA, "small")).group != (await store.extent(ANA, "large")).group

    async def test_another_dimension_under_a_models_name_is_refused(self, store: Store) -> None:
        one, two = said("one"), said("two")
        await store.commit(Batch(put=(one,), embeddings=(embedded(one),)))
        with pytest.raises(Invalid):
            await store.commit(Batch(put=(two,), embeddings=(embedded(two, unit(1, 2, 3)),)))
        assert await found_texts(store, every(ANA)) == ["one"]
        assert (await store.extent(ANA, "small")).slots == 1

    async def test_each_realm_numbers_its_own(self, store: Store) -> None:
        groups = set()
        for scope in (ANA, TEAM, OTHER):
            record = said("a", scope)
            await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
            extent = await store.extent(scope, "small")
            groups.add(extent.group)
            assert (extent.slots, extent.holes) == (1, 0)
        assert len(groups) == 3
        assert await store.models() == {"small": 3}
        assert await store.models(BO) == {"small": 1}
        assert await store.models(Scope(tenant="nobody")) == {}

    async def test_what_is_found_by_its_id_is_the_latest_whatever_the_owners_were(self, store: Store) -> None:
        kept = [said(name, id=name) for name in ("a", "b", "c", "d", "e")]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embedded(record) for record in kept)))
        stays, revised, archived, _, last = kept
        await store.owners(every(ANA), "small", range(5))
        await store.commit(Batch(erase=(last.ref,)))
        await put(store, said("perhaps where the erased one was"))
        await put(store, revised.revise(body=Message(text="newer")), archived.revise(status=ARCHIVED))
        await put(store, said("theirs", OTHER, id="e"))
        there = Query(scope=ANA, ids=frozenset("abcde"))
        assert await found_texts(store, there) == [stays.text, "newer", "d"]
        assert await found_texts(store, dataclasses.replace(there, statuses=None, limit=3)) == ["a", "newer", "c"]
        assert await found_texts(store, dataclasses.replace(there, newest=True)) == ["newer", "d", "a"]
        assert await found_texts(store, dataclasses.replace(there, any_time=True, ids=frozenset("b"))) == ["b", "newer"]
        second = Place.of((await store.find(there))[1])
        assert await found_texts(store, dataclasses.replace(there, after=second)) == ["d"]
        believed = (await store.find(dataclasses.replace(there, any_time=True)))[0].known.since
        known = dataclasses.replace(there, ids=frozenset("ab"), known_at=believed)
        assert await found_texts(store, known) == ["a", "b"]

    async def test_a_model_can_be_dropped(self, store: Store) -> None:
        kept = [said("one"), said("two"), said("three", OTHER)]
        embeddings = [embedded(record, model=model) for record in kept for model in ("small", "large")]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embeddings)))
        await store.commit(Batch(erase=(kept[0].ref,)))
        assert await store.drop_model("small") == 2
        assert await store.drop_model("small") == 0
        assert await store.models() == {"large": 2}
        assert await store.vectors(ANA, "small", start=0, limit=9) == []
        assert (await store.slots(every(ANA), "small")).tolist() == []
        assert await store.holes(ANA, "small", after=0) == []
        extent = await store.extent(ANA, "small")
        assert (extent.slots, extent.holes) == (0, 0)
        assert await complaints(store) == ()

    async def test_a_model_can_be_dropped_bit_by_bit(self, store: Store) -> None:
        kept = [said(f"{n}", id=f"{n}") for n in range(3)] + [said("theirs", OTHER, id="theirs")]
        several = [embedded(record, *[unit(1, 0)] * 3, tokens=record.text.encode()) for record in kept]
        await store.commit(Batch(put=tuple(kept), embeddings=(*several, *(embedded(r, model="large") for r in kept))))
        left, dropped = {"0", "1", "2", "theirs"}, list[int]()
        while dropped[-1:] != [0]:
            dropped.append(await store.drop_model("small", limit=2))
            owned = [(r, await store.tokens(r.scope, "small", [(r.id, 1)]) != [b""]) for r in kept]
            assert {record.id for record, there in owned if there} <= left
            left = {record.id for record, there in owned if there}
            extents = [await store.extent(scope, "small") for scope in (ANA, OTHER)]
            assert sum(extent.slots - extent.holes for extent in extents) == 3 * len(left)
            assert await store.models() == {"large": 4} | ({"small": 3 * len(left)} if left else {})
            for scope, extent in zip((ANA, OTHER), extents, strict=True):
                there = [slot for slot, _ in await store.vectors(scope, "small", start=0, limit=99)]
                holes = await store.holes(scope, "small", after=0)
                assert len(holes) == extent.holes and sorted(there + holes) == list(range(extent.slots))
                assert (await store.slots(every(scope), "small")).tolist() == there
            assert await complaints(store) == ()
        assert dropped == [3, 3, 3, 3, 0]
        assert await store.drop_model("large", limit=100) == 4
        assert await store.models() == {}

    async def test_what_was_dropped_in_part_is_embedded_again_behind_the_rest(self, store: Store) -> None:
        kept = [said("one"), said("two"), said("three")]
        embeddings = tuple(embedded(record, unit(1, 0), tokens=b"before") for record in kept)
        await store.commit(Batch(put=tuple(kept), embeddings=embeddings))
        await store.drop_model("small", limit=1)
        await store.commit(Batch(embeddings=tuple(embedded(record, tokens=b"after") for record in kept)))
        assert [slot for slot, _ in await store.vectors(ANA, "small", start=0, limit=9)] == [1, 2, 3]
        found = await store.tokens(ANA, "small", [(record.id, 1) for record in kept])
        assert sorted(found) == [b"after", b"before", b"before"]
        assert await complaints(store) == ()

    async def test_a_model_that_comes_back_begins_at_zero_under_a_new_number(self, store: Store) -> None:
        record = said("one")
        await store.commit(Batch(put=(record,), embeddings=(embedded(record),)))
        group = (await store.extent(ANA, "small")).group
        await store.drop_model("small")
        await store.commit(Batch(embeddings=(embedded(record, unit(1, 2, 3)),)))
        extent = await store.extent(ANA, "small")
        assert extent.group != group and (extent.slots, extent.holes) == (1, 0)
        assert len((await store.vectors(ANA, "small", start=0, limit=9))[0][1]) == 6

    async def test_of_two_that_embed_at_once_one_is_kept(self, store: Store) -> None:
        kept = [said(str(n)) for n in range(10)]
        await put(store, *kept)
        batch = Batch(embeddings=tuple(embedded(record) for record in kept))
        await asyncio.gather(*(store.commit(batch) for _ in range(8)))
        assert (await store.slots(Query(scope=ANA), "small")).tolist() == list(range(10))
        assert (await store.extent(ANA, "small")).slots == 10

    async def test_tokens_are_kept_with_the_vectors(self, store: Store) -> None:
        one, two, bare = said("one"), said("two"), said("bare")
        embeddings = (embedded(one, tokens=b"first"), embedded(two, tokens=bytes(range(256)) * 24), embedded(bare))
        await store.commit(Batch(put=(one, two, bare), embeddings=embeddings))
        asked = [(two.id, 1), (one.id, 1), (bare.id, 1), ("nothing", 1), (one.id, 1)]
        found = await store.tokens(ANA, "small", asked)
        assert found == [bytes(range(256)) * 24, b"first", b"", b"", b"first"]
        assert await store.tokens(ANA, "small", []) == []
        assert await store.tokens(ANA, "large", [(one.id, 1)]) == [b""]
        assert await store.tokens(Scope(tenant="nobody"), "small", [(one.id, 1)]) == [b""]
        assert await complaints(store) == ()

    async def test_tokens_are_those_of_the_version_and_the_model(self, store: Store) -> None:
        first = fact("lives in Paris")
        second = first.revise(body=Fact(text="lives in Lisbon"))
        embeddings = [
            embedded(version, model=model, tokens=f"{version.text}, {model}".encode())
            for version in (first, second)
            for model in ("small", "large")
        ]
        await store.commit(Batch(put=(first, second), embeddings=tuple(embeddings)))
        for model in ("small", "large"):
            found = await store.tokens(ANA, model, [(first.id, 2), (first.id, 1), (first.id, 3)])
            assert found == [f"lives in Lisbon, {model}".encode(), f"lives in Paris, {model}".encode(), b""]

    async def test_tokens_do_not_cross_realms(self, store: Store) -> None:
        kept = [said("a", scope, id="same") for scope in (ANA, TEAM, OTHER)]
        for record in kept[1:]:
            tokens = f"{record.scope}".encode()
            await store.commit(Batch(put=(record,), embeddings=(embedded(record, tokens=tokens),)))
        await put(store, kept[0])
        found = [await store.tokens(record.scope, "small", [("same", 1)]) for record in kept]
        assert found == [[b""], [f"{TEAM}".encode()], [f"{OTHER}".encode()]]

    async def test_tokens_embedded_already_stay(self, store: Store) -> None:
        record = said("one")
        await store.commit(Batch(put=(record,), embeddings=(embedded(record, tokens=b"first"),)))
        await store.commit(Batch(embeddings=(embedded(record, tokens=b"again"),)))
        assert await store.tokens(ANA, "small", [(record.id, 1)]) == [b"first"]

    async def test_tokens_are_gone_with_what_is_erased(self, store: Store) -> None:
        record, stays = said("one"), said("two")
        versions = (stays, record, record.revise(body=Message(text="more")))
        embeddings = tuple(
            embedded(each, model=model, tokens=each.text.encode()) for each in versions for model in ("small", "large")
        )
        await store.commit(Batch(put=versions, embeddings=embeddings))
        await store.commit(Batch(erase=(record.ref,)))
        which = [(record.id, 1), (record.id, 2), (stays.id, 1)]
        for model in ("small", "large"):
            assert await store.tokens(ANA, model, which) == [b"", b"", b"two"]
        await put(store, record, record.revise(body=Message(text="less")))  # perhaps where the erased were
        assert await store.tokens(ANA, "small", which) == [b"", b"", b"two"]
        await store.commit(Batch(embeddings=(embedded(record, tokens=b"anew"),)))
        assert await store.tokens(ANA, "small", which) == [b"anew", b"", b"two"]
        assert await complaints(store) == ()

    async def test_tokens_are_gone_with_their_model(self, store: Store) -> None:
        kept = [said("one"), said("two", OTHER)]
        embeddings = [
            embedded(record, model=model, tokens=model.encode()) for record in kept for model in ("small", "large")
        ]
        await store.commit(Batch(put=tuple(kept), embeddings=tuple(embeddings)))
        await store.drop_model("small")
        for record in kept:
            assert await store.tokens(record.scope, "small", [(record.id, 1)]) == [b""]
            assert await store.tokens(record.scope, "large", [(record.id, 1)]) == [b"large"]
        await store.commit(Batch(embeddings=(embedded(kept[0]),)))
        assert await store.tokens(ANA, "small", [(kept[0].id, 1)]) == [b""]
        assert await complaints(store) == ()
