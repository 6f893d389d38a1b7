"""commit: what is put, its versions, the log, the cursors of followers; all or nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from ...errors import Conflict
from ...kinds import Chunk, Document, Message, Note
from ...query import Query
from ...record import ARCHIVED, Link, Record, Scope, Span, new_id, now
from ...store import Batch, Change, Cursor, Store
from ..records import ANA, BO, entity, every, fact, said, session
from .steps import SPRING, SUMMER, found_texts, only, put


class Writing:
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

    @pytest.mark.parametrize("value", [1.0, True, "1", [1], None])
    async def test_a_value_of_another_type_is_other_content(self, store: Store, value: Any) -> None:
        record = said("first", metadata={"deep": [{"key": 1}]})
        await put(store, record)
        with pytest.raises(Conflict):
            await put(store, dataclasses.replace(record, metadata={"deep": [{"key": value}]}))

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

    async def test_who_has_followed_a_batch_ahead_goes_on_with_it(self, store: Store) -> None:
        one, two, three = (said(str(n)) for n in range(3))
        await put(store, one)
        await store.commit(Batch(), cursor=Cursor("reader", 0, 1))
        lines = await store.commit(Batch(put=(two, three), followed=("reader", "another")))
        assert (len(lines), lines.followed) == (2, frozenset({"reader"}))
        assert await store.cursors("") == {"reader": 3}
        again = await store.commit(Batch(put=(three,), followed=("reader",)))
        assert (again, again.followed, await store.cursor("reader")) == ([], frozenset(), 3)

    async def test_who_has_not_read_what_came_before_reads_a_batch_later(self, store: Store) -> None:
        await put(store, said("read"), said("not read"))
        await store.commit(Batch(), cursor=Cursor("behind", 0, 1))
        lines = await store.commit(Batch(put=(said("ahead"),), followed=("behind", "not begun")))
        assert (lines.followed, await store.cursors("")) == (frozenset(), {"behind": 1})

    async def test_a_batch_that_conflicts_takes_nobody_on(self, store: Store) -> None:
        kept = said("kept")
        await put(store, kept)
        await store.commit(Batch(), cursor=Cursor("reader", 0, 1))
        other = dataclasses.replace(kept, body=Message(text="other"))
        with pytest.raises(Conflict):
            await store.commit(Batch(put=(said("lost"), other), followed=("reader",)))
        assert await store.cursor("reader") == 1

    async def test_many_who_write_at_once_take_a_follower_as_far_as_it_has_followed(self, store: Store) -> None:
        await put(store, said("first"))
        await store.commit(Batch(), cursor=Cursor("reader", 0, 1))
        batches = [Batch(put=(said(str(n)),), followed=("reader",) if n != 5 else ()) for n in range(10)]
        kept = await asyncio.gather(*(store.commit(batch) for batch in batches))
        unread = kept[5][0].seq
        assert await store.cursor("reader") == unread - 1
        assert all(lines.followed == ({"reader"} if lines[0].seq < unread else set()) for lines in kept)

    async def test_what_a_caller_does_to_its_metadata_later_changes_nothing(self, store: Store) -> None:
        metadata = {"list": [1]}
        await put(store, said("a", metadata=metadata))
        metadata["list"].append(2)
        (await only(store, Query(scope=ANA))).metadata["list"].append(3)
        assert (await only(store, Query(scope=ANA))).metadata == {"list": [1]}
