"""snapshot, and what a copy of a store is made with: a log written as it was, and what is read as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from ...errors import Conflict, Invalid
from ...kinds import Message
from ...query import Query
from ...record import TICK, Record, Scope, Span, now
from ...store import Batch, Certificate, Change, Cursor, Store
from ..records import ANA, BO, OTHER, every, said
from .steps import MAY, SPRING, SUMMER, complaints, embedded, found_texts, put, unit

ACME = Scope(tenant="acme", space="main")


def line(seq: int, record: Record, version: int | None = None) -> Change:
    return Change(seq, SPRING, record.id, record.version if version is None else version, record.kind, record.scope)


def certified(seq: int, *erased: Record) -> Change:
    note = {"id": f"c{seq}", "ids": [record.id for record in erased]}
    return Change(seq, SUMMER, f"c{seq}", 0, "certificate", ACME, note)


class Copying:
    async def test_a_copied_line_is_as_it_was(self, store: Store) -> None:
        first, gone = said("first", known=Span(MAY)), said("gone", BO)
        lines = (line(1, gone), line(2, gone, 0), line(3, first), certified(4, gone))
        assert await store.commit(Batch(restore=(first,), log=lines)) == list(lines)
        assert await store.changes() == list(lines)
        assert await store.head() == 4
        assert await store.find(every(ANA)) == [first]
        [own] = await put(store, said("own"))
        assert own.seq == 5
        assert await store.unfinished() == []

    async def test_a_copied_line_of_an_erase_waits_for_its_certificate(self, store: Store) -> None:
        record = said("secret", known=Span(MAY))
        await store.commit(Batch(restore=(record,), log=(line(1, record),)))
        await store.commit(Batch(erase=(record.ref,), log=(line(2, record, 0),)))
        assert await store.find(every(ANA)) == []
        assert await store.unfinished() == [record.ref]
        await store.commit(Batch(log=(certified(3, record),)))
        assert await store.unfinished() == []
        assert [change.seq for change in await store.changes()] == [1, 2, 3]
        assert await complaints(store) == ()

    @pytest.mark.parametrize("numbers", [(2,), (0,), (1, 3), (2, 1), (1, 1)])
    async def test_copied_lines_go_on_where_the_log_ends(self, store: Store, numbers: Sequence[int]) -> None:
        record = said("first", known=Span(MAY))
        with pytest.raises(Conflict):
            await store.commit(Batch(restore=(record,), log=tuple(line(number, record) for number in numbers)))
        assert (await store.changes(), await store.find(every(ANA))) == ([], [])

    async def test_what_is_copied_is_what_its_lines_speak_of(self, store: Store) -> None:
        one, two = said("one", known=Span(MAY)), said("two", known=Span(MAY))
        certificate = Certificate("c", now(), ACME, (), (), {}, "")
        for batch in (
            Batch(restore=(one, two)),
            Batch(put=(one,)),
            Batch(erase=(one.ref,)),
            Batch(restore=(one,), certificate=certificate),
        ):
            with pytest.raises(Invalid):
                await store.commit(dataclasses.replace(batch, log=(line(1, one),)))
        assert await store.changes() == []

    async def test_a_version_copied_later_ends_the_one_before(self, store: Store) -> None:
        first = said("first", known=Span(SPRING))
        second = dataclasses.replace(first.revise(body=Message(text="second")), known=Span(SUMMER))
        await store.commit(Batch(restore=(first,), log=(line(1, first),)))
        await store.commit(Batch(restore=(second,), log=(line(2, second),)))
        assert [record.known for record in await store.find(every(ANA))] == [Span(SPRING, SUMMER), Span(SUMMER)]

    async def test_lines_alone_make_a_realm(self, store: Store) -> None:
        await store.commit(Batch(log=(line(1, said("gone", OTHER)),)), cursor=Cursor("copy", 0, 1))
        assert await store.realms() == [Scope(tenant="other", space="main")]
        assert await store.cursor("copy") == 1

    async def test_a_snapshot_stays_as_it_was(self, store: Store) -> None:
        one, two = said("bridge one"), said("bridge two")
        await put(store, one, two)
        await store.commit(Batch(embeddings=(embedded(one), embedded(two, unit(0, 1)))), cursor=Cursor("reader", 0, 2))
        await store.recalled({one.ref: MAY})
        async with store.snapshot() as frozen:
            await put(store, one.revise(body=Message(text="bridge anew")), said("bridge three"))
            await store.commit(Batch(erase=(two.ref,)), cursor=Cursor("reader", 2, 4))
            await store.recalled({one.ref: SUMMER})
            assert await found_texts(frozen, every(ANA)) == ["bridge one", "bridge two"]
            assert (await frozen.find(every(ANA)))[0].known.until is None
            assert (await frozen.head(), len(await frozen.changes())) == (2, 2)
            assert (await frozen.cursors(""), await frozen.cursor("reader")) == ({"reader": 2}, 2)
            assert await frozen.recalls(ANA, [one.id]) == {one.id: MAY}
            assert [slot for slot, _ in await frozen.vectors(ANA, "small", start=0, limit=9)] == [0, 1]
            assert [slot for slot, _ in await frozen.embedded(ANA, "small", start=0, limit=9)] == [0, 1]
            assert {record.text for record, _ in await frozen.words(every(ANA), "bridge")} == {
                "bridge one",
                "bridge two",
            }
            assert (await frozen.unfinished(), await frozen.count(every(ANA))) == ([], 2)
            assert (await frozen.counts())["records"] == 2
            assert frozen.identity == store.identity
        assert set(await found_texts(store, Query(scope=ANA))) == {"bridge three", "bridge anew"}
        assert await store.head() == 5

    async def test_nothing_is_written_to_a_snapshot(self, store: Store) -> None:
        record = said("one")
        await put(store, record)
        async with store.snapshot() as frozen:
            with pytest.raises(Invalid):
                await frozen.commit(Batch(put=(said("two"),)))
            with pytest.raises(Invalid):
                await frozen.recalled({record.ref: MAY})
            with pytest.raises(Invalid):
                await frozen.drop_model("small")
        assert await found_texts(store, every(ANA)) == ["one"]

    async def test_the_places_of_all_followers_are_told(self, store: Store) -> None:
        assert await store.cursors("") == {}
        await store.commit(Batch(), cursor=Cursor("b", 0, 5))
        await store.commit(Batch(), cursor=Cursor("a", 0, 7))
        assert await store.cursors("") == {"a": 7, "b": 5}
        await store.commit(Batch(), cursor=Cursor("b", 5, 0))
        assert await store.cursors("") == {"a": 7}

    async def test_embeddings_are_read_as_they_were_written(self, store: Store) -> None:
        long, short, gone = said("long"), said("short"), said("gone")
        other = dataclasses.replace(said("other", OTHER), id=long.id)
        await put(store, long, gone, short, other)
        await put(store, long.revise(body=Message(text="longer")))
        made = (
            embedded(long, unit(1, 0), unit(3, 4), tokens=b"tokens"),
            embedded(gone),
            embedded(short, unit(0, 1)),
            embedded(long.revise(), unit(5, 12), unit(12, 5)),
        )
        strangers = (embedded(other), embedded(short, model="large"))
        await store.commit(Batch(embeddings=(*made, *strangers)))
        await store.commit(Batch(erase=(gone.ref,)))
        found = await store.embedded(ANA, "small", start=0, limit=9)
        assert [slot for slot, _ in found] == [0, 3, 4]
        for (_, read), wrote in zip(found, (made[0], made[2], made[3]), strict=True):
            assert (read.ref, read.version, read.model, read.tokens) == (
                wrote.ref,
                wrote.version,
                "small",
                wrote.tokens,
            )
            assert np.array_equal(read.vectors, wrote.vectors.astype("<f2").astype(np.float32))
            assert read.vectors.dtype == np.float32
        pages = [await store.embedded(ANA, "small", start=start, limit=1) for start in (0, 2, 4, 6)]
        assert [slot for page in pages for slot, _ in page] == [0, 3, 4]
        assert await store.embedded(ANA, "unknown", start=0, limit=9) == []
        assert await store.embedded(Scope(tenant="nobody"), "small", start=0, limit=9) == []

    async def test_the_last_recalls_of_a_realm_are_read_in_pages(self, store: Store) -> None:
        kept = [said(str(number), id=f"{number}") for number in range(5)]
        stranger = said("1", OTHER, id="1")
        await put(store, *kept, stranger)
        await put(store, kept[3].revise(body=Message(text="three")))
        await store.recalled({record.ref: SPRING + number * TICK for number, record in enumerate(kept[1:], 1)})
        await store.recalled({stranger.ref: MAY})
        await store.commit(Batch(erase=(kept[2].ref,)))
        wanted = [(str(number), SPRING + number * TICK) for number in (1, 3, 4)]
        assert await store.last_recalls(ANA) == wanted
        assert await store.last_recalls(ANA, limit=2) == wanted[:2]
        assert await store.last_recalls(ANA, after="3", limit=2) == wanted[2:]
        assert await store.last_recalls(Scope(tenant="nobody")) == []

    async def test_a_copied_version_keeps_its_end_and_is_found_by_its_words(self, store: Store) -> None:
        first = said("a bridge", known=Span(SPRING, MAY))
        second = dataclasses.replace(first.revise(body=Message(text="a harbour")), known=Span(MAY))
        await store.commit(Batch(restore=(first, second), log=(line(1, first), line(2, second))))
        assert await store.find(every(ANA)) == [first, second]
        assert [record.text for record, _ in await store.words(Query(scope=ANA, known_at=MAY - TICK), "bridges")] == [
            "a bridge"
        ]
        assert await complaints(store) == ()
