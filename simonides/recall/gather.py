"""Collects what may be worth having in mind, in several ways at once. Every arm obeys every filter of the query."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import words as language
from ..embedder import TOKEN_DIMENSION, Embedder, TokenEmbedder
from ..errors import Unavailable
from ..index import Index
from ..kinds import KINDS, Message
from ..query import Query
from ..record import Record
from ..store import Store
from ..tokens import unpack
from .means import WORDS_ALONE, Effort, Means
from .question import Question, without_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT, WHEN, RECENT, PINNED = 30, 60, 20, 20  # candidates that each of these arms may bring
FLOOD, SAME = 10, 0.98  # how much further to look where the first say the same; the cosine that suggests it
EARLIER = 0.85  # what each earlier part of a long question counts, against the one after it
TOKENS_S = 0.5  # seconds to wait for token vectors; without them the ranking goes on, and says so
SAYING = frozenset(KINDS) - {"conversation", "document"}  # kinds that say something; a title only leads there


@dataclass(slots=True)
class Candidate:
    record: Record
    cosine: float | None = None
    by: set[str] = field(default_factory=set)
    tokens: bytes = b""  # see `tokens.pack`


@dataclass(slots=True)
class Asked:
    """A question as the embedder sees it: one vector, and its tokens with what each counts (adding up to 1)."""

    vector: NDArray[np.float32]
    tokens: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, TOKEN_DIMENSION), np.float32))
    counts: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(slots=True)
class Pool:
    """The candidates by id, who stands before and after them, and what is known of the terms."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    versions: int = 0
    frequencies: dict[str, int] = field(default_factory=dict)
    asked: Asked | None = None
    unrelated: float = 0.0  # the cosine of texts that have nothing to do with each other
    notes: tuple[str, ...] = ()

    def add(self, arm: str, records: Iterable[Record]) -> None:
        for record in records:
            self.candidates.setdefault(record.id, Candidate(record)).by.add(arm)


async def gather(question: Question, query: Query, means: Means, effort: Effort) -> Pool:
    pool, store = Pool(), means.store
    if query.kinds is None:
        query = dataclasses.replace(query, kinds=SAYING)
    (recently, near), (by_words, spread), exact, when, pinned = await asyncio.gather(
        _recent_and_near(question, query, means, effort),
        _words_and_spread(question, query, store, effort.words),
        _exact(question, query, store),
        _when(question, query, store),
        store.find(_of(query, pinned=True, newest=True, limit=PINNED)) if query.pinned is None else _nothing(),
    )
    pool.versions, pool.frequencies = spread
    pool.add("words", [record for record, _ in by_words])
    pool.add("exact", exact)
    pool.add("when", when)
    pool.add("recent", recently)
    pool.add("pinned", pinned)
    parts = _nameless(question, [candidate.record for candidate in pool.candidates.values()])
    if near.parts not in (parts, ()):
        near = await _near(parts, query, means, effort)
    _add_near(pool, near)
    leading = likeliest(pool, {record.id: score for record, score in by_words})
    await _around(query, store, pool, leading[: effort.around])
    await asyncio.gather(_titles(query, store, pool), _tokens(query, means, pool, leading[: effort.late]))
    return pool


async def _recent_and_near(question: Question, query: Query, means: Means, effort: Effort) -> tuple[list[Record], Near]:
    """Return what was said last, and what lies near the question as if those who said it were all who speak.

    A question without a name is not kept waiting for who that is.
    """
    finding = means.store.find(_of(query, newest=True, limit=RECENT))
    if question.names_nobody:
        near, recently = await asyncio.gather(_near(question.parts, query, means, effort), finding)
        return recently, near
    recently = await finding
    return recently, await _near(_nameless(question, recently), query, means, effort)


async def _words_and_spread(
    question: Question, query: Query, store: Store, limit: int
) -> tuple[list[tuple[Record, float]], tuple[int, dict[str, int]]]:
    """Return what shares words with the question, and how common those are: counted once if one follows the other."""
    found = await _words(question, query, store, limit)
    return found, await store.spread(query.scope, question.terms)


