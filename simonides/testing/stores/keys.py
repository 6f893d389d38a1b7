"""A natural name belongs to one live record of its kind and scope."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from ...errors import Conflict
from ...kinds import Document, Entity
from ...query import Query
from ...record import ARCHIVED, NEVER, Record, Span
from ...store import Batch, Store
from ..records import ACME, ANA, BO, OTHER, TEAM, entity, every, said, session
from .steps import SPRING, only, put


class Keys:
    async def test_a_key_belongs_to_one_live_record(self, store: Store) -> None:
        await put(store, entity("Lisbon"))
        with pytest.raises(Conflict):
            await put(store, entity("lisbon"))
        assert await store.count(every(ANA)) == 1

    async def test_a_key_belongs_to_one_live_record_of_one_batch(self, store: Store) -> None:
        with pytest.raises(Conflict):
            await put(store, entity("Lisbon"), entity("lisbon"))
        assert await store.changes() == []

    async def test_what_gave_its_key_away_may_be_put_again(self, store: Store) -> None:
        record = entity("Lisbon")
        await put(store, record)
        await put(store, record.revise(body=Entity(text="Porto", name="Porto")))
        await put(store, entity("Lisbon"))
        assert await store.commit(Batch(put=(record,))) == []
        assert len(await store.changes()) == 3

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
