"""How SQLite ranks words: what it saves must change no answer that matters."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from simonides import words as language
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope
from simonides.store import Batch
from simonides.stores import bm25, sqlite, sqlite_words
from simonides.stores.bm25 import K1, B, idf

HERE, COUNT = Scope(user="ana"), 300
ALL = Query(scope=HERE, limit=COUNT)
VOCABULARY = ("amber", "birch", "cobalt", "dune", "ember", "fjord")


def sown() -> list[Record]:
    """Return notes of many lengths that say each word more or less often; every tenth bears a label."""
    rng, records = random.Random(5), list[Record]()
    for n in range(COUNT):
        said = [
            word
            for place, word in enumerate(VOCABULARY)
            for _ in range(rng.randrange(4))
            if rng.random() < 0.6 / (place + 1)
        ]
        text = " ".join(["everyone", *said, *["filler"] * rng.randrange(60)])
        labels = ("tenth",) if n % 10 == 0 else ()
        records.append(Record(scope=HERE, id=f"{n:04}", body=Note(text=text), labels=labels))
    return records


@pytest.fixture
async def store() -> AsyncIterator[sqlite.SqliteStore]:
    opened = sqlite.open()
    await opened.commit(Batch(put=tuple(sown())))
    yield opened
    await opened.close()


def plainly(records: list[Record], text: str) -> dict[str, float]:
    """Return the BM25 of each record that says any of the words, lengths taken over those."""
    terms = language.asked(text)
    counts = {r.id: Counter(language.terms(r.text)) for r in records}
    lengths = {r.id: len(r.text) + bm25.HEADING for r in records if any(counts[r.id][term] for term in terms)}
    usual = sum(lengths.values()) / len(lengths)
    weights = {term: idf(sum(term in count for count in counts.values()), len(records)) for term in terms}
    return {
        id: sum(
            weights[term] * n * (K1 + 1) / (n + K1 * (1 - B + B * length / usual))
            for term in terms
            if (n := counts[id][term])
        )
        for id, length in lengths.items()
    }


@pytest.mark.parametrize("text", ["amber", "fjord amber", "ember dune birch", "everyone cobalt"])
async def test_the_ranks_are_those_of_bm25(store: sqlite.SqliteStore, text: str) -> None:
    expected = plainly(sown(), text)
    found = await store.words(ALL, text)
    assert {record.id: score for record, score in found} == pytest.approx(expected)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


async def test_a_word_that_most_say_is_found_under_every_filter(
    store: sqlite.SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read bit by bit, the newest first, until there is enough."""
    monkeypatch.setattr(bm25, "DF_BUDGET", 7)
    everyone = {record.id for record in sown()}
    assert {record.id for record, _ in await store.words(ALL, "everyone")} == everyone
    labelled = Query(scope=HERE, limit=COUNT, labels=frozenset({"tenth"}))
    assert {r.id for r, _ in await store.words(labelled, "everyone")} == {id for id in everyone if id.endswith("0")}
    newest = [record.id for record, _ in await store.words(Query(scope=HERE, limit=7), "everyone")]
    assert sorted(newest) == sorted(everyone)[-7:]
    assert not await store.words(Query(scope=Scope(user="bo"), shared=False), "everyone")


@pytest.mark.parametrize("narrow", [0, 20_000])
async def test_a_label_filters_alike_whether_it_is_rare_or_not(
    store: sqlite.SqliteStore, monkeypatch: pytest.MonkeyPatch, narrow: int
) -> None:
    monkeypatch.setattr(sqlite, "NARROW", narrow)
    ranked = {record.id for record in sown() if "amber" in record.text and "tenth" in record.labels}
    found = await store.words(Query(scope=HERE, limit=COUNT, labels=frozenset({"tenth"})), "amber")
    assert {record.id for record, _ in found} == ranked
    assert not await store.words(Query(scope=HERE, labels=frozenset({"tenth", "nobody's"})), "amber")


async def test_a_filter_looks_further_down_than_the_rows_that_lead(
    store: sqlite.SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LEADING_MIN", 1)
    ranks = plainly(sown(), "amber")
    last = min(ranks, key=lambda id: ranks[id])
    found = await store.words(Query(scope=HERE, limit=1, ids=frozenset({last})), "amber")
    assert [record.id for record, _ in found] == [last]


async def test_how_common_a_word_is_is_told_by_a_sample(
    store: sqlite.SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another realm's rows lie between, and are not counted; what is rare is counted everywhere."""
    monkeypatch.setattr(sqlite, "SAMPLED", 100)
    monkeypatch.setattr(sqlite_words, "STRETCH", 20)
    monkeypatch.setattr(sqlite_words, "TELLING", 30)
    everywhere, often, seldom, never = terms = language.asked("everyone amber fjord nowhere")
    other = Scope(space="elsewhere")
    await store.commit(Batch(put=tuple(Record(scope=other, body=Note(text="everyone fjord")) for _ in range(80))))
    exact = {term: sum(term in language.terms(record.text) for record in sown()) for term in terms}
    versions, told = await store.spread(HERE, terms)
    assert (versions, told[everywhere], told[seldom], told[never]) == (COUNT, COUNT, exact[seldom], 0)
    assert told[often] == pytest.approx(exact[often], rel=0.3)
    assert told[often] != exact[often]


@pytest.mark.parametrize("narrow", [0, 20_000])
async def test_whose_words_are_ranked_alike_whether_they_have_few_records_or_many(
    store: sqlite.SqliteStore, monkeypatch: pytest.MonkeyPatch, narrow: int
) -> None:
    """What is left of another's after the first rows are read is passed over by its number, or asked for."""
    theirs = Scope(user="bo")
    await store.commit(
        Batch(put=tuple(Record(scope=theirs, id=f"bo {n}", body=Note(text="amber " * (n + 1))) for n in range(3)))
    )
    monkeypatch.setattr(sqlite, "LEADING_MIN", 1)
    monkeypatch.setattr(sqlite, "LEADING", 1)
    monkeypatch.setattr(sqlite, "NARROW", narrow)
    mine = await store.words(Query(scope=theirs, limit=COUNT, shared=False), "amber")
    assert {record.id for record, _ in mine} == {"bo 0", "bo 1", "bo 2"}
    alone = await store.words(Query(scope=theirs, limit=1, shared=False), "amber birch")
    assert [record.scope.user for record, _ in alone] == ["bo"]