async def _words(question: Question, query: Query, store: Store, limit: int) -> list[tuple[Record, float]]:
    """Records that share words with the question; further down where the first say the same again and again."""
    found = await store.words(_of(query, limit=limit), question.text)
    if len(found) == limit and not say(found, limit // 2):
        return await store.words(_of(query, limit=limit * FLOOD), question.text)
    return found


def say(found: Iterable[tuple[Record, float]], least: int) -> bool:
    """Whether the records say at least so many different things."""
    said = set[tuple[str, str | None, str]]()
    for record, _ in found:
        said.add(saying(record))
        if len(said) == least:
            return True
    return False


def saying(record: Record) -> tuple[str, str | None, str]:
    """Return what makes two records say the very same: kind, speaker, and the words but for case and spaces."""
    return record.kind, record.body.who, " ".join(language.fold(record.text).split())


@dataclass(frozen=True, slots=True)
class Near:
    """What lies near the parts of a question; without parts nothing was asked, and `note` says why."""

    parts: tuple[str, ...] = ()
    asked: Asked | None = None
    nearest: Sequence[tuple[Record, float]] = ()  # with their cosines
    unrelated: float = 0.0
    note: str | None = None


def _nameless(question: Question, records: Iterable[Record]) -> tuple[str, ...]:
    names = _speakers(records)
    return tuple(without_names(part, names) for part in question.parts)


async def _near(parts: tuple[str, ...], query: Query, means: Means, effort: Effort) -> Near:
    """Records whose meaning is close. The index proposes; the store, which knows the clocks, disposes."""
    if means.index is None or means.embedder is None:
        return Near(note=WORDS_ALONE)
    try:
        asked = await _embedded(parts, means.embedder)
    except Unavailable as error:
        return Near(note=f"found by words alone, because the embedder did not answer: {error}")
    try:
        nearest = await _nearest(asked.vector, query, means.index, effort.near)
    except Unavailable as error:
        return Near(note=f"found by words alone, because the index did not answer: {error}")
    return Near(parts, asked, nearest, means.embedder.unrelated)


async def _nearest(vector: NDArray[np.float32], query: Query, index: Index, limit: int) -> list[tuple[Record, float]]:
    nearest = await index.near(_of(query, limit=limit), vector, limit)
    if len(nearest) == limit and nearest[limit // 2][1] > SAME:  # the same again and again: look further down
        nearest = await index.near(_of(query, limit=limit * FLOOD), vector, limit * FLOOD)
    return nearest


def _add_near(pool: Pool, near: Near) -> None:
    pool.asked, pool.unrelated = near.asked, near.unrelated
    if near.note:
        pool.notes = (near.note,)
    pool.add("near", [record for record, _ in near.nearest])
    for record, cosine in near.nearest:
        pool.candidates[record.id].cosine = cosine


async def _embedded(parts: Sequence[str], embedder: Embedder) -> Asked:
    """Embed a question part by part: small models lose the thread in a long one, and its end matters most."""
    if not isinstance(embedder, TokenEmbedder):
        vectors = await embedder.embed(parts, query=True)
        return Asked(_unit(vectors.mean(axis=0)))
    vectors, packed = await embedder.encode(parts)
    tokens = [unpack(part) for part in packed]
    counts = np.concatenate([np.full(len(part), EARLIER**back) for back, part in enumerate(reversed(tokens))][::-1])
    total = counts.sum()
    return Asked(_unit(vectors.mean(axis=0)), np.concatenate(tokens), (counts / (total or 1.0)).astype(np.float32))


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def likeliest(pool: Pool, by_words: dict[str, float]) -> list[Candidate]:
    """Return the candidates in a first, rough order: those that lead by meaning or by words, or hold a literal."""
    most = max(by_words.values(), default=0.0) or 1.0
    cosines = [c.cosine for c in pool.candidates.values() if c.cosine is not None]
    low, high = (min(cosines), max(cosines)) if cosines else (0.0, 1.0)

    def promise(candidate: Candidate) -> float:
        cosine = low if candidate.cosine is None else candidate.cosine
        said = by_words.get(candidate.record.id, 0.0) / most
        return said + (cosine - low) / ((high - low) or 1.0) + 0.5 * len(candidate.by & {"exact", "when"})

    return sorted(pool.candidates.values(), key=lambda c: (-promise(c), c.record.id))


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


async def _around(query: Query, store: Store, pool: Pool, leading: Sequence[Candidate]) -> None:
    """Add the turns before and after the likeliest candidates, so that they are weighed with what stands around."""
    turns = [candidate.record for candidate in leading if candidate.record.part_of is not None]
    if not turns:
        return
    for turn, (before, after) in zip(turns, await store.around(_of(query), turns), strict=True):
        for first, second in ((before, turn), (turn, after)):
            if first is not None and second is not None:
                pool.add("around", [record for record in (first, second) if record.id not in pool.candidates])
                pool.after[first.id], pool.before[second.id] = second.id, first.id


async def _tokens(query: Query, means: Means, pool: Pool, leading: Sequence[Candidate]) -> None:
    """Fetch the token vectors of the likeliest candidates, and of those who stand around them."""
    if not leading or pool.asked is None or not len(pool.asked.tokens):
        return
    beside = [way[c.record.id] for c in leading for way in (pool.before, pool.after) if c.record.id in way]
    wanted = {c.record.id: c for c in (*leading, *(pool.candidates[id] for id in beside))}
    names = [(c.record.id, c.record.version) for c in wanted.values()]
    try:
        async with asyncio.timeout(TOKENS_S):
            tokens = await means.store.tokens(query.scope, means.model, names)
    except TimeoutError:
        pool.notes += ("not compared word by word: the store took too long",)
        return
    for candidate, packed in zip(wanted.values(), tokens, strict=True):
        candidate.tokens = packed


async def _titles(query: Query, store: Store, pool: Pool) -> None:
    wholes = frozenset(c.record.part_of for c in pool.candidates.values() if c.record.part_of)
    if wholes:
        for whole in await store.find(Query(scope=query.scope, ids=wholes, statuses=None, limit=len(wholes))):
            pool.titles[whole.id] = whole.text


def _speakers(records: Iterable[Record]) -> frozenset[str]:
    bodies = (record.body for record in records)
    return frozenset(body.name for body in bodies if isinstance(body, Message) and body.name)


def _of(query: Query, **changes: object) -> Query:
    return dataclasses.replace(query, after=None, **changes)  # type: ignore[arg-type]


async def _nothing() -> list[Record]:
    return []
