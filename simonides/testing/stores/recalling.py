"""recalled and recalls: when a record was last recalled."""

from __future__ import annotations

import dataclasses

from ...kinds import Message
from ...record import Ref, Scope
from ...store import Batch, Store
from ..records import ANA, every, said
from .steps import MAY, SPRING, SUMMER, complaints, put


class Recalling:
    async def test_the_last_recall_is_kept_for_each_record(self, store: Store) -> None:
        one, two, never = said("one"), said("two"), said("never recalled")
        await put(store, one, two, never)
        assert await store.recalls(ANA, [one.id]) == {}
        await store.recalled({one.ref: MAY, two.ref: SPRING})
        assert await store.recalls(ANA, [one.id, two.id, never.id, "unknown"]) == {one.id: MAY, two.id: SPRING}
        assert await store.recalls(ANA, []) == {}

    async def test_the_later_recall_stays_whoever_notes_it_last(self, store: Store) -> None:
        record = said("one")
        await put(store, record)
        for at in (MAY, SUMMER, SPRING):
            await store.recalled({record.ref: at})
        assert await store.recalls(ANA, [record.id]) == {record.id: SUMMER}

    async def test_a_recall_is_of_the_record_whatever_its_version(self, store: Store) -> None:
        record = said("one")
        await put(store, record)
        await store.recalled({record.ref: MAY})
        await put(store, record.revise(body=Message(text="two")))
        assert await store.recalls(ANA, [record.id]) == {record.id: MAY}
        await store.recalled({record.ref: SUMMER})
        assert await store.recalls(ANA, [record.id]) == {record.id: SUMMER}

    async def test_a_recall_is_no_line_of_the_log_and_changes_no_record(self, store: Store) -> None:
        record = said("one")
        await put(store, record)
        before = await store.find(every(ANA)), await store.changes(), await store.counts()
        await store.recalled({record.ref: MAY})
        assert (await store.find(every(ANA)), await store.changes(), await store.counts()) == before

    async def test_an_erase_takes_the_recall_away(self, store: Store) -> None:
        record, kept = said("secret"), said("kept")
        await put(store, record, kept)
        await store.recalled({record.ref: MAY, kept.ref: MAY})
        await store.commit(Batch(erase=(record.ref,)))
        await store.recalled({record.ref: SUMMER})  # noted before it was erased, and written after
        await put(store, dataclasses.replace(record, body=Message(text="anew")))
        assert await store.recalls(ANA, [record.id, kept.id]) == {kept.id: MAY}
        assert await complaints(store) == ()

    async def test_a_recall_stays_between_its_walls(self, store: Store) -> None:
        elsewhere = Scope(tenant="other", space=ANA.space)
        mine, theirs = said("mine"), said("theirs", elsewhere)
        theirs = dataclasses.replace(theirs, id=mine.id)
        await put(store, mine, theirs)
        await store.recalled({mine.ref: MAY, Ref("nobody", "main", mine.id): SUMMER})
        assert await store.recalls(ANA, [mine.id]) == {mine.id: MAY}
        assert await store.recalls(elsewhere, [mine.id]) == {}
