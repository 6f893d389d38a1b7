"""How well versions say the words of a question: BM25, for all at once, from lists of where each term is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)
HEADING = 30  # bytes that who and when add to a text
DF_SHARE, DF_ROWS = 0.05, 5_000  # beyond so many versions, a term in more than this share of them is passed over
DF_BUDGET = 20_000  # postings that one question may read, at 0.2 µs each in a file

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
T = TypeVar("T", int, str)


@dataclass(frozen=True, slots=True)
class Postings:
    """What is said where: the versions' `rows`, ascending, and for each pair of a version and a term its place among
    them (`at`), how often the version says the term, and how much the term tells.
    """

    rows: Rows
    at: Rows
    often: Floats
    weight: Floats

    @staticmethod
    def of(lists: Sequence[Rows], versions: int) -> Postings:
        """Make them of the terms' lists, in each of which a row stands as often as it says the term."""
        counted = [np.unique(one, return_counts=True) for one in lists]
        rows, at = np.unique(np.concatenate([said for said, _ in counted]), return_inverse=True)
        often = np.concatenate([times for _, times in counted]).astype(np.float64)
        weight = np.repeat([idf(len(said), versions) for said, _ in counted], [len(said) for said, _ in counted])
        return Postings(rows, at, often, weight)

    def scores(self, lengths: Floats) -> Floats:
        """Return the BM25 of each row, all above 0; `lengths` are in units of the usual length."""
        norm = K1 * (1 - B + B * lengths[self.at])
        parts = self.weight * self.often * (K1 + 1) / (self.often + norm)
        return np.bincount(self.at, parts, len(self.rows)).astype(np.float64, copy=False)

    def among(self, rows: Rows) -> Postings:
        """Return those of the rows."""
        kept = np.isin(self.rows, rows)
        pairs, place = kept[self.at], np.cumsum(kept) - 1
        return Postings(self.rows[kept], place[self.at[pairs]], self.often[pairs], self.weight[pairs])

    def leading(self) -> Rows:
        """Return the places of the rows, the best first as far as can be told without lengths; of equals the newest."""
        return np.lexsort((-self.rows, -self.scores(np.ones(len(self.rows)))))


def affordable(counted: Iterable[tuple[int, T]], versions: int) -> list[T]:
    """Return the terms worth reading, rarest first, of those given with how many versions say them: a word in most
    records costs much and tells nothing.
    """
    kept, spent = list[T](), 0
    for frequency, term in sorted(counted):
        if kept and (frequency > DF_SHARE * versions or spent + frequency > DF_BUDGET):
            break
        if frequency:
            kept.append(term)
            spent += frequency
    return kept


def best(postings: Postings, found: Rows, long: Rows, limit: int) -> dict[int, float]:
    """Return the scores of the best of the rows found, best first; `long` are the bytes of their texts."""
    if not len(found):
        return {}
    at = np.searchsorted(postings.rows, found)
    scores = postings.scores(lengths(len(postings.rows), at, long))[at]
    first = np.lexsort((found, -scores))[:limit]
    return dict(zip(found[first].tolist(), scores[first].tolist(), strict=True))


def idf(frequency: int, versions: int) -> float:
    """Return Lucene's form of the inverse document frequency, which is above 0 even for what everybody says."""
    return math.log(1 + (max(versions, frequency) - frequency + 0.5) / (frequency + 0.5))


def lengths(count: int, at: Rows, long: Rows) -> Floats:
    """Return the lengths of so many rows, in units of the usual one: of those at these places, from their bytes."""
    found = np.ones(count)
    found[at] = (long + HEADING) / (long + HEADING).mean()
    return found
