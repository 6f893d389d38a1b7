"""find and count: order, limit, and every field of a Query."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given

from ...kinds import Message
from ...query import Place, Query
from ...record import ARCHIVED, TICK, Link, Record, Scope, Span, new_id, now
from ...store import Batch, Store
from ..records import ANA, BO, OTHER, TEAM, archives, entity, every, fact, queries, said, session
from .steps import MAY, SPRING, SUMMER, MakeStore, by_words, found_texts, only, put, rule, told


class Finding:
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
        assert await store.count(Query(scope=ANA, after=Place(now(), "z", 1), limit=1)) == 9

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
            assert len(await store.find(Query(scope=ANA, outside=frozenset({folder})))) == len(folders)
        beside = Query(scope=ANA, outside=frozenset({"work", "w_rk"}))
        assert await found_texts(store, beside) == ["workshop", "work0", "work-1", "Work", "None"]
        inside = Query(scope=ANA, folder="work", outside=frozenset({"work/bridge"}))
        assert await found_texts(store, inside) == ["work"] and await store.count(inside) == 1
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

    async def test_a_number_is_found_however_it_is_written(self, store: Store) -> None:
        written: list[Any] = [1, 1.0, 2**53, float(2**53), True]
        await put(store, *(said(repr(value), metadata={"key": value}) for value in written))
        for value, found in ((1, ["1", "1.0"]), (1.0, ["1", "1.0"]), (True, ["True"])):
            assert await found_texts(store, Query(scope=ANA, metadata=(("key", value),))) == found
        assert await store.count(Query(scope=ANA, metadata=(("key", 2**53),))) == 2

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

    async def test_around_a_part_are_those_said_before_and_after_it(self, store: Store) -> None:
        times = {"d": SPRING, "b": MAY, "a": MAY, "c": SUMMER}  # in the order a, b within May
        kept = {id: said(id, id=id, part_of="talk", valid=Span(at)) for id, at in times.items()}
        others = [said("x", part_of="other", valid=Span(MAY)), said("y", valid=Span(MAY))]
        await put(store, *kept.values(), *others)
        await put(store, kept["a"].revise(labels=("x",)))  # a later version, in the same place
        asked = [kept["a"], kept["d"], kept["c"], *others, kept["b"], kept["a"]]
        assert await beside(store, Query(scope=ANA), *asked) == [
            *(("d", "b"), (None, "a"), ("b", None)),
            *((None, None), (None, None)),
            *(("a", "c"), ("d", "b")),
        ]
        assert await store.around(Query(scope=ANA), []) == []
        assert await beside(store, Query(scope=Scope(tenant="nobody")), kept["a"]) == [(None, None)]

    async def test_around_a_part_is_what_is_there_however_the_part_was_found(self, store: Store) -> None:
        kept = [said(f"{n}", id=f"{n}", part_of="talk", valid=Span(SPRING)) for n in range(3)]
        await put(store, *kept)
        one = await only(store, Query(scope=ANA, ids=frozenset({"1"})))
        asked: list[dict[str, Any]] = [{"ids": frozenset({"1"})}, {"limit": 0}, {"newest": True}]
        asked += [{"newest": newest, "after": Place.of(one), "limit": 1} for newest in (True, False)]
        for how in asked:
            assert await beside(store, Query(scope=ANA, **how), *kept) == [(None, "1"), ("0", "2"), ("1", None)], how

    async def test_around_obeys_filters_clocks_and_walls(self, store: Store) -> None:
        def part(id: str, at: datetime, scope: Scope = ANA, until: datetime | None = None, **more: Any) -> Record:
            return said(id, scope, id=id, part_of="talk", valid=Span(at, until), **more)

        middle = part("m", MAY)
        work: dict[str, Any] = {"labels": ("x",), "folder": "work/bridge", "metadata": {"k": 1}}
        await put(
            store,
            part("far before", SPRING, **work, pinned=True, importance=9, source="mail"),
            part("ended", SPRING + TICK, until=SUMMER),
            part("before", SPRING + 2 * TICK, Scope(tenant="acme")),
            middle,
            part("archived", MAY + TICK, status=ARCHIVED),
            part("bo's", MAY + 2 * TICK, BO),
            part("after", SUMMER),
            part("the team's", MAY + TICK, TEAM),
            part("another's", MAY + TICK, OTHER),
        )
        expected: list[tuple[Query, str | None, str | None]] = [
            (Query(scope=ANA), "before", "after"),
            (Query(scope=ANA, shared=False), "far before", "after"),
            (Query(scope=ANA, statuses=None), "before", "archived"),
            (Query(scope=ANA, ended=True, shared=False), "ended", "after"),
            (Query(scope=ANA, valid_at=MAY, shared=False), "ended", None),
            (Query(scope=ANA, known_at=SPRING), None, None),
            (Query(scope=ANA, since=MAY), None, "after"),
            (Query(scope=ANA, until=SUMMER), "before", None),
            (Query(scope=ANA, kinds=frozenset({"fact"})), None, None),
            (Query(scope=ANA, part_of=frozenset({"other"})), None, None),
            *((Query(scope=ANA, **narrowed), "far before", None) for narrowed in NARROWINGS),
            (Query(scope=BO), "before", "bo's"),
            (Query(scope=Scope(tenant="acme")), "before", "bo's"),
            (Query(scope=TEAM), None, "the team's"),
            (Query(scope=OTHER), None, "another's"),
        ]
        for query, before, after in expected:
            assert await beside(store, query, middle) == [(before, after)], query

    async def test_around_gives_versions_as_they_are_believed(self, store: Store) -> None:
        first, second = (said(id, id=id, part_of="talk", valid=Span(at)) for id, at in (("a", SPRING), ("b", MAY)))
        await put(store, first, second)
        believed = (await only(store, Query(scope=ANA, ids=frozenset({"b"})))).known.since
        await put(store, first.revise(body=Message(text="revised"), labels=("x",)))
        [(now_before, _)] = await store.around(Query(scope=ANA), [second])
        [(then_before, _)] = await store.around(Query(scope=ANA, known_at=believed), [second])
        [(latest, _)] = await store.around(every(ANA), [second])
        assert now_before and then_before and latest
        assert (now_before.text, then_before.text, latest.version) == ("revised", "a", 2)
        assert now_before == await only(store, Query(scope=ANA, ids=frozenset({"a"})))
        await store.commit(Batch(erase=(first.ref,)))
        assert await store.around(every(ANA), [second]) == [(None, None)]

    @rule
    @given(kept=archives(), query=queries())
    def test_around_means_by_a_query_what_the_query_means(
        self, make_store: MakeStore, kept: list[tuple[Record, ...]], query: Query
    ) -> None:
        everything = [
            dataclasses.replace(record, part_of=record.part_of and "talk") for versions in kept for record in versions
        ]
        meant = [record for record in everything if dataclasses.replace(query, ids=None).matches(record)]
        parts = [record for record in meant if record.part_of]

        def plain(record: Record) -> tuple[Record | None, Record | None]:
            def of(one: Record) -> tuple[datetime | None, str]:
                return one.at, one.id

            before = [one for one in parts if record.part_of and of(one) < of(record)]
            after = [one for one in parts if record.part_of and of(one) > of(record)]
            return (
                max(before, key=lambda one: (of(one), one.version), default=None),
                min(after, key=lambda one: (of(one), -one.version), default=None),
            )

        async def story() -> None:
            store = await make_store()
            try:
                await store.commit(Batch(restore=tuple(everything)))
                there = [record for record in everything if record.scope.realm == query.scope.realm]
                assert await store.around(query, there) == [plain(record) for record in there]
            finally:
                await store.close()

        told(story())


NARROWINGS: tuple[dict[str, Any], ...] = (
    {"labels": frozenset({"x"})},
    {"folder": "work"},
    {"metadata": (("k", 1),)},
    {"pinned": True},
    {"importance_min": 9},
    {"sources": frozenset({"mail"})},
)


async def beside(store: Store, query: Query, *records: Record) -> list[tuple[str | None, str | None]]:
    """Return the ids of those around each of the records."""
    found = await store.around(query, records)
    return [(before.id if before else None, after.id if after else None) for before, after in found]
