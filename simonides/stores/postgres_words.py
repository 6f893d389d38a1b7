"""Which versions say the words of a question best: BM25 (`bm25.py`) over the lists that the table of words has.

The terms are those of `words.py`, as SQLite has them: so every language is searched alike, and alike in every store.
PostgreSQL's own text search knows few languages, keeps at most 1 MB a text, and ranks without knowing how common a word
is; trigrams would find parts of words, which no other store here does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from .. import words as language
from ..query import Query
from ..record import Record
from . import rows
from .bm25 import Postings, Rows, lengths
from .postgres_pool import Db, fetch
from .postgres_rows import as_record, term_number, where

DF_SHARE, DF_ROWS = 0.05, 5_000  # beyond so many versions, a term in more than this share of them is passed over
DF_BUDGET = 20_000  # postings that one question may read
LEADING, LEADING_MIN = 5, 500  # rows for each hit wanted, and at least, that are ranked by their length, too
NARROW = 20_000  # rows up to which all of a label, a user or a session are read before going by words
FREQUENCIES_KEPT = 50_000
LATEST = 2**62  # later than every row

SAID = "array_agg((row_id << 4) + often)"  # a number for both: half as much to send
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
    SELECT array_agg(r.row_id), array_agg(octet_length(r.text)::bigint)
    FROM records r WHERE r.row_id = ANY(%b::bigint[]) AND """
FOUND = f"SELECT r.row_id, {rows.SELECT} FROM records r WHERE r.realm = %s AND r.row_id = ANY(%s::bigint[])"


class Words:
    def __init__(self) -> None:
        self._frequencies: dict[tuple[int, int], tuple[int, int]] = {}  # of a realm's term: how many, of how many

    def forget(self) -> None:
        self._frequencies.clear()

    async def find(self, db: Db, realm: int, query: Query, text: str) -> list[tuple[Record, float]]:
        versions = await _versions(db, realm)
        terms = await self._affordable(db, realm, list(map(term_number, language.asked(text))), versions)
        best: dict[int, float] = {}
        if terms and query.limit > 0:
            async for postings in self._postings(db, realm, terms, versions):
                best |= await _best(db, query, realm, postings, query.limit - len(best))
                if len(best) >= query.limit:
                    break
        if not best:
            return []
        found = {row[0]: as_record(row[1:], query.scope) for row in await fetch(db, FOUND, (realm, list(best)))}
        return [(found[row], score) for row, score in best.items() if row in found]

    async def spread(self, db: Db, realm: int, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        versions = await _versions(db, realm)
        counted = await self._counted(db, realm, list(map(term_number, terms)), versions)
        return versions, {term: counted[term_number(term)] for term in terms}

    async def _postings(self, db: Db, realm: int, terms: Sequence[int], versions: int) -> AsyncIterator[Postings]:
        """Yield where the terms are said: at once, or bit by bit, the newest first, where one alone is in very many."""
        frequent = self._frequencies.get((realm, terms[0]), (0, 0))[0]
        if len(terms) == 1 and frequent > DF_BUDGET:
            before = LATEST
            while len(lately := await _array(db, LATELY, (realm, terms[0], before, DF_BUDGET))):
                yield Postings.of([_repeated(lately)], versions)
                before = int(lately.min()) >> 4
        else:
            found = await db.execute(LISTS, (realm, list(terms)), binary=True)
            result = await _result(found)
            lists = [_numbers(result.get_value(n, 1)) for n in range(result.ntuples)]
            yield Postings.of(list(map(_repeated, lists)), versions)

    async def _affordable(self, db: Db, realm: int, terms: list[int], versions: int) -> list[int]:
        """Return the terms worth reading, rarest first: a word in most records costs much and tells nothing."""
        if versions <= DF_ROWS or not terms:
            return terms if versions else []
        counted = await self._counted(db, realm, terms, versions)
        kept, spent = list[int](), 0
        for frequency, term in sorted((counted[term], term) for term in terms):
            if kept and (frequency > DF_SHARE * versions or spent + frequency > DF_BUDGET):
                break
            if frequency:
                kept.append(term)
                spent += frequency
        return kept

    async def _counted(self, db: Db, realm: int, terms: Sequence[int], versions: int) -> dict[int, int]:
        """Return in about how many versions each is; a count is trusted until the realm has grown by a quarter."""

        def trusted(term: int) -> bool:
            _, then = self._frequencies.get((realm, term), (0, 0))
            return bool(then) and then * 0.8 <= versions <= then * 1.25

        if unknown := [term for term in set(terms) if not trusted(term)]:
            if len(self._frequencies) + len(unknown) > FREQUENCIES_KEPT:
                self._frequencies.clear()
            for term, count in await fetch(db, FREQUENCIES, (realm, unknown)):
                self._frequencies[realm, term] = count, versions
        return {term: self._frequencies.get((realm, term), (0, 0))[0] for term in terms}


async def _versions(db: Db, realm: int) -> int:
    found = await fetch(db, "SELECT versions FROM realms WHERE realm = %s", (realm,))
    return int(found[0][0]) if found else 0


async def _best(db: Db, query: Query, realm: int, postings: Postings, limit: int) -> dict[int, float]:
    """Return the best matching rows with their scores, best first: of those that lead, as many as must be read."""
    condition, values = where(query, realm, of_given=True)
    order, start, size = postings.leading(), 0, max(LEADING_MIN, LEADING * limit)
    found, long = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while start < len(order) and len(found) < limit:
        leading = postings.rows[np.sort(order[start : start + size])]
        cursor = await db.execute(SIZES + condition, (leading.tolist(), *values), binary=True)
        result = await _result(cursor)
        found = np.concatenate((found, _numbers(result.get_value(0, 0))))
        long = np.concatenate((long, _numbers(result.get_value(0, 1))))
        start, size = start + size, size * 8
    if not len(found):
        return {}
    at = np.searchsorted(postings.rows, found)
    scores = postings.scores(lengths(len(postings.rows), at, long))[at]
    best = np.lexsort((found, -scores))[:limit]
    return dict(zip(found[best].tolist(), scores[best].tolist(), strict=True))


async def _array(db: Db, sql: str, values: Sequence[Any]) -> Rows:
    return _numbers((await _result(await db.execute(sql, values, binary=True))).get_value(0, 0))


async def _result(cursor: Any) -> Any:
    """Return the result as it was sent, whose arrays numpy reads a hundred times as fast."""
    if cursor.pgresult is None:
        await cursor.fetchall()
    return cursor.pgresult


def _numbers(sent: bytes | None) -> Rows:
    """Return the numbers of an array of bigint as PostgreSQL sends it: a header of 20 bytes, and each with its size."""
    if sent is None or len(sent) < 20:
        return np.zeros(0, np.int64)
    each = np.frombuffer(sent, np.dtype([("size", ">i4"), ("number", ">i8")]), offset=20)
    return each["number"].astype(np.int64)


def _repeated(said: Rows) -> Rows:
    """Return each row as often as it says the term."""
    return np.repeat(said >> 4, said & 15)
