"""words: any text may be asked for, in any language."""

from __future__ import annotations

import math

import pytest

from ...kinds import Fact, Message
from ...query import Query
from ...record import NEVER, Link, Record, Scope, Span
from ...store import Batch, Store
from ..records import ANA, BO, OTHER, TEAM, every, fact, said
from .steps import SPRING, by_words, only, put

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
