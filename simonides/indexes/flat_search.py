"""How the flat index ranks: by vectors in memory, or by codes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from . import kernels
from .flat_codes import Rows
from .kernels import Floats, Slots
from .search import Ranking

GATHER = 20_000  # matching rows that are each scored by their bytes; measured 0.2 to 0.8 µs a row
GROWTH = 0.35  # candidates needed grow so with the rows; measured 0.33 between 32k and 92k sentences (MiniLM)
RATIO = 25  # candidates for each hit wanted, at 100k rows: recall@100 is 0.968 on 100k sentences (bge-small)…
TRUSTED = 20  # …and for each rank that is beyond doubt, so that a rank a little further down is
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # tried in this order when a group is tuned
RECALL = 0.995  # recall@10 that tuning asks for
LARGE = 1 / 4  # share of the rows from which choosing candidates by bits costs more than it saves


class Candidates(Protocol):
    """The rows that may be answered."""

    def rank(self, vector: Floats, wide: int) -> Ranking:
        """Return somewhat more than twice the `wide` best."""
        ...

    def among(self, slots: Slots) -> Candidates:
        """Return those at the slots."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Vectors as the store keeps them, shape (slots, dimension); holes are zeros."""

    vectors: Floats
    at: Slots | None = None

    def rank(self, vector: Floats, wide: int) -> Ranking:
        return _ranking(kernels.products(self.vectors, vector, self.at), self.at, wide, lambda _: 1e-5)

    def among(self, slots: Slots) -> Candidates:
        return Whole(self.vectors, slots[slots < len(self.vectors)])


@dataclass(frozen=True, slots=True)
class Coded:
    """The first n rows of a group, as codes."""

    rows: Rows
    n: int
    exact: int  # up to so many rows, each is scored by its bytes
    least: int  # candidates that are scored by their bytes at least, at 100k rows
    faiss: bool = True
    at: Slots | None = None

    @property
    def total(self) -> int:
        return self.n if self.at is None else len(self.at)

    def rank(self, vector: Floats, wide: int) -> Ranking:
        count = self.candidates(wide)
        if self.total <= (self.exact if self.at is None else max(GATHER, self.exact)) or count > self.total * LARGE:
            return self._ranked(vector, self.at, wide)
        ranking = self._ranked(vector, self._nearest(vector, count), wide)
        return dataclasses.replace(ranking, trusted=int(count / (TRUSTED * self._growth)), complete=False)

    def candidates(self, wide: int) -> float:
        """Return how many rows must be chosen by their bits so that the `wide` best are among them."""
        return max(self.least, RATIO * wide) * self._growth

    @property
    def _growth(self) -> float:
        growth: float = (self.total / 100_000) ** GROWTH
        return growth * self.rows.head.factor

    def _nearest(self, vector: Floats, count: float) -> Slots:
        mask = None
        if self.at is not None:
            mask = np.zeros(self.n, np.bool_)
            mask[self.at] = True
        asked = kernels.sign_bits(vector[None])[0]
        return kernels.nearest_bits(self.rows.bits, asked, self.n, math.ceil(count), mask, faiss=self.faiss)

    def _ranked(self, vector: Floats, at: Slots | None, wide: int) -> Ranking:
        codes = self.rows.codes[: self.n]
        reach = float(np.linalg.norm(vector)) * min(math.sqrt(len(vector)) / 2, 2)
        return _ranking(
            kernels.dots(codes, vector, at), at, wide, lambda best: reach * float(codes[best]["step"].max(initial=0))
        )

    def among(self, slots: Slots) -> Candidates:
        return dataclasses.replace(self, at=slots[slots < self.n])


def _ranking(scores: Floats, at: Slots | None, wide: int, slack: Callable[[Slots], float]) -> Ranking:
    """Rank what was scored. `slack` tells from the best rows how far their scores may be off.

    A component is off by half a step at most, so a product by √dimension / 2 steps; and where there are many, by more
    than 2 steps (seven standard deviations of so many even errors) as good as never.
    """
    count = min(len(scores), 2 * wide + 30)
    best = np.argpartition(scores, len(scores) - count)[len(scores) - count :] if count else np.zeros(0, np.int64)
    best = best[np.argsort(-scores[best], kind="stable")]
    slots = best if at is None else at[best]
    return Ranking(slots, scores[best], slack(slots), len(scores), count == len(scores))


def tuned(candidates: Coded, vectors: Floats) -> float:
    """Return the least factor with which the vectors find their 10 nearest among the candidates; infinite if none does.

    A neighbour counts as found by its score, because which of several equals is found says nothing.
    """
    wanted = [np.sort(kernels.dots(candidates.rows.codes[: candidates.n], vector))[-11:] for vector in vectors]
    for factor in FACTORS:
        head = dataclasses.replace(candidates.rows.head, factor=factor)
        tried = dataclasses.replace(candidates, rows=dataclasses.replace(candidates.rows, head=head))
        if tried.candidates(10) > candidates.n * LARGE:
            return factor  # from here on every row is scored anyway
        found = [_found(tried, vector, nearest[0]) for vector, nearest in zip(vectors, wanted, strict=True)]
        if sum(found) >= RECALL * len(found):
            return factor
    return math.inf


def _found(candidates: Coded, vector: Floats, least: float) -> float:
    """Return the share of the 10 nearest found; the nearest of all, the vector itself, is not counted."""
    scores = candidates.rank(vector, 10).scores
    return min(10, int(np.count_nonzero(scores >= least - 1e-5)) - 1) / 10
