"""Pages: together they are everything once, whatever is written between them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from ...kinds import Message
from ...query import Place, Query
from ...record import ARCHIVED, TICK, Span
from ...store import Batch, Store
from ..records import ANA, every, said
from .steps import MAY, SPRING, SUMMER, found_texts, in_pages, put


class Paging:
    async def test_every_page_together_is_everything_once(self, store: Store) -> None:
        times = [SPRING, SPRING, SUMMER, MAY, SPRING, MAY, SUMMER]
        await put(store, *(said(str(n), id=f"{n * 5 % 7}", valid=Span(at)) for n, at in enumerate(times)))
        for newest, limit in itertools.product((False, True), (1, 2, 3, 7)):
            whole = Query(scope=ANA, newest=newest)
            assert await in_pages(store, whole, limit) == await store.find(whole)

    async def test_the_past_is_paged_too(self, store: Store) -> None:
        kept = [said(str(n), id=str(n)) for n in range(5)]
        await put(store, *kept[:3])
        await put(store, *kept[3:])
        believed = max(record.known.since for record in await store.find(Query(scope=ANA)) if record.known.since)
        await put(store, *(record.revise(body=Message(text="revised")) for record in kept))
        for newest in (False, True):
            whole = Query(scope=ANA, newest=newest, known_at=believed)
            assert len(await store.find(whole)) == 5
            assert await in_pages(store, whole, 1) == await store.find(whole)

    async def test_a_page_goes_on_although_its_last_record_no_longer_matches(self, store: Store) -> None:
        kept = [said(str(n), id=str(n), valid=Span(SPRING + n * TICK)) for n in range(4)]
        await put(store, *kept)
        ended = Place.of(kept[2])
        await put(store, kept[2].revise(status=ARCHIVED))
        assert await found_texts(store, Query(scope=ANA, after=ended, newest=True)) == ["1", "0"]
        assert await found_texts(store, Query(scope=ANA, after=ended)) == ["3"]

    async def test_a_page_goes_on_although_its_last_record_was_erased(self, store: Store) -> None:
        kept = [said(str(n), id=str(n), valid=Span(SPRING)) for n in range(5)]
        await put(store, *kept)
        for newest, rest in ((True, ["1", "0"]), (False, ["3", "4"])):
            page = await store.find(Query(scope=ANA, newest=newest, limit=3))
            await store.commit(Batch(erase=(page[-1].ref,)))
            assert await found_texts(store, Query(scope=ANA, newest=newest, after=Place.of(page[-1]))) == rest
            await put(store, page[-1])

    async def test_what_was_given_out_and_revised_since_does_not_come_again(self, store: Store) -> None:
        kept = [said(str(n), id=str(n), valid=Span(SPRING)) for n in range(5)]
        await put(store, *kept)
        for newest, rest in ((True, ["1", "0"]), (False, ["3", "4"])):
            page = await store.find(Query(scope=ANA, newest=newest, limit=3))
            await put(store, *(record.revise(body=Message(text="revised")) for record in page))
            found = await store.find(Query(scope=ANA, newest=newest, after=Place.of(page[-1])))
            assert [record.id for record in found] == rest

    async def test_versions_are_paged_one_by_one_where_every_one_is_asked_for(self, store: Store) -> None:
        first = said("first", valid=Span(SPRING))
        await put(store, first, first.revise(body=Message(text="second")), first.revise().revise())
        for newest in (False, True):
            whole = every(ANA, newest=newest)
            assert len(await store.find(whole)) == 3
            assert await in_pages(store, whole, 1) == await store.find(whole)

    async def test_a_page_may_go_on_after_any_time(self, store: Store) -> None:
        await put(store, said("spring", valid=Span(SPRING)), said("today"))
        for at, found in (
            (datetime.min, []),
            (SPRING, []),
            (SPRING + TICK, ["spring"]),
            (datetime.max, ["today", "spring"]),
        ):
            place = Place(at.replace(tzinfo=UTC), "", 1)
            assert await found_texts(store, Query(scope=ANA, newest=True, after=place)) == found
