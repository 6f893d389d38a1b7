"""Recall, part by part: what a question names, what speaks for a candidate, how hits fit a budget."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simonides import AsyncMemory
from simonides.embedders.hashing import HashingEmbedder
from simonides.kinds import Message, Note
from simonides.query import Hit, Query
from simonides.recall import fitted
from simonides.recall.fit import quoted
from simonides.recall.gather import RECENT, Candidate, Pool, holds_literal
from simonides.recall.means import Hits
from simonides.recall.question import literals, understand, without_names
from simonides.recall.rank import boosted, rank
from simonides.recall.signals import SIGNALS, Evidence
from simonides.recall.when import window
from simonides.record import Record, Scope, Span
from simonides.stores.sqlite import SqliteStore

NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)  # a Wednesday


def days(text: str, zone: str = "UTC") -> tuple[str, str] | None:
    found = window(text, NOW, ZoneInfo(zone))
    return found and tuple(at.astimezone(ZoneInfo(zone)).date().isoformat() for at in found)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("what did I say yesterday?", "2026-11-17", "2026-11-18"),
        ("what happened today", "2026-11-18", "2026-11-19"),
        ("the day before yesterday we met", "2026-11-16", "2026-11-17"),
        ("what did we do last week", "2026-11-09", "2026-11-16"),
        ("plans for this week", "2026-11-16", "2026-11-23"),
        ("this weekend", "2026-11-21", "2026-11-23"),
        ("last weekend", "2026-11-14", "2026-11-16"),
        ("last month", "2026-10-01", "2026-11-01"),
        ("this year", "2026-01-01", "2027-01-01"),
        ("two weeks ago", "2026-11-02", "2026-11-09"),
        ("3 days ago", "2026-11-15", "2026-11-16"),
        ("a year ago", "2025-01-01", "2026-01-01"),
        ("the last 7 days", "2026-11-11", "2026-11-19"),
        ("in May", "2026-05-01", "2026-06-01"),
        ("in December", "2025-12-01", "2026-01-01"),
        ("in June 2024", "2024-06-01", "2024-07-01"),
        ("on 12 June", "2026-06-12", "2026-06-13"),
        ("on June 12th, 2025", "2025-06-12", "2025-06-13"),
        ("24 December", "2025-12-24", "2025-12-25"),
        ("at 2026-05-02 what", "2026-05-02", "2026-05-03"),
        ("during 2025-03", "2025-03-01", "2025-04-01"),
        ("in summer 2025", "2025-06-01", "2025-09-01"),
        ("last winter", "2025-12-01", "2026-03-01"),
        ("on Monday", "2026-11-16", "2026-11-17"),
        ("last Wednesday", "2026-11-11", "2026-11-12"),
        ("what happened in 2024?", "2024-01-01", "2025-01-01"),
    ],
)
def test_a_question_names_a_span_of_time(text: str, since: str, until: str) -> None:
    assert days(text) == (since, until)


@pytest.mark.parametrize(
    "text", ["she may come", "we march on", "the sun is out", "14 people", "version 2026.1", "2026-13-45", "a second"]
)
def test_what_only_looks_like_a_date_is_none(text: str) -> None:
    assert days(text) is None


def test_a_day_that_no_month_has_still_names_the_month() -> None:
    assert days("30 February") == ("2026-02-01", "2026-03-01")


def test_a_day_is_the_callers_day() -> None:
    late = datetime(2026, 11, 18, 1, 0, tzinfo=UTC)  # the 17th in New York
    found = window("yesterday", late, ZoneInfo("America/New_York"))
    assert found is not None
    assert found[0] == datetime(2026, 11, 16, 5, 0, tzinfo=UTC)


@given(st.text(max_size=200))
def test_any_question_is_understood(text: str) -> None:
    asked = understand(text, NOW)
    if asked.window:
        assert asked.window[0] < asked.window[1]


def test_quotes_numbers_and_identifiers_are_meant_letter_for_letter() -> None:
    assert literals('what is PR-2291, 46.5 and "Ponte da Ribeira" for me@example.org in 2026?') == [
        *("ponte da ribeira", "pr-2291", "46.5", "me@example.org")
    ]
    assert holds_literal("the span is 46.5 m", "46.5")
    assert not holds_literal("in 2014 it was", "14")


def test_names_of_participants_do_not_drown_the_question() -> None:
    assert without_names("What did Caroline's sister buy?", frozenset({"Caroline"})) == "What did sister buy?"
    assert without_names("Caroline?", frozenset({"Caroline"})) == "Caroline?"


def said(text: str, *, whole: str = "talk", minute: int = 0, **more: object) -> Record:
    at = NOW - timedelta(days=30) + timedelta(minutes=minute)
    return Record(scope=Scope(), body=Message(text=text), part_of=whole, valid=Span(since=at), **more)


def pool_of(*records: Record, cosines: dict[str, float] | None = None) -> Pool:
    pool = Pool(versions=100)
    for record in records:
        pool.candidates[record.id] = Candidate(record, (cosines or {}).get(record.text), {"near"})
    for before, after in pairwise(records):
        if before.part_of == after.part_of:
            pool.after[before.id], pool.before[after.id] = after.id, before.id
    return pool


texts = st.lists(st.text(alphabet="abcdef xyz", min_size=1, max_size=30), min_size=1, max_size=12)


@given(texts, st.text(alphabet="abcdef xyz 123", min_size=1, max_size=30), st.data())
def test_every_signal_and_every_score_lies_between_0_and_1(
    said_texts: list[str], asked: str, data: st.DataObject
) -> None:
    records = [
        said(text, minute=n, importance=data.draw(st.integers(1, 10)), pinned=data.draw(st.booleans()))
        for n, text in enumerate(said_texts)
    ]
    cosine = st.floats(-1, 1, width=32)
    pool = pool_of(*records, cosines={record.text: data.draw(cosine) for record in records})
    question = understand(asked, NOW)
    for signal, _ in SIGNALS.values():
        values = signal(Evidence.of(question, pool))
        assert len(values) == len(pool.candidates) and all(0 <= value <= 1 + 1e-6 for value in values.tolist())
    hits = rank(question, pool, 50, explain=True)
    assert all(0 <= hit.score <= 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_answer_is_carried_by_its_question() -> None:
    question, answer, other = said("Where did you move?"), said("To Porto!", minute=1), said("To Paris!", whole="b")
    hits = rank(understand("where did you move", NOW), pool_of(question, answer, other), 3)
    assert hits.index(next(h for h in hits if h.text == "To Porto!")) < 2
    assert all(hit.text != "To Paris!" or hit.score < hits[1].score for hit in hits)


def test_boosts_never_lift_the_irrelevant_over_the_relevant() -> None:
    dull = Record(scope=Scope(), body=Note(text="x"), importance=10, pinned=True, valid=Span(since=NOW))
    plain = Record(scope=Scope(), body=Note(text="y"), importance=1, valid=Span(since=NOW - timedelta(days=3000)))
    question = understand("x", NOW)
    assert boosted(0.4, dull, question) < boosted(0.5, plain, question)


def test_what_says_the_very_same_is_one_hit_that_stands_for_the_others() -> None:
    first, again = said("I like tea."), said("i like  TEA.", minute=5)
    [hit] = rank(understand("tea", NOW), pool_of(first, again), 5)
    assert {hit.record.id, *hit.also} == {first.id, again.id}


def test_explanations_add_up_to_the_relevance() -> None:
    hits = rank(understand("tea", NOW), pool_of(said("I like tea."), said("coffee?", minute=1)), 5, explain=True)
    for hit in hits:
        assert hit.why
        assert sum(factor.share for factor in hit.why) == pytest.approx(hit.score, rel=0.15)


hit_texts = st.lists(st.text(min_size=1, max_size=400).filter(str.strip), min_size=1, max_size=15)


@given(hit_texts, st.integers(1, 400))
def test_a_context_never_exceeds_its_budget_and_cites_what_it_holds(texts: list[str], budget: int) -> None:
    hits = Hits(Hit(said(text, minute=n), 1 - n / 100) for n, text in enumerate(texts))
    context = fitted(hits, budget, lambda text: len(text.split()))
    assert context.tokens <= budget
    assert context.tokens == len(context.text.split())
    for citation in context.citations:
        assert f"[{citation.number}]" in context.text
        if not citation.cut:
            assert quoted(citation.hit.text) in context.text


async def test_a_long_text_is_cut_to_what_fits_and_says_so() -> None:
    async with AsyncMemory(":memory:", embedder="hashing:") as memory:
        await memory.remember("The bridge is long. " * 500)
        context = await memory.context("bridge", budget=200)
    assert context.citations[0].cut
    assert 100 < context.tokens <= 200


async def test_an_old_relevant_record_is_found_among_many_newer() -> None:
    async with AsyncMemory(":memory:", embedder="hashing:") as memory:
        old = await memory.remember("The wifi password is swordfish", at="2020-01-01")
        await memory.remember([f"Chat number {n} about nothing much" for n in range(1500)])
        [hit] = await memory.recall("wifi password", limit=1)
    assert hit.id == old.id


async def test_words_alone_are_said_to_be_a_fallback() -> None:
    async with AsyncMemory(":memory:", embedder="none") as memory:
        await memory.remember("I like tea")
        hits = await memory.recall("tea")
    assert hits.notes
    assert "words alone" in hits.notes[0]


async def test_an_index_that_does_not_answer_leaves_the_words() -> None:
    """It is asked at all only because nothing is held in memory with small=0."""
    nowhere = "pgvector://me:hunter2@127.0.0.1:1/none?small=0"
    async with AsyncMemory(":memory:", embedder="hashing:", index=nowhere) as memory:
        kept = await memory.remember("I like tea")
        hits = await memory.recall("tea")
        why = await memory.explain_missing(kept.id, "coffee")
    assert [hit.id for hit in hits] == [kept.id]
    assert "words alone, because the index did not answer" in hits.notes[0]
    assert "hunter2" not in hits.notes[0]
    assert why.reason == "irrelevant"


class Heard(HashingEmbedder):
    """Keeps the questions that it was asked to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = list[str]()

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        if query:
            self.questions += texts
        return await super().embed(texts, query=query)


