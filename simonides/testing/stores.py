"""What every store owes. Subclass StoreSuite, give it the two fixtures below, and run pytest (asyncio_mode = "auto").

`make_store` returns an async function that opens a new, empty store each time; whoever calls it closes the store.
`store` is one such store, closed after the test. See `tests/conftest.py` for both.

    class TestMyStore(StoreSuite):
        pass

The stories come first, one class for each part of the contract; what holds for every record and every query comes
last, as rules that hypothesis tries to break.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ..errors import Conflict, Invalid
from ..kinds import Chunk, Document, Entity, Fact, Message, Note
from ..query import Query
from ..record import ARCHIVED, NEVER, TICK, Link, Record, Ref, Scope, Span, new_id, now
from ..store import Batch, Certificate, Change, Cursor, Embedding, Store
from .records import (
    ACME,
    ANA,
    BO,
    OTHER,
    TEAM,
    archives,
    bears,
    entity,
    every,
    fact,
    fresh,
    histories,
    in_order,
    queries,
    records,
    said,
    scopes,
    session,
    texts,
)

MakeStore = Callable[[], Awaitable[Store]]

SPRING, SUMMER = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)

rule = settings(  # the fixture only opens stores, so it may serve every example
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def put(store: Store, *kept: Record) -> list[Change]:
    return await store.commit(Batch(put=kept))


async def only(store: Store, query: Query) -> Record:
    [found] = await store.find(query)
    return found


async def found_texts(store: Store, query: Query) -> list[str]:
    return [record.text for record in await store.find(query)]


async def by_words(store: Store, query: Query, text: str) -> list[str]:
    return [record.text for record, _ in await store.words(query, text)]


async def complaints(store: Store) -> tuple[str, ...]:
    """Return what is wrong once an erase has run its course: a store may complain of bytes not scrubbed yet."""
    await store.scrub()
    return (await store.check()).complaints


def told(store_story: Coroutine[Any, Any, None]) -> None:
    """Run an example of a rule, which has a loop and a store of its own."""
    asyncio.run(store_story)


def unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def embedded(record: Record, *vectors: NDArray[np.float32], model: str = "small") -> Embedding:
    return Embedding(record.ref, record.version, model, np.stack(vectors or (unit(1, 0),)))


def floats(vector: bytes) -> list[float]:
    return [float(number) for number in np.frombuffer(vector, "<f2")]


class Writing:
    """commit: versions, keys, the log, cursors; all or nothing."""

    async def test_what_is_put_is_found(self, store: Store) -> None:
        record = said("hello")
        await put(store, record)
        assert (await only(store, Query(scope=ANA))).says_the_same(record)

    async def test_every_part_of_a_record_comes_back(self, store: Store) -> None:
        record = Record(
            scope=Scope(tenant="acme", space="main", user="ana", agent="helper", session="monday"),
            body=Message(text="hello", role="assistant", name="Bo"),
            part_of=new_id(),
            links=(Link("about", "b"), Link("derived_from", "a"), Link("about", "a"), Link("about", "b")),
            valid=Span(SPRING, SUMMER + timedelta(microseconds=1)),
            source="import:chatgpt",
            labels=("home", "work"),
            folder="work/bridge",
            importance=9,
            pinned=True,
            status=ARCHIVED,
            metadata={"list": [1, {"deep": None}], "true": True, "one": 1, "float": 1.5, "text": 'a"b\\c\x00'},
        )
        await put(store, record)
        found = await only(store, every(ANA))
        assert dataclasses.replace(found, known=Span()) == record
        assert found.metadata["true"] is True and type(found.metadata["one"]) is int

    async def test_every_kind_comes_back_as_itself(self, store: Store) -> None:
        kept = [
            *(said("a"), fact("b"), entity("Lisbon"), session("monday"), Record(scope=ANA, body=Note(text="c"))),
            Record(scope=ANA, body=Document(text="d", name="d.md", digest="d", media_type="text/markdown")),
            Record(scope=ANA, body=Chunk(text="e", place="Heading")),
        ]
        await put(store, *kept)
        bodies = {record.id: record.body for record in await store.find(Query(scope=ANA))}
        assert bodies == {record.id: record.body for record in kept}

    async def test_a_commit_answers_with_its_lines_of_the_log(self, store: Store) -> None:
        one, two = said("one"), fact("two", BO)
        lines = await put(store, one, two)
        assert [(line.id, line.version, line.kind, line.scope) for line in lines] == [
            (one.id, 1, "message", ANA),
            (two.id, 1, "fact", BO),
        ]
        assert lines == await store.changes()

    async def test_the_log_tells_every_change_in_order(self, store: Store) -> None:
        record = said("one")
        await put(store, record)
        await put(store, record.revise(body=Message(text="two")))
        await store.commit(Batch(erase=(record.ref,)))
        lines = await store.changes()
        assert [(line.id, line.version, line.ref) for line in lines] == [(record.id, n, record.ref) for n in (1, 2, 0)]
        assert [line.seq for line in lines] == sorted({line.seq for line in lines})
        assert all(line.note is None and line.kind == "message" for line in lines)

    async def test_the_log_is_read_in_pages(self, store: Store) -> None:
        await put(store, *(said(str(n)) for n in range(7)))
        read, place = list[Change](), 0
        while page := await store.changes(after=place, limit=3):
            assert len(page) <= 3
            read, place = read + page, page[-1].seq
        assert read == await store.changes()
        assert len(read) == 7

    async def test_the_log_says_when(self, store: Store) -> None:
        before = now()
        [line] = await put(store, said("one"))
        assert before <= line.at <= now()

    async def test_a_write_repeated_is_no_news(self, store: Store) -> None:
        record = said("once", metadata={"a": [1, 2]}, links=(Link("about", "x"),))
        await put(store, record)
        known = (await only(store, Query(scope=ANA))).known
        assert await put(store, record) == []
        assert (await only(store, Query(scope=ANA))).known == known
        assert len(await store.changes()) == 1

    async def test_a_write_repeated_is_no_news_even_after_a_revision(self, store: Store) -> None:
        record = said("once")
        await put(store, record)
        await put(store, record.revise(body=Message(text="twice")))
        assert await put(store, record) == []
        assert await found_texts(store, Query(scope=ANA)) == ["twice"]

    async def test_a_write_repeated_within_a_batch_is_no_news(self, store: Store) -> None:
        record = said("once")
        assert len(await put(store, record, record)) == 1
        assert await store.count(every(ANA)) == 1

    async def test_other_content_under_the_same_version_is_a_conflict(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        others: list[dict[str, Any]] = [
            {"body": Message(text="second")},
            {"body": Message(text="first", name="Bo")},
            {"labels": ("a",)},
            {"metadata": {"a": 1}},
            {"links": (Link("about", "x"),)},
            {"valid": Span(SPRING)},
            {"pinned": True},
            {"scope": Scope(tenant="acme", user="ana", session="monday")},
        ]
        for other in others:
            with pytest.raises(Conflict):
                await put(store, dataclasses.replace(record, **other))
        assert (await only(store, Query(scope=ANA))).says_the_same(record)

    async def test_a_stale_revision_conflicts(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        await put(store, record.revise(body=Message(text="second")))
        with pytest.raises(Conflict):
            await put(store, record.revise(body=Message(text="also second")))

    async def test_a_version_cannot_be_skipped(self, store: Store) -> None:
        record = said("first")
        with pytest.raises(Conflict):
            await put(store, record.revise())
        await put(store, record)
        with pytest.raises(Conflict):
            await put(store, record.revise().revise())
        with pytest.raises(Conflict):
            await put(store, dataclasses.replace(record, version=0))
        assert len(await store.changes()) == 1

    async def test_two_versions_may_be_put_at_once(self, store: Store) -> None:
        record = said("first")
        await put(store, record, record.revise(body=Message(text="second")))
        first, second = await store.find(every(ANA))
        assert (first.text, second.text) == ("first", "second")
        assert first.known.until == second.known.since

    async def test_a_batch_is_all_or_nothing(self, store: Store) -> None:
        kept = said("kept")
        await put(store, kept)
        other = dataclasses.replace(kept, body=Message(text="other"))
        batch = Batch(put=(said("lost"), kept.revise(body=Message(text="lost too")), other), erase=(kept.ref,))
        with pytest.raises(Conflict):
            await store.commit(batch, cursor=Cursor("reader", 0, 1))
        assert await found_texts(store, every(ANA)) == ["kept"]
        assert (await only(store, every(ANA))).known.until is None
        assert await store.words(every(ANA), "lost") == []
        assert len(await store.changes()) == 1
        assert await store.cursor("reader") == 0

    async def test_an_empty_batch_writes_nothing(self, store: Store) -> None:
        assert await store.commit(Batch()) == []
        assert await store.changes() == []

    async def test_a_key_belongs_to_one_live_record(self, store: Store) -> None:
        await put(store, entity("Lisbon"))
        with pytest.raises(Conflict):
            await put(store, entity("lisbon"))
        assert await store.count(every(ANA)) == 1

    async def test_a_key_belongs_to_one_live_record_of_one_batch(self, store: Store) -> None:
        with pytest.raises(Conflict):
            await put(store, entity("Lisbon"), entity("lisbon"))
        assert await store.changes() == []

    async def test_a_key_is_taken_for_one_kind_and_one_exact_scope(self, store: Store) -> None:
        await put(store, session("monday"))
        monday = Document(text="monday", name="monday", digest="d")
        await put(store, Record(scope=ANA, body=monday))
        for scope in (
            BO,
            ACME,
            TEAM,
            OTHER,
            dataclasses.replace(ANA, agent="a"),
            dataclasses.replace(ANA, session="s"),
        ):
            await put(store, session("monday", scope))

    async def test_records_without_a_key_never_conflict_over_it(self, store: Store) -> None:
        await put(store, session(""), session(""), said("a"), said("a"))
        assert await store.count(Query(scope=ANA)) == 4

    async def test_the_key_of_what_is_no_longer_true_is_free(self, store: Store) -> None:
        ended, retracted, erased = entity("Lisbon", valid=Span(until=SPRING)), entity("Porto"), entity("Faro")
        await put(store, ended, retracted, erased)
        await put(store, retracted.revise(valid=NEVER))
        await store.commit(Batch(erase=(erased.ref,)))
        await put(store, entity("Lisbon"), entity("Porto"), entity("Faro"))

    async def test_the_key_of_an_earlier_version_is_free(self, store: Store) -> None:
        city = entity("Lisboa")
        await put(store, city)
        await put(store, city.revise(body=Entity(text="Lisbon", name="Lisbon")))
        await put(store, entity("Lisboa"))
        with pytest.raises(Conflict):
            await put(store, entity("Lisbon"))

    async def test_an_archived_record_keeps_its_key_and_so_does_one_that_begins_later(self, store: Store) -> None:
        later = datetime.now(UTC) + timedelta(days=365)
        await put(store, entity("Lisbon", status=ARCHIVED), entity("Porto", valid=Span(later)))
        for name in ("Lisbon", "Porto"):
            with pytest.raises(Conflict):
                await put(store, entity(name))

    async def test_a_revision_may_take_no_key_that_another_record_bears(self, store: Store) -> None:
        old = entity("Lisbon")
        await put(store, old)
        await put(store, old.revise(valid=NEVER))
        await put(store, entity("Lisbon"))
        with pytest.raises(Conflict):
            await put(store, old.revise(valid=NEVER).revise(valid=Span()))

    async def test_a_record_can_hand_its_key_on_within_a_batch(self, store: Store) -> None:
        old, new = entity("Lisbon"), entity("Lisbon")
        await put(store, old)
        await put(store, old.revise(valid=Span(until=SPRING)), new)
        assert (await only(store, Query(scope=ANA, keys=frozenset({"thing:lisbon"})))).id == new.id

    async def test_a_follower_moves_with_what_it_writes(self, store: Store) -> None:
        assert await store.cursor("reader") == 0
        await store.commit(Batch(put=(said("derived"),)), cursor=Cursor("reader", 0, 5))
        await store.commit(Batch(), cursor=Cursor("reader", 5, 9))
        assert (await store.cursor("reader"), await store.cursor("another")) == (9, 0)

    async def test_a_follower_that_moved_meanwhile_is_a_conflict_and_writes_nothing(self, store: Store) -> None:
        await store.commit(Batch(), cursor=Cursor("reader", 0, 5))
        for was in (0, 4, 6):
            with pytest.raises(Conflict):
                await store.commit(Batch(put=(said("lost"),)), cursor=Cursor("reader", was, 9))
        assert await store.cursor("reader") == 5
        assert await store.find(every(ANA)) == []

    async def test_of_two_that_move_a_follower_at_once_one_does(self, store: Store) -> None:
        moves = [store.commit(Batch(put=(said(str(n)),)), cursor=Cursor("reader", 0, n + 1)) for n in range(8)]
        ends = await asyncio.gather(*moves, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 7
        assert len(await store.changes()) == 1

    async def test_fifty_commits_at_once_are_all_kept(self, store: Store) -> None:
        kept = [said(f"number {n}") for n in range(50)]
        await asyncio.gather(*(put(store, record) for record in kept))
        assert {record.id for record in await store.find(Query(scope=ANA))} == {record.id for record in kept}
        lines = await store.changes()
        assert len(lines) == len({line.seq for line in lines}) == 50

    async def test_of_twenty_identical_writes_at_once_one_is_a_line(self, store: Store) -> None:
        record = said("once")
        lines = await asyncio.gather(*(put(store, record) for _ in range(20)))
        assert sum(map(len, lines)) == 1
        assert await store.count(every(ANA)) == 1

    async def test_of_twenty_different_revisions_at_once_one_is_kept(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        rivals = [put(store, record.revise(body=Message(text=str(n)))) for n in range(20)]
        ends = await asyncio.gather(*rivals, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 19
        assert await store.count(every(ANA)) == 2

    async def test_a_conflict_does_not_undo_its_neighbours(self, store: Store) -> None:
        record = said("first")
        await put(store, record)
        bad = dataclasses.replace(record, body=Message(text="bad"))
        writes = [put(store, bad if n % 2 else said(f"good {n}")) for n in range(20)]
        ends = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 10
        assert await store.count(Query(scope=ANA)) == 11

    async def test_reading_and_writing_at_once_shows_whole_batches_only(self, store: Store) -> None:
        async def write(n: int) -> None:
            await put(store, said(f"left {n}"), said(f"right {n}"))

        async def read() -> int:
            return await store.count(Query(scope=ANA))

        counts = await asyncio.gather(*(step for n in range(20) for step in (write(n), read())))
        assert all(count is None or count % 2 == 0 for count in counts)

    async def test_what_a_caller_does_to_its_metadata_later_changes_nothing(self, store: Store) -> None:
        metadata = {"list": [1]}
        await put(store, said("a", metadata=metadata))
        metadata["list"].append(2)
        (await only(store, Query(scope=ANA))).metadata["list"].append(3)
        assert (await only(store, Query(scope=ANA))).metadata == {"list": [1]}


class Restoring:
    """restore: an export read back."""

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


class Erasing:
    """erase and certificate."""

    async def test_the_erased_is_gone_from_every_version(self, store: Store) -> None:
        record, kept = said("secret", labels=("a",)), said("kept")
        await put(store, record, kept)
        await put(store, record.revise(body=Message(text="still secret"), links=(Link("about", kept.id),)))
        await store.commit(Batch(erase=(record.ref,)))
        assert await found_texts(store, every(ANA)) == ["kept"]
        assert await store.find(every(ANA, known_at=now(), any_time=False)) == [await only(store, Query(scope=ANA))]
        for text in ("secret", "still secret"):
            assert await store.words(every(ANA), text) == []
        assert await store.find(every(ANA, labels=frozenset({"a"}))) == []
        assert await store.find(every(ANA, linked=("about", frozenset({kept.id})))) == []

    async def test_an_erase_is_one_line_without_a_word_of_it(self, store: Store) -> None:
        record = said("secret", dataclasses.replace(ANA, session="monday"))
        await put(store, record, record.revise(body=Message(text="still secret")))
        [line] = await store.commit(Batch(erase=(record.ref, record.ref)))
        assert (line.id, line.version, line.kind, line.scope) == (record.id, 0, "message", record.scope)
        assert "secret" not in repr(await store.changes())

    async def test_erasing_what_is_not_there_is_no_line(self, store: Store) -> None:
        await put(store, said("kept"))
        assert await store.commit(Batch(erase=(Ref("acme", "main", "nothing"), Ref("nobody", "main", "x")))) == []
        assert len(await store.changes()) == 1

    async def test_what_was_erased_may_be_written_anew(self, store: Store) -> None:
        record = said("again")
        await put(store, record, record.revise())
        await store.commit(Batch(erase=(record.ref,)))
        with pytest.raises(Conflict):
            await put(store, record.revise().revise())
        assert len(await put(store, record)) == 1
        assert await found_texts(store, every(ANA)) == ["again"]

    async def test_what_was_written_anew_is_found_by_its_new_words_alone(self, store: Store) -> None:
        record = said("secret")
        await put(store, record)
        assert await by_words(store, Query(scope=ANA), "secret") == ["secret"]
        await store.commit(Batch(erase=(record.ref,)))
        await put(store, dataclasses.replace(record, body=Message(text="harmless")))
        assert await by_words(store, every(ANA), "secret") == []
        assert await by_words(store, every(ANA), "harmless") == ["harmless"]

    async def test_what_points_to_the_erased_stays(self, store: Store) -> None:
        source = said("source")
        await put(store, source, fact("derived", links=(Link("derived_from", source.id),)))
        await store.commit(Batch(erase=(source.ref,)))
        assert await found_texts(store, Query(scope=ANA)) == ["derived"]

    async def test_many_are_erased_at_once(self, store: Store) -> None:
        kept = [said(f"secret {n}") for n in range(50)]
        await put(store, *kept)
        await store.commit(Batch(erase=tuple(record.ref for record in kept[:-1])))
        assert await found_texts(store, every(ANA)) == ["secret 49"]
        assert await by_words(store, every(ANA), "secret") == ["secret 49"]

    async def test_a_certificate_is_a_line_of_the_log_and_can_be_read_back(self, store: Store) -> None:
        record = said("secret")
        await put(store, record)
        places = {"records": 1, "words": 1}
        certificate = Certificate(new_id(), now(), ANA, (record.id,), (), places, "memory")
        erased = await store.commit(Batch(erase=(record.ref,)))
        [line] = await store.commit(Batch(certificate=certificate))
        assert len(erased) == 1
        assert (line.id, line.version, line.kind, line.scope) == (certificate.id, 0, "certificate", ANA)
        last = (await store.changes())[-1]
        assert last.seq == line.seq
        assert msgspec.convert(last.note, Certificate) == certificate

    async def test_a_batch_is_written_in_the_order_of_its_fields(self, store: Store) -> None:
        old, new = said("old"), said("new")
        await put(store, old)
        certificate = Certificate(new_id(), now(), ANA, (old.id,), (), {}, "memory")
        restored = said("restored", known=Span(SPRING))
        batch = Batch(put=(new,), restore=(restored,), erase=(old.ref,), certificate=certificate)
        lines = await store.commit(batch)
        assert [line.id for line in lines] == [new.id, restored.id, old.id, certificate.id]
        assert [line.seq for line in lines] == sorted(line.seq for line in lines)

    async def test_scrubbing_says_how(self, store: Store) -> None:
        record = said("a very secret text")
        await put(store, record)
        await store.commit(Batch(erase=(record.ref,)))
        proof = await store.scrub([record.text])
        assert isinstance(proof["method"], str) and proof["method"]
        assert await complaints(store) == ()


class Clocks:
    """What is true, what was true, and what was believed."""

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


class Finding:
    """find and count: order, pages and every field of a Query."""

    async def test_records_come_by_id(self, store: Store) -> None:
        kept = [said(id, id=id) for id in ("b", "B", "ä", "a", "𝔞", "～", "a-1", "10", "9")]
        await put(store, *kept)
        found = [record.id for record in await store.find(Query(scope=ANA))]
        assert found == sorted(found) and len(found) == len(kept)

    async def test_the_newest_come_first_by_the_time_they_were_said(self, store: Store) -> None:
        await put(
            store,
            said("old", valid=Span(SPRING), id="c"),
            said("b", valid=Span(SUMMER), id="b"),
            said("a", valid=Span(SUMMER), id="a"),
            said("now", id="0"),
        )
        assert await found_texts(store, Query(scope=ANA, newest=True)) == ["now", "b", "a", "old"]

    async def test_a_limit_is_kept_and_a_count_ignores_it(self, store: Store) -> None:
        await put(store, *(said(str(n)) for n in range(9)))
        for limit in (0, 1, 8, 9, 10, 10**9):
            query = Query(scope=ANA, limit=limit)
            assert len(await store.find(query)) == min(limit, 9)
            assert await store.count(query) == 9
        assert await store.count(Query(scope=ANA, after="z", limit=1)) == 9

    async def test_every_page_together_is_everything_once(self, store: Store) -> None:
        times = [SPRING, SPRING, SUMMER, MAY, SPRING, MAY, SUMMER]
        await put(store, *(said(str(n), id=f"{n * 5 % 7}", valid=Span(at)) for n, at in enumerate(times)))
        for newest, limit in itertools.product((False, True), (1, 2, 3, 7)):
            whole = Query(scope=ANA, newest=newest)
            assert await _in_pages(store, whole, limit) == await store.find(whole)

    async def test_the_past_is_paged_too(self, store: Store) -> None:
        kept = [said(str(n), id=str(n)) for n in range(5)]
        await put(store, *kept[:3])
        await put(store, *kept[3:])
        believed = max(record.known.since for record in await store.find(Query(scope=ANA)) if record.known.since)
        await put(store, *(record.revise(body=Message(text="revised")) for record in kept))
        for newest in (False, True):
            whole = Query(scope=ANA, newest=newest, known_at=believed)
            assert len(await store.find(whole)) == 5
            assert await _in_pages(store, whole, 1) == await store.find(whole)

    async def test_a_page_goes_on_although_its_last_record_no_longer_matches(self, store: Store) -> None:
        kept = [said(str(n), id=str(n), valid=Span(SPRING + n * TICK)) for n in range(4)]
        await put(store, *kept)
        await put(store, kept[2].revise(status=ARCHIVED))
        assert await found_texts(store, Query(scope=ANA, after="2", newest=True)) == ["1", "0"]
        assert await found_texts(store, Query(scope=ANA, after="2")) == ["3"]

    async def test_a_page_by_id_goes_on_after_an_id_that_is_gone(self, store: Store) -> None:
        await put(store, said("a", id="a"), said("c", id="c"))
        assert await found_texts(store, Query(scope=ANA, after="b")) == ["c"]

    async def test_a_scope_narrows_level_by_level(self, store: Store) -> None:
        everyone, ana, bo, agent = dict[str, str](), {"user": "ana"}, {"user": "bo"}, {"agent": "x"}
        levels = (everyone, ana, bo, agent, {"user": "ana", "session": "s"})
        await put(store, *(said(str(level), Scope(tenant="acme", **level)) for level in levels))

        async def seen(shared: bool, **level: str) -> list[str]:
            return await found_texts(store, Query(scope=Scope(tenant="acme", **level), shared=shared))

        assert len(await seen(True)) == len(await seen(False)) == 5
        assert await seen(True, user="ana") == [str(levels[n]) for n in (0, 1, 3, 4)]
        assert await seen(False, user="ana") == [str(levels[n]) for n in (1, 4)]
        assert await seen(True, user="ana", session="t") == [str(levels[n]) for n in (0, 1, 3)]
        assert await seen(False, user="ana", session="s") == [str(levels[4])]
        assert await seen(True, user="nobody") == [str(levels[n]) for n in (0, 3)]

    async def test_ids_kinds_and_sources(self, store: Store) -> None:
        message, other = said("message", source="import:chatgpt"), fact("fact")
        await put(store, message, other)
        assert await found_texts(store, Query(scope=ANA, ids=frozenset({message.id, "nothing"}))) == ["message"]
        assert await found_texts(store, Query(scope=ANA, kinds=frozenset({"fact", "nothing"}))) == ["fact"]
        assert await found_texts(store, Query(scope=ANA, sources=frozenset({"import:chatgpt"}))) == ["message"]

    async def test_nothing_asked_for_is_nothing_found(self, store: Store) -> None:
        await put(store, entity("Lisbon", part_of="x", links=(Link("about", "x"),)))
        nothing: frozenset[str] = frozenset()
        fields = ("ids", "kinds", "keys", "part_of", "statuses", "sources")
        asked: list[dict[str, Any]] = [{"linked": ("about", nothing)}, *({name: nothing} for name in fields)]
        for query in (Query(scope=ANA, **narrowed) for narrowed in asked):
            assert await store.find(query) == []
            assert await store.count(query) == 0
            assert await store.words(query, "lisbon") == []
        assert await store.count(Query(scope=ANA, labels=nothing)) == 1

    async def test_thousands_of_ids_may_be_asked_for(self, store: Store) -> None:
        record = said("here")
        await put(store, record)
        many = frozenset({record.id, *(new_id() for _ in range(40_000))})
        assert await found_texts(store, Query(scope=ANA, ids=many)) == ["here"]
        assert await store.count(Query(scope=ANA, linked=("about", many), part_of=many, keys=many)) == 0

    async def test_keys_are_asked_for_by_name(self, store: Store) -> None:
        await put(store, entity("Lisbon"), session("monday"), said("monday"))
        assert await found_texts(store, Query(scope=ANA, keys=frozenset({"thing:lisbon"}))) == ["Lisbon"]
        assert await found_texts(store, Query(scope=ANA, keys=frozenset({"monday"}))) == ["monday"]

    async def test_parts_are_found_by_what_they_are_part_of(self, store: Store) -> None:
        whole = session("monday")
        await put(store, whole, said("part", part_of=whole.id), said("other", part_of="else"))
        assert await found_texts(store, Query(scope=ANA, part_of=frozenset({whole.id}))) == ["part"]

    async def test_links_lead_back(self, store: Store) -> None:
        source = said("I moved")
        await put(store, source, fact("moved", links=(Link("derived_from", source.id), Link("about", "ana"))))
        query = Query(scope=ANA, linked=("derived_from", frozenset({source.id, "x"})))
        assert await found_texts(store, query) == ["moved"]
        assert await store.find(Query(scope=ANA, linked=("about", frozenset({source.id})))) == []

    async def test_a_link_that_a_revision_left_out_leads_back_no_longer(self, store: Store) -> None:
        record = fact("about", links=(Link("about", "x"),))
        await put(store, record)
        await put(store, record.revise(links=()))
        query = Query(scope=ANA, linked=("about", frozenset({"x"})))
        assert await store.find(query) == []
        assert len(await store.find(dataclasses.replace(query, any_time=True))) == 1

    async def test_links_keep_their_order(self, store: Store) -> None:
        links = tuple(Link(role, target) for role in ("z", "a", "m") for target in ("3", "1", "2"))
        await put(store, said("a", links=links))
        assert (await only(store, Query(scope=ANA))).links == links

    async def test_every_label_asked_for_must_be_there(self, store: Store) -> None:
        await put(store, said("both", labels=("a", "b")), said("one", labels=("a",)), said("none"))
        assert await found_texts(store, Query(scope=ANA, labels=frozenset({"a", "b"}))) == ["both"]
        assert await found_texts(store, Query(scope=ANA, labels=frozenset({"a"}))) == ["both", "one"]
        assert await found_texts(store, Query(scope=ANA, labels=frozenset({"A"}))) == []

    async def test_a_folder_holds_those_below_it(self, store: Store) -> None:
        folders = ("work", "work/bridge", "work/bridge/2026", "workshop", "work0", "work-1", "Work", "w_rk", None)
        await put(store, *(said(str(folder), folder=folder) for folder in folders))
        assert await found_texts(store, Query(scope=ANA, folder="work")) == ["work", "work/bridge", "work/bridge/2026"]
        assert await found_texts(store, Query(scope=ANA, folder="work/bridge")) == ["work/bridge", "work/bridge/2026"]
        for folder in ("wor", "work/", "w%", "%", ""):
            assert await store.find(Query(scope=ANA, folder=folder)) == []
        assert await found_texts(store, Query(scope=ANA, folder="w_rk")) == ["w_rk"]

    async def test_the_archived_is_found_only_when_asked_for(self, store: Store) -> None:
        await put(store, said("shelved bridge", status=ARCHIVED), said("bridge"))
        for statuses, expected in (({"active"}, ["bridge"]), ({"archived"}, ["shelved bridge"])):
            query = Query(scope=ANA, statuses=frozenset(statuses))
            assert await found_texts(store, query) == expected
            assert await by_words(store, query, "bridge") == expected
        assert await found_texts(store, Query(scope=ANA)) == ["bridge"]
        assert len(await store.find(Query(scope=ANA, statuses=None))) == 2

    async def test_pinned_and_importance(self, store: Store) -> None:
        await put(store, said("pinned", pinned=True, importance=1), said("important", importance=10), said("plain"))
        assert await found_texts(store, Query(scope=ANA, pinned=True)) == ["pinned"]
        assert await found_texts(store, Query(scope=ANA, pinned=False)) == ["important", "plain"]
        assert await found_texts(store, Query(scope=ANA, importance_min=5)) == ["important", "plain"]
        assert await found_texts(store, Query(scope=ANA, importance_min=6)) == ["important"]

    @pytest.mark.parametrize("value", [True, False, 1, 0, 1.5, None, "", "1", "true", "null", "it's", "ü", 2**53])
    async def test_metadata_is_the_very_same_value(self, store: Store, value: Any) -> None:
        others: list[Any] = [True, False, 1, 0, 1.5, None, "", "1", "true", "null", "it's", "ü", 2**53, [1], {"a": 1}]
        await put(store, *(said(repr(other), metadata={"key": other, "more": 1}) for other in others), said("bare"))
        assert await found_texts(store, Query(scope=ANA, metadata=(("key", value),))) == [repr(value)]

    async def test_metadata_keys_are_just_text(self, store: Store) -> None:
        keys = ("a.b", "a", "$", 'qu"ote', "it's", "", "naïve", "a[0]", "back\\slash", "%", "nul\x00", "仕事", "$.a")
        await put(store, *(said(key, metadata={key: "here", "nested": {key: "there"}}) for key in keys))
        for key in keys:
            assert await found_texts(store, Query(scope=ANA, metadata=((key, "here"),))) == [key]
            assert await found_texts(store, Query(scope=ANA, metadata=((key, "there"),))) == []

    async def test_every_pair_of_metadata_must_be_there(self, store: Store) -> None:
        await put(store, said("both", metadata={"a": 1, "b": 2}), said("one", metadata={"a": 1}))
        assert await found_texts(store, Query(scope=ANA, metadata=(("a", 1), ("b", 2)))) == ["both"]
        assert await found_texts(store, Query(scope=ANA, metadata=(("a", 1), ("a", 2)))) == []
        assert await found_texts(store, Query(scope=ANA, metadata=(("c", None),))) == []


async def _in_pages(store: Store, query: Query, limit: int) -> list[Record]:
    found = list[Record]()
    page = await store.find(dataclasses.replace(query, limit=limit))
    while page and len(found) < 1000:
        found += page
        page = await store.find(dataclasses.replace(query, limit=limit, after=page[-1].id))
    return found


HOSTILE = """
"
'
""
"unclosed
it's
AND
OR
NOT
AND OR NOT
bridge AND
bridge NOT bridge
NEAR(bridge b, 2)
NEAR(
*
bri*
^bridge
-bridge
--
+a
(
)
((
a:b
terms:bridge
{a b}: c
; DROP TABLE records; --
1 OR 1=1
\\
%
_
?!…
👩‍👩‍👧
ﬁ Ａ ß İ ۳ ½ 𝟙
the of and
i
""".split("\n")
UNPRINTABLE = ["\x00", "a\x00b", " ", "\t\r\n", "\u200b", "\ufeff", "e\u0301", "\u202e", "\x7f\x1b", "\U0010ffff"]

INFLECTED = """
the bridges collapsed | bridge
she is running | run
I RAN INTO ANA | ana
un café crème | cafe creme
the cafe | CAFÉ
Zürich | zurich
ﬁnal | final
Ana's bike | ana
meet at 10:30 | 10
error E1234 again | e1234
snake_case_name | case
👍 bridge 🌉 | bridge
我喜欢北京烤鸭 | 北京
昨日は東京タワーに行った | タワー
昨日は東京タワーに行った | 東京
서울에서 만났다 | 서울
ฉันชอบกินข้าวผัด | ข้าว
Москва слезам не верит | МОСКВА
Ελλάδα | ελλαδα
मुझे हिन्दी पसंद है | हिन्दी
السلام عليكم | السلام
שלום עולם | שלום
""".strip().split("\n")


class Words:
    """words: any text may be asked for, in any language."""

    async def test_the_best_come_first_with_a_score_above_zero(self, store: Store) -> None:
        await put(store, said("a bridge over the river"), said("the bridge"), said("red bridge, red"), said("cake"))
        found = await store.words(Query(scope=ANA), "red bridge")
        assert found[0][0].text == "red bridge, red"
        assert {record.text for record, _ in found[1:]} == {"a bridge over the river", "the bridge"}
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 and math.isfinite(score) for score in scores)

    async def test_rare_words_count_for_more(self, store: Store) -> None:
        await put(store, *(said(f"bridge number {n}") for n in range(20)), said("heron number 7"))
        assert (await by_words(store, Query(scope=ANA), "bridge heron"))[0] == "heron number 7"

    async def test_a_word_in_every_record_is_no_failure(self, store: Store) -> None:
        await put(store, said("bridge"), said("bridge"))
        assert all(score > 0 for _, score in await store.words(Query(scope=ANA), "bridge"))

    async def test_what_is_found_is_the_whole_record(self, store: Store) -> None:
        record = said("a bridge", labels=("a",), links=(Link("about", "x"),), metadata={"a": [1]})
        await put(store, record)
        [(found, _)] = await store.words(Query(scope=ANA), "bridge")
        assert found == await only(store, Query(scope=ANA))

    async def test_a_limit_holds(self, store: Store) -> None:
        await put(store, *(said(f"bridge {n}") for n in range(9)))
        for limit in (0, 1, 5, 9, 100):
            assert len(await store.words(Query(scope=ANA, limit=limit), "bridge")) == min(limit, 9)

    async def test_who_and_when_are_words_too(self, store: Store) -> None:
        await put(store, Record(scope=ANA, body=Message(text="hi", name="Caroline"), valid=Span(SPRING)))
        for text in ("Caroline", "march", "2026", "2026-03-01"):
            assert await by_words(store, Query(scope=ANA), text) == ["hi"]

    async def test_a_filter_holds(self, store: Store) -> None:
        await put(store, said("bridge", labels=("a",)), said("bridge", BO), fact("bridge"), said("bridge", pinned=True))
        assert len(await store.words(Query(scope=ANA), "bridge")) == 3
        assert len(await store.words(Query(scope=ANA, labels=frozenset({"a"})), "bridge")) == 1
        assert len(await store.words(Query(scope=ANA, kinds=frozenset({"fact"})), "bridge")) == 1
        assert len(await store.words(Query(scope=ANA, pinned=True), "bridge")) == 1
        assert len(await store.words(Query(scope=BO), "bridge")) == 1

    async def test_the_words_of_the_past_are_found_only_in_the_past(self, store: Store) -> None:
        record = fact("lives in Paris")
        await put(store, record)
        believed = (await only(store, Query(scope=ANA))).known.since
        await put(store, record.revise(body=Fact(text="lives in Lisbon")))
        assert await by_words(store, Query(scope=ANA), "Paris") == []
        assert await by_words(store, Query(scope=ANA), "Lisbon") == ["lives in Lisbon"]
        assert await by_words(store, Query(scope=ANA, known_at=believed), "Paris") == ["lives in Paris"]
        assert await by_words(store, Query(scope=ANA, known_at=believed), "Lisbon") == []
        assert await by_words(store, every(ANA), "Paris") == ["lives in Paris"]

    async def test_the_retracted_is_not_found_by_its_words(self, store: Store) -> None:
        wrong = fact("is allergic to nuts")
        await put(store, wrong)
        await put(store, wrong.revise(valid=NEVER))
        assert await store.words(Query(scope=ANA), "nuts") == []

    @pytest.mark.parametrize("text", HOSTILE + UNPRINTABLE)
    async def test_any_text_may_be_asked_for(self, store: Store, text: str) -> None:
        await put(store, said("the bridge"), said(text))
        for query in (Query(scope=ANA), every(ANA), Query(scope=BO)):
            await store.words(query, text)
        assert await store.words(Query(scope=OTHER), text) == []
        assert "the bridge" in await by_words(store, Query(scope=ANA), f"{text} bridge {text}")

    async def test_a_text_of_any_length_may_be_asked_for(self, store: Store) -> None:
        await put(store, said("the bridge"))
        for text in (
            "a" * 10_000,
            "word " * 2_000,
            " ".join(f"w{n}" for n in range(3_000)),
            "北" * 10_000,
            "*" * 10_000,
        ):
            assert await store.words(Query(scope=ANA), text) == []
            assert await by_words(store, Query(scope=ANA), f"bridge {text}") == ["the bridge"]

    async def test_a_text_without_words_finds_nothing(self, store: Store) -> None:
        await put(store, said("the bridge"), said("🌉 * ?!"))
        for text in ("", "   ", "?!", "*", '"', "🌉", "()", "\x00"):
            assert await store.words(Query(scope=ANA), text) == []

    @pytest.mark.parametrize("pair", INFLECTED)
    async def test_a_word_is_found_however_it_is_written(self, store: Store, pair: str) -> None:
        text, asked = pair.split(" | ")
        await put(store, said(text), said("something else altogether"))
        assert await by_words(store, Query(scope=ANA), asked) == [text]

    async def test_operators_are_just_words(self, store: Store) -> None:
        await put(store, said("salt"), said("pepper"), said("near miss"))
        assert set(await by_words(store, Query(scope=ANA), "salt NOT pepper")) == {"salt", "pepper"}
        assert set(await by_words(store, Query(scope=ANA), '"salt" AND pepper*')) == {"salt", "pepper"}
        assert await by_words(store, Query(scope=ANA), "NEAR(sal pep)") == ["near miss"]
        assert await by_words(store, Query(scope=ANA), "sal*") == []

    async def test_the_spread_of_terms_is_told(self, store: Store) -> None:
        record = said("red bridge")
        await put(store, record, said("bridge"), said("bridge", TEAM), said("bridge", OTHER))
        await put(store, record.revise(body=Message(text="blue bridge")))
        assert await store.spread(ANA, ["bridg", "red", "nothing"]) == (3, {"bridg": 3, "red": 1, "nothing": 0})
        assert await store.spread(Scope(tenant="nobody"), ["bridg"]) == (0, {"bridg": 0})
        await store.commit(Batch(erase=(record.ref,)))
        versions, terms = await store.spread(ANA, ["bridg"])
        assert versions == 1 and 1 <= terms["bridg"] <= 3


class Texts:
    """What was said is kept as it was said."""

    async def test_every_plane_of_unicode_is_kept_byte_for_byte(self, store: Store) -> None:
        text = "".join(chr(n) for n in range(0, 0x110000, 89) if not 0xD800 <= n <= 0xDFFF)
        await put(store, said(text, metadata={text[:50]: text}, folder=text[60:90], labels=(text[30:60],)))
        found = await only(store, Query(scope=ANA))
        assert found.text == text and found.metadata == {text[:50]: text}
        assert (found.folder, found.labels) == (text[60:90], (text[30:60],))

    @pytest.mark.parametrize(
        "text", ["", "\x00", "a\x00b", "\r\n\t", " a ", "e\u0301é", "\ufeffa", "\\u0000", "👩‍👩‍👧", "\x85"]
    )
    async def test_odd_texts_are_kept_byte_for_byte(self, store: Store, text: str) -> None:
        record = said(text)
        await put(store, record)
        found = await only(store, Query(scope=ANA, ids=frozenset({record.id})))
        assert found.text.encode() == text.encode()
        assert await put(store, record) == []
        await store.commit(Batch(erase=(record.ref,)))
        assert await complaints(store) == ()

    async def test_a_megabyte_is_kept_and_found(self, store: Store) -> None:
        text = "".join(f"word{n} ä\n" for n in range(95_000))
        record = said(text, metadata={"deep": [text[:100_000]]})
        assert len(text.encode()) > 1_000_000
        await put(store, record)
        assert (await only(store, Query(scope=ANA))).text == text
        assert [found.id for found, _ in await store.words(Query(scope=ANA), "word94999")] == [record.id]

    async def test_metadata_of_any_shape_comes_back(self, store: Store) -> None:
        metadata = {
            "nested": {"list": [1, 2.5, None, True, {"deep": {"deeper": [[], {}]}}], "": ""},
            "numbers": [0, -1, 2**53, -(2**63), 2**63, 1e300, 0.1, -0.0],
            "text": 'quote " back \\ slash / nul \x00 sep \u2028 👩‍👩‍👧 \ufffe',
            "empty": [{}, [], ""],
        }
        await put(store, said("a", metadata=metadata))
        found = await only(store, Query(scope=ANA))
        assert found.metadata == metadata
        assert [type(number) for number in found.metadata["numbers"]] == [type(n) for n in metadata["numbers"]]

    async def test_names_are_just_text(self, store: Store) -> None:
        names = ["ana ", "ana'; --", "ana\x00", *'* % _ " $ne ../../etc ＡＮＡ ANA an anna 😀 null None'.split()]
        await put(store, said("ana's"))
        for name in names:
            scope = Scope(tenant="acme", user=name)
            assert await store.find(Query(scope=scope)) == []
            await put(store, said(name, scope))
            assert await found_texts(store, Query(scope=scope)) == [name]
            assert (await only(store, Query(scope=scope))).scope == scope
        assert await found_texts(store, Query(scope=ANA)) == ["ana's"]
        assert await store.count(Query(scope=ACME)) == len(names) + 1


class Walls:
    """No read crosses a tenant or a space; neither does a write tell about the other side."""

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


class Vectors:
    """embeddings, slots and holes."""

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
        query = Query(scope=ANA, labels=frozenset({"even"}), limit=3, after="z")
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
        assert [(slot, id, floats(vector)) for slot, id, vector in found] == [(1, mine.id, [0, 1])]
        assert {slot for slot, _, _ in await store.owners(Query(scope=ANA, limit=1), "small", [0, 1, 2])} == {0, 1, 2}
        slots = await store.slots(Query(scope=ANA), "small")
        assert len(await store.owners(Query(scope=ANA), "small", list(slots))) == 3
        assert await store.owners(Query(scope=ANA), "small", []) == []
        assert await store.owners(Query(scope=ANA), "nothing", [0, 1]) == []

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


class Upkeep:
    """identity, counts, rebuild, check."""

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
        expected = {"records": 2, "versions": 3, "vectors": 2, "changes": 3, "message": 1, "fact": 1}
        counts = await store.counts()
        assert {name: counts[name] for name in expected} == expected
        await store.commit(Batch(erase=(record.ref,)))
        counts = await store.counts()
        assert (counts["records"], counts["versions"], counts["vectors"], counts["changes"]) == (1, 1, 0, 4)

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


class Rules:
    """What holds for every record and every query."""

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
                assert await _in_pages(store, query, 2) == await store.find(query)
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
                    await _both(store, model, name, which, record, versions)
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
        assert sorted(id for _, id, _ in owned) == sorted(record.id for record in expected)


class Model:
    """What a store is, as lists: of the versions of each record, and of the lines of the log."""

    def __init__(self) -> None:
        self.records: dict[Ref, list[Record]] = {}
        self.log: list[tuple[Ref, int]] = []

    @property
    def everything(self) -> list[Record]:
        return [record for versions in self.records.values() for record in versions]

    def pick(self, which: int) -> Record | None:
        """Return the latest version of one of the records, if there is any."""
        latest = [versions[-1] for versions in self.records.values()]
        return latest[which % len(latest)] if latest else None

    def moment(self, which: int, ticks: int) -> datetime:
        """Return a time at which, just before which or just after which something came to be believed."""
        times = sorted(record.known.since for record in self.everything if record.known.since)
        return times[which % len(times)] + ticks * TICK if times else SPRING

    def refuses(self, batch: Batch) -> bool:
        """Whether a key is taken, or a version is not the next one."""
        records = {ref: list(versions) for ref, versions in self.records.items()}
        for record in (*batch.put, *batch.restore):
            versions = records.setdefault(record.ref, [])
            if record.version <= len(versions):
                if not record.says_the_same(versions[record.version - 1]):
                    return True
                continue
            others = [other[-1] for ref, other in records.items() if ref != record.ref and other]
            taken = {bears(other) for other in others if _live(other)}
            if record.version != len(versions) + 1 or (_live(record, batch) and bears(record) in taken):
                return True
            versions.append(record)
        return False

    def write(self, record: Record) -> None:
        """Take in a version as the store has it, and end the one before."""
        versions = self.records.setdefault(record.ref, [])
        if versions:
            assert record.known.since is not None and versions[-1].known.since is not None
            assert record.known.since > versions[-1].known.since
            versions[-1] = dataclasses.replace(versions[-1], known=versions[-1].known.ending(record.known.since))
        versions.append(record)
        self.log.append((record.ref, record.version))

    def erase(self, ref: Ref) -> None:
        if self.records.pop(ref, None):
            self.log.append((ref, 0))


def _live(record: Record, batch: Batch | None = None) -> bool:
    restored = batch is None or record in batch.restore
    return not (restored and record.known.until is not None) and not record.valid.ended(now())


def _batch(model: Model, name: str, which: int, new: Record, versions: tuple[Record, ...]) -> Batch:
    """Return what the step writes; steps that need a record write nothing while there is none."""
    old = model.pick(which)
    if name == "put":
        return Batch(put=(new,) if new.ref not in model.records else ())
    if name == "restore":
        return Batch(restore=versions if versions[0].ref not in model.records else ())
    if old is None:
        return Batch()
    if name == "revise":
        parts = ("body", "links", "valid", "labels", "folder", "status", "pinned", "metadata", "part_of")
        return Batch(put=(old.revise(**{part: getattr(new, part) for part in parts}),))
    if name == "retract":
        return Batch(put=(old.revise(valid=NEVER),))
    if name == "supersede":
        heir = dataclasses.replace(fresh(new), scope=old.scope, links=(Link("supersedes", old.id),))
        return Batch(put=(old.revise(valid=Span(old.valid.since, SPRING)), heir))
    if name == "erase":
        return Batch(erase=(old.ref, Ref(*old.scope.realm, "nothing")))
    first = model.records[old.ref][0]
    return Batch(put=(first,) if name == "again" else (dataclasses.replace(first, body=Note(text="stale")),))


async def _both(store: Store, model: Model, name: str, which: int, new: Record, versions: tuple[Record, ...]) -> None:
    """Take one step in the store and in the model."""
    batch = _batch(model, name, which, new, versions)
    if model.refuses(batch):
        with pytest.raises(Conflict):
            await store.commit(batch)
        return
    await store.commit(batch)
    for record in (*batch.put, *batch.restore):
        if record.version > len(model.records.get(record.ref, [])):
            realm = Scope(tenant=record.scope.tenant, space=record.scope.space)
            kept = await store.find(every(realm, ids=frozenset({record.id})))
            [there] = [one for one in kept if one.version == record.version]
            assert there.says_the_same(record)
            assert record in batch.put or there.known.since == record.known.since
            model.write(there)
    for ref in batch.erase:
        model.erase(ref)


class StoreSuite(Writing, Restoring, Erasing, Clocks, Finding, Words, Texts, Walls, Vectors, Upkeep, Rules):
    """Everything that a store owes."""

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
