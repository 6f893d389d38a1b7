"""What is true, what was true, and what was believed."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

from ...kinds import Fact
from ...query import Query
from ...record import NEVER, TICK, Link, Span, now
from ...store import Batch, Store
from ..records import ANA, every, fact, said
from .steps import MAY, SPRING, SUMMER, found_texts, only, put


class Clocks:
    async def test_a_revision_keeps_the_past(self, store: Store) -> None:
        paris = fact("lives in Paris")
        await put(store, paris)
        believed = (await only(store, Query(scope=ANA))).known.since
        assert believed is not None
        await put(store, paris.revise(body=Fact(text="lives in Lisbon")))
        assert await found_texts(store, Query(scope=ANA)) == ["lives in Lisbon"]
        assert await found_texts(store, Query(scope=ANA, known_at=believed)) == ["lives in Paris"]
        assert await found_texts(store, Query(scope=ANA, known_at=believed - TICK)) == []
        assert await found_texts(store, every(ANA)) == ["lives in Paris", "lives in Lisbon"]

    async def test_belief_passes_from_one_version_to_the_next_without_a_gap(self, store: Store) -> None:
        record = fact("version 1")
        for n in range(1, 30):
            await put(store, record)
            record = record.revise(body=Fact(text=f"version {n + 1}"))
        versions = await store.find(every(ANA))
        assert [version.version for version in versions] == list(range(1, 30))
        for old, new in itertools.pairwise(versions):
            assert old.known.until == new.known.since
            assert old.known.since is not None and old.known.since < (new.known.since or old.known.since)
        assert versions[-1].known.until is None
        for version in versions:
            assert version.known.since is not None
            [there] = await store.find(Query(scope=ANA, known_at=version.known.since))
            assert there == version

    async def test_the_store_keeps_the_clock_of_belief(self, store: Store) -> None:
        before = now()
        await put(store, said("a", known=Span(SPRING, SUMMER)))
        found = await only(store, Query(scope=ANA))
        assert found.known.since is not None and before <= found.known.since <= now()
        assert found.known.until is None

    async def test_validity_is_not_belief(self, store: Store) -> None:
        await put(store, fact("works at Initech", valid=Span(SPRING, SUMMER)))
        assert await store.find(Query(scope=ANA)) == []
        assert len(await store.find(Query(scope=ANA, valid_at=MAY))) == 1
        assert len(await store.find(Query(scope=ANA, valid_at=SPRING))) == 1
        assert await store.find(Query(scope=ANA, valid_at=SUMMER)) == []
        assert await store.find(Query(scope=ANA, valid_at=SPRING - TICK)) == []

    async def test_what_begins_later_is_kept_in_mind_already(self, store: Store) -> None:
        tomorrow = now() + timedelta(days=1)
        await put(store, fact("the bridge opens", valid=Span(tomorrow)))
        assert await store.count(Query(scope=ANA)) == 1
        assert await store.count(Query(scope=ANA, valid_at=now())) == 0
        assert await store.count(Query(scope=ANA, valid_at=tomorrow)) == 1

    async def test_a_retracted_record_is_never_true(self, store: Store) -> None:
        wrong = fact("is allergic to nuts")
        await put(store, wrong)
        await put(store, wrong.revise(valid=NEVER))
        assert await store.find(Query(scope=ANA)) == []
        for at in (datetime.min.replace(tzinfo=UTC), SPRING, now(), datetime.max.replace(tzinfo=UTC)):
            assert await store.find(Query(scope=ANA, valid_at=at)) == []
        assert await store.count(every(ANA)) == 2

    async def test_what_was_believed_of_a_time_is_asked_with_both_clocks(self, store: Store) -> None:
        job = fact("works at Initech", valid=Span(SPRING), known=Span(SPRING, SUMMER))
        left = dataclasses.replace(job.revise(valid=Span(SPRING, MAY)), known=Span(SUMMER))
        await store.commit(Batch(restore=(job, left)))
        june = datetime(2026, 6, 1, tzinfo=UTC)
        assert await store.count(Query(scope=ANA, valid_at=june, known_at=june)) == 1
        assert await store.count(Query(scope=ANA, valid_at=june, known_at=SUMMER)) == 0
        assert await store.count(Query(scope=ANA, valid_at=june)) == 0

    async def test_a_superseded_fact_was_true_before(self, store: Store) -> None:
        old, moved = fact("lives in Paris", valid=Span(SPRING)), SUMMER
        new = fact("lives in Lisbon", valid=Span(moved), links=(Link("supersedes", old.id),))
        await put(store, old)
        await put(store, old.revise(valid=old.valid.ending(moved)), new)
        assert await found_texts(store, Query(scope=ANA)) == ["lives in Lisbon"]
        assert await found_texts(store, Query(scope=ANA, valid_at=MAY)) == ["lives in Paris"]

    async def test_said_since_and_until(self, store: Store) -> None:
        await put(store, said("spring", valid=Span(SPRING)), said("summer", valid=Span(SUMMER)), said("today"))
        assert await found_texts(store, Query(scope=ANA, since=SPRING, until=SUMMER)) == ["spring"]
        assert await found_texts(store, Query(scope=ANA, since=SPRING + TICK)) == ["summer", "today"]
        assert await found_texts(store, Query(scope=ANA, until=SPRING)) == []