async def test_meaning_is_asked_for_again_where_another_speaks_than_those_who_spoke_last() -> None:
    heard = Heard()
    async with AsyncMemory(":memory:", embedder=heard) as memory:
        await memory.remember([{"role": "user", "name": "Caroline", "content": "I bought pottery"}], session="a")
        lately = [{"role": "user", "name": "Bea", "content": f"it rained on day {n}"} for n in range(RECENT + 5)]
        await memory.remember(lately, session="b")
        await memory.recall("what did Bea buy?")
        assert heard.questions == ["what did buy?"]
        heard.questions.clear()
        await memory.recall("what pottery did Caroline buy?")
        assert heard.questions == ["what pottery did Caroline buy?", "what pottery did buy?"]
        heard.questions.clear()
        await memory.recall("what did bea buy?")  # written like no name: it was embedded before it was known for one
        assert heard.questions == ["what did bea buy?", "what did buy?"]
        heard.questions.clear()
        await memory.recall("what did  she buy?")  # of which there is nothing to leave out
        assert heard.questions == ["what did  she buy?"]


@pytest.mark.parametrize(
    ("text", "nobody"),
    [
        ("what did she buy?", True),
        ("What did she buy? And when? I forgot, as I do.", True),
        ("2026-05-02 at 9:00", True),
        ("", True),
        ("what did Caroline buy?", False),
        ("what did mr. O'Neill buy?", False),
        ("was hat Über gesagt", False),
        ("I know who. did Élodie?", False),
        ("山田さんは何を買いましたか", False),
        ("what of 山田", False),
        ("ماذا اشترت", False),
    ],
)
def test_what_is_written_like_a_name(text: str, nobody: bool) -> None:
    assert understand(text, NOW).names_nobody == nobody


