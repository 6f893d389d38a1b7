"""Collects what may be worth having in mind, in several ways at once. Every arm obeys every filter of the query."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import words as language
from ..embedder import Embedder
from ..errors import Unavailable
from ..index import Index
from ..kinds import KINDS, Message
from ..query import Query
from ..record import Record
from ..store import Store
from .question import Question, without_names

NEAR, WORDS, EXACT, WHEN, RECENT, PINNED = 100, 100, 30, 60, 20, 20  # candidates that each arm may bring
FLOOD, SAME = 10, 0.98  # how much further to look where the first say the same; the cosine that suggests it
TALKS, TURNS = 12, 600  # conversations that are looked at as a whole, and how much of them
EMBEDDED_MAX = 2_000  # characters of a question that are embedded
SAYING = frozenset(KINDS) - {"conversation", "document"}  # kinds that say something; a title only leads there


@dataclass(frozen=True, slots=True)
class Means:
    """What recall reads from. Without an index and an embedder, it goes by words alone and says so."""

    store: Store
    index: Index | None
    embedder: Embedder | None


@dataclass(slots=True)
class Candidate:
    record: Record
    cosine: float | None = None
    by: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Pool:
    """The candidates by id; the conversations of the best of them, in order; and what is known of the terms."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    talks: dict[str, list[Record]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    versions: int = 0
    frequencies: dict[str, int] = field(default_factory=dict)
    unrelated: float = 0.0  # the cosine of texts that have nothing to do with each other
    notes: tuple[str, ...] = ()

    def add(self, arm: str, records: Iterable[Record]) -> None:
        for record in records:
            self.candidates.setdefault(record.id, Candidate(record)).by.add(arm)


async def gather(question: Question, query: Query, means: Means) -> Pool:
    pool, store = Pool(), means.store
    if query.kinds is None:
        query = dataclasses.replace(query, kinds=SAYING)
    by_words, exact, when, recent, pinned, spread = await asyncio.gather(
        _words(question, query, store),
        _exact(question, query, store),
        _when(question, query, store),
        store.find(_of(query, newest=True, limit=RECENT)),
        store.find(_of(query, pinned=True, newest=True, limit=PINNED)) if query.pinned is None else _nothing(),
        store.spread(query.scope, question.terms),
    )
    pool.versions, pool.frequencies = spread
    pool.add("words", [record for record, _ in by_words])
    pool.add("exact", exact)
    pool.add("when", when)
    pool.add("recent", recent)
    pool.add("pinned", pinned)
    await _near(question, query, means, pool)
    await _talks(query, store, pool, [record for record, _ in by_words])
    return pool


async def _words(question: Question, query: Query, store: Store) -> list[tuple[Record, float]]:
    """Records that share words with the question; further down where the first say the same again and again."""
    found = await store.words(_of(query, limit=WORDS), question.text)
    if len(found) == WORDS and sayings(record for record, _ in found) < WORDS // 2:
        return await store.words(_of(query, limit=WORDS * FLOOD), question.text)
    return found


def sayings(records: Iterable[Record]) -> int:
    """Return how many different things the records say."""
    return len({saying(record) for record in records})


def saying(record: Record) -> tuple[str, str | None, str]:
    """Return what makes two records say the very same: kind, speaker, and the words but for case and spaces."""
    return record.kind, record.body.who, " ".join(language.fold(record.text).split())


async def _near(question: Question, query: Query, means: Means, pool: Pool) -> None:
    """Records whose meaning is close. The index proposes; the store, which knows the clocks, disposes."""
    if means.index is None or means.embedder is None:
        pool.notes = ("no embedder is set: found by words alone",)
        return
    asked = without_names(question.text[:EMBEDDED_MAX], _speakers(pool.candidates.values()))
    try:
        [vector] = await means.embedder.embed([asked], query=True)
    except Unavailable as error:
        pool.notes = (f"found by words alone, because the embedder did not answer: {error}",)
        return
    nearest = await means.index.near(_of(query, limit=NEAR), vector, NEAR)
    if len(nearest) == NEAR and nearest[NEAR // 2][1] > SAME:  # the same again and again: look further down
        nearest = await means.index.near(_of(query, limit=NEAR * FLOOD), vector, NEAR * FLOOD)
    missing = frozenset(id for id, _ in nearest if id not in pool.candidates)
    fetched = await means.store.find(_of(query, ids=missing, limit=len(missing))) if missing else []
    found = {record.id: record for record in fetched}
    for id, cosine in nearest:
        if candidate := pool.candidates.get(id) or (Candidate(found[id]) if id in found else None):
            candidate.cosine = cosine
            candidate.by.add("near")
            pool.candidates[id] = candidate
    floor = means.embedder.unrelated
    pool.unrelated = max(floor, nearest[-1][1]) if len(nearest) >= NEAR else floor


async def _exact(question: Question, query: Query, store: Store) -> list[Record]:
    """Records that hold a quote, number or identifier of the question letter for letter."""
    found = await asyncio.gather(*(store.words(_of(query, limit=EXACT), text) for text in question.literals))
    return [
        record
        for literal, hits in zip(question.literals, found, strict=True)
        for record, _ in hits
        if holds_literal(language.fold(record.text), literal)
    ]


def holds_literal(folded: str, literal: str) -> bool:
    """Whether the literal stands in the text as a whole: 14 is not in 2014."""
    return re.search(rf"(?<!\w){re.escape(literal)}(?!\w)", folded) is not None


async def _when(question: Question, query: Query, store: Store) -> list[Record]:
    """What was said in the span of time that the question names."""
    if question.window is None:
        return []
    since, until = question.window
    since = max(since, query.since) if query.since else since
    until = min(until, query.until) if query.until else until
    return await store.find(_of(query, since=since, until=until, newest=True, limit=WHEN))


async def _talks(query: Query, store: Store, pool: Pool, by_words: list[Record]) -> None:
    """Read the conversations of the likeliest candidates, so that turns are weighed with what stands around them."""
    nearest = sorted((c for c in pool.candidates.values() if c.cosine is not None), key=lambda c: -(c.cosine or 0.0))
    order = [r for pair in zip([c.record for c in nearest], by_words, strict=False) for r in pair]
    order += [c.record for c in nearest] + by_words
    wholes = list(dict.fromkeys(record.part_of for record in order if record.part_of))[:TALKS]
    if wholes:
        turns = await store.find(_of(query, part_of=frozenset(wholes), newest=True, limit=TURNS))
        for turn in reversed(turns):
            pool.talks.setdefault(turn.part_of or "", []).append(turn)
        for talk in pool.talks.values():
            places = {turn.id: place for place, turn in enumerate(talk)}
            near = {places[id] + step for id in list(pool.candidates) if id in places for step in (-1, 1)}
            pool.add("around", [talk[place] for place in near if 0 <= place < len(talk)])
    await _titles(query, store, pool)


async def _titles(query: Query, store: Store, pool: Pool) -> None:
    wholes = frozenset(c.record.part_of for c in pool.candidates.values() if c.record.part_of)
    if wholes:
        for whole in await store.find(Query(scope=query.scope, ids=wholes, statuses=None, limit=len(wholes))):
            pool.titles[whole.id] = whole.text


def _speakers(candidates: Iterable[Candidate]) -> frozenset[str]:
    bodies = (candidate.record.body for candidate in candidates)
    return frozenset(body.name for body in bodies if isinstance(body, Message) and body.name)


def _of(query: Query, **changes: object) -> Query:
    return dataclasses.replace(query, after=None, **changes)  # type: ignore[arg-type]


async def _nothing() -> list[Record]:
    return []
