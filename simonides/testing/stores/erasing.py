"""erase: gone from every version, and certified."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from ...errors import Conflict
from ...kinds import Message
from ...query import Query
from ...record import Link, Ref, Span, new_id, now
from ...store import Batch, Certificate, Store
from ..records import ANA, OTHER, every, fact, said
from .steps import SPRING, by_words, complaints, found_texts, only, put


class Erasing:
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

    async def test_the_lines_of_erases_are_read_without_the_others(self, store: Store) -> None:
        records, others = [said(f"secret {n}") for n in range(3)], [said(f"other {n}", OTHER) for n in range(3)]
        for record, other in zip(records, others, strict=True):
            await put(store, record, other)
            await store.commit(Batch(erase=(record.ref,), put=(said("kept"),)))
            await store.commit(Batch(certificate=Certificate(new_id(), now(), ANA, (record.id,), (), {}, "memory")))
        await store.commit(Batch(erase=(others[0].ref,)))
        every_line = await store.changes()
        erases = [line for line in every_line if not line.version]
        assert len(erases) == 7 and await store.changes(erases=True) == erases
        assert await store.changes(after=erases[1].seq, limit=3, erases=True) == erases[2:5]
        assert await store.changes(after=erases[2].seq - 1, limit=1, erases=True) == erases[2:3]
        assert await store.changes(after=every_line[-1].seq, erases=True) == []

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

    async def test_what_was_said_in_another_zone_leaves_no_word_behind(self, store: Store) -> None:
        evening = datetime(2019, 3, 31, 5, 30, tzinfo=timezone(timedelta(hours=9)))  # the day before in UTC
        record = dataclasses.replace(said("harbour"), valid=Span(since=evening))
        await put(store, record)
        await store.commit(Batch(erase=(record.ref,)))
        assert await store.words(every(ANA), "harbour 30 31 march") == []
        assert await complaints(store) == ()