async def test_a_question_that_names_nobody_does_not_wait_for_who_spoke_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would wait here for ever: nothing is told of the newest before it was embedded."""
    heard = Heard()
    find = SqliteStore.find

    async def waiting(store: SqliteStore, query: Query) -> list[Record]:
        while query.newest and query.pinned is None and not heard.questions:
            await asyncio.sleep(0.001)
        return await find(store, query)

    async with AsyncMemory(":memory:", embedder=heard) as memory:
        await memory.remember("the ferry goes at noon")
        monkeypatch.setattr(SqliteStore, "find", waiting)
        async with asyncio.timeout(20):
            [hit] = await memory.recall("when does the ferry go?")
    assert hit.text == "the ferry goes at noon"
    assert heard.questions == ["when does the ferry go?"]


async def test_what_lies_near_comes_with_its_record_and_is_not_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However it is found: a vector that the index ranks is checked by the store, which then has the record anyway."""
    async with AsyncMemory(":memory:", embedder="hashing:") as memory:
        kept = await memory.remember(["the ferry goes at noon", "a bridge of stone"])
        await memory.settle()
        looked = list[Query]()
        find = SqliteStore.find

        async def noted(store: SqliteStore, query: Query) -> list[Record]:
            looked.append(query)
            return await find(store, query)

        monkeypatch.setattr(SqliteStore, "find", noted)
        [hit, *_] = await memory.recall("ferry at noon")
    assert hit.id == kept[0].id and "near" in hit.by
    assert looked and all(query.ids is None for query in looked)
