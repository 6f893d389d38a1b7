"""Which versions say the words of a question best: BM25 (`bm25.py`) over the lists that the table of words has.

The terms are those of `words.py`, as SQLite has them: so every language is searched alike, and alike in every store.
PostgreSQL's own text search knows few languages, keeps at most 1 MB a text, and ranks without knowing how common a word
is; trigrams would find parts of words, which no other store here does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import words as language
from ..query import Query
from ..record import Record, Scope
from . import bm25, rows
from .bm25 import Postings, Rows, best
from .postgres_pool import Sent, fetch, fetched
from .postgres_rows import Numbers, as_record, numbers, term_number, where
from .postgres_trip import Db

LEADING, LEADING_MIN = 5, 500  # rows for each hit wanted, and at least, that are ranked by their length, too
NARROW = 20_000  # rows up to which all of a label, a user or a session are read before going by words
FREQUENCIES_KEPT = 50_000
LATEST = 2**62  # later than every row

SAID = "array_send(array_agg((row_id << 4) + often))"  # a number for both, sent as it is: numpy reads it
VERSIONS = "SELECT versions FROM realms WHERE realm = %s"
LISTS = f"""
    SELECT t.n, (SELECT {SAID} FROM words w WHERE w.realm = %s AND w.term = t.term)
    FROM unnest(%s::bigint[]) WITH ORDINALITY t (term, n)
"""
LATELY = f"""
    SELECT {SAID} FROM (
        SELECT row_id, often FROM words WHERE realm = %s AND term = %s AND row_id < %s ORDER BY row_id DESC LIMIT %s
    ) w
"""
FREQUENCIES = """
    SELECT t.term, (SELECT count(*) FROM words w WHERE w.realm = %s AND w.term = t.term)
    FROM unnest(%s::bigint[]) t (term)
"""
SIZES = """
    SELECT array_send(array_agg(r.row_id)), array_send(array_agg(octet_length(r.text)::bigint))
    FROM records r WHERE r.row_id = ANY(%s::bigint[]) AND """
FOUND = f"SELECT r.row_id, {rows.SELECT} FROM records r WHERE r.realm = %s AND r.row_id = ANY(%s::bigint[])"


Scored = tuple[Sent, dict[int, float]]  # what rows there are was asked, and the scores of the best, best first
Spread = tuple[int, dict[int, int]]  # how many versions there are, and in about how many each term is


@dataclass(frozen=True, slots=True)
class Asked:
    """How many versions a realm has was asked, and of those of the terms that were not known how common they are."""

    realm: int
    terms: Sequence[int]
    versions: Sent
    counts: Sent | None


class Words:
    def __init__(self) -> None:
        self._frequencies: dict[tuple[int, int], tuple[int, int]] = {}  # of a realm's term: how many, of how many
        self._versions: dict[int, int] = {}  # of a realm, when it was last asked

    def forget(self) -> None:
        self._frequencies.clear()

    async def find(self, db: Db, realm: int, query: Query, text: str) -> Scored | None:
        """Ask for what says the words best; `said` returns it."""
        asked = list(map(term_number, language.asked(text)))
        while (found := await self.told(await self.ask(db, realm, asked))) is None:
            pass
        versions, counted = found
        terms = _affordable(counted, versions)
        scores: dict[int, float] = {}
        if terms and query.limit > 0:
            async for postings in self._postings(db, realm, terms, versions):
                scores |= await _best(db, query, realm, postings, query.limit - len(scores))
                if len(scores) >= query.limit:
                    break
        return (await db.execute(FOUND, (realm, Numbers(list(scores)))), scores) if scores else None

    async def ask(self, db: Db, realm: int, terms: Sequence[int]) -> Asked:
        """Ask how common the terms are, as far as that is not known of as many versions as there were last time."""
        unknown = [term for term in set(terms) if not self._is_known(realm, term, self._versions.get(realm, 0))]
        versions = await db.execute(VERSIONS, (realm,))
        counts = await db.execute(FREQUENCIES, (realm, Numbers(unknown)), binary=True) if unknown else None
        return Asked(realm, terms, versions, counts)

    async def told(self, asked: Asked) -> Spread | None:
        """Return what was asked; None where the versions have become so many that more is to be asked."""
        realm, counts = asked.realm, await fetched(asked.counts)
        versions = next((int(count) for (count,) in await asked.versions.fetchall()), 0)
        if len(self._frequencies) + len(counts) > FREQUENCIES_KEPT:
            self._frequencies.clear()
        self._frequencies.update({(realm, term): (count, versions) for term, count in counts})
        self._versions[realm] = versions
        if not versions:
            return 0, dict.fromkeys(asked.terms, 0)
        if not all(self._is_known(realm, term, versions) for term in asked.terms):
            return None
        return versions, {term: self._frequencies.get((realm, term), (0, 0))[0] for term in asked.terms}

    def _is_known(self, realm: int, term: int, versions: int) -> bool:
        """Whether the term was counted among about so many: a count is trusted until they have grown by a quarter."""
        _, then = self._frequencies.get((realm, term), (0, 0))
        return bool(then) and then * 0.8 <= versions <= then * 1.25

    async def _postings(self, db: Db, realm: int, terms: Sequence[int], versions: int) -> AsyncIterator[Postings]:
        """Yield where the terms are said: at once, or bit by bit, the newest first, where one alone is in very many."""
        frequent = self._frequencies.get((realm, terms[0]), (0, 0))[0]
        if len(terms) == 1 and frequent > bm25.DF_BUDGET:
            before = LATEST
            while len(lately := numbers(await _one(db, LATELY, (realm, terms[0], before, bm25.DF_BUDGET)))):
                yield Postings.of([_repeated(lately)], versions)
                before = int(lately.min()) >> 4
        else:
            found = await fetch(db, LISTS, (realm, Numbers(terms)), binary=True)
            yield Postings.of([_repeated(numbers(sent)) for _, sent in found], versions)


def _affordable(counted: Mapping[int, int], versions: int) -> list[int]:
    """Return the terms worth reading; where there is little to read, all."""
    if versions <= bm25.DF_ROWS:
        return list(counted) if versions else []
    return bm25.affordable(((frequency, term) for term, frequency in counted.items()), versions)


async def _best(db: Db, query: Query, realm: int, postings: Postings, limit: int) -> dict[int, float]:
    """Return the best matching rows with their scores, best first: of those that lead, as many as must be read."""
    condition, values = where(query, realm, of_given=True)
    order, start, size = postings.leading(), 0, max(LEADING_MIN, LEADING * limit)
    found, long = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while start < len(order) and len(found) < limit:
        leading = postings.rows[np.sort(order[start : start + size])]
        [(its, sizes)] = await fetch(db, SIZES + condition, (Numbers(leading), *values), binary=True)
        found, long = np.concatenate((found, numbers(its))), np.concatenate((long, numbers(sizes)))
        start, size = start + size, size * 8
    return best(postings, found, long, limit)


async def said(found: Scored, scope: Scope) -> list[tuple[Record, float]]:
    """Return the records that `Words.find` has asked for, best first, with their scores."""
    cursor, scores = found
    records = {row[0]: as_record(row[1:], scope) for row in await cursor.fetchall()}
    return [(records[row], score) for row, score in scores.items() if row in records]


async def _one(db: Db, sql: str, values: Sequence[Any]) -> Any:
    [(found,)] = await fetch(db, sql, values, binary=True)
    return found


def _repeated(said: Rows) -> Rows:
    """Return each row as often as it says the term."""
    return np.repeat(said >> 4, said & 15)
