"""How the flat index finds: rows are ranked by their codes, and the store says which of the best are meant.

The codes only propose. What is answered was given by the store for this query, with the vector it keeps; so stale or
damaged codes can cost a hit its place, but never bring one up that does not match.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import Invalid
from ..query import Query
from ..store import Extent, Store
from . import kernels
from .flat_codes import Rows
from .kernels import Floats, Slots

GATHER = 20_000  # matching rows that are each scored by their bytes; measured 0.2 to 0.8 µs a row
GROWTH = 0.35  # candidates needed grow so with the rows; measured 0.33 between 32k and 92k sentences (MiniLM)
RATIO = 40  # candidates for each hit wanted, at 100k rows: tuned, recall@100 is 0.992 on 100k sentences (bge-small)…
TRUSTED = 33  # …and for each rank that is beyond doubt, so that a rank a little further down is
DROPPED = 1 / 10  # share of the best rows that may be superseded, ended or archived without a second trip to the store
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # tried in this order when a group is tuned
RECALL = 0.995  # recall@10 that tuning asks for
LARGE = 1 / 4  # share of the rows from which choosing candidates by bits costs more than it saves
PASSING = 1 / 8  # share of the best rows that must match for a filter to be answered by looking further down
OWNERS = 4096  # slots that the store is asked about at once
FEW = 1024  # new slots that are each looked at, when a list is extended
INLINE = 256  # vectors that are scored without a trip to a worker
ROOM = 64 * 1024 * 1024  # bytes of slots that are remembered for filters

Run = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best rows, best first, by scores that may each be off by `slack`.

    The first `trusted` ranks are those that an exact scan would have given; `complete` says that no row was left out.
    """

    slots: Slots
    scores: Floats
    slack: float
    trusted: int
    complete: bool

    def enough(self, limit: int) -> int:
        """Return how many of the first ranks are likely to hold the `limit` best by the store's own vectors."""
        sure = limit + math.ceil(limit * DROPPED)
        if sure >= len(self.scores):
            return len(self.scores)
        return int(np.count_nonzero(self.scores >= self.scores[sure - 1] - 2 * self.slack))


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


class Search:
    """One question: what the store has said of the rows that were proposed so far, and whether that is the answer."""

    def __init__(self, store: Store, model: str, query: Query, vector: Floats, limit: int, run: Run) -> None:
        self._store, self._model, self._query, self._run = store, model, query, run
        self._vector, self._limit = vector, limit
        self._seen = set[int]()
        self._passed = 0  # vectors seen that match
        self._best: dict[str, tuple[float, int]] = {}  # of each record its best score, and that vector's slot

    def answer(self) -> list[tuple[str, float]]:
        found = sorted((-score, id) for id, (score, _) in self._best.items())
        return [(id, min(1.0, max(-1.0, -score))) for score, id in found[: self._limit]]

    async def through(self, candidates: Candidates, *, patient: bool) -> bool:
        """Look further and further down until the answer is found, or nothing is left.

        The impatient give up, and return False, where so few match that they had better be asked for directly.
        """
        wide = self._limit
        while True:
            ranking: Ranking = await self._run(candidates.rank, self._vector, wide)
            reach = ranking.enough(self._limit)
            while True:
                await self._ask(ranking.slots[:reach])
                if self._is_settled(ranking, reach):
                    return True
                if reach == len(ranking.slots):
                    break
                reach = max(reach + 1, self._further(ranking))
            if ranking.complete:
                return True
            if not patient and self._passed < PASSING * len(self._seen):
                return False
            wide = self._wider(wide)

    async def _ask(self, slots: Slots) -> None:
        new = [slot for slot in slots.tolist() if slot not in self._seen]
        self._seen.update(new)
        for start in range(0, len(new), OWNERS):
            owned = await self._store.owners(self._query, self._model, new[start : start + OWNERS])
            self._passed += len(owned)
            scores = await scored(owned, self._vector, self._run)
            for (slot, id, _), score in zip(owned, scores, strict=True):
                if id not in self._best or score > self._best[id][0]:
                    self._best[id] = score, slot

    def _further(self, ranking: Ranking) -> int:
        """Return up to which rank a row could still be among the nearest, and the first that could not."""
        if len(self._best) < self._limit:
            return len(ranking.slots)
        last = heapq.nlargest(self._limit, self._best.values())[-1][0]
        return min(len(ranking.slots), int(np.count_nonzero(ranking.scores + ranking.slack > last)) + 1)

    def _is_settled(self, ranking: Ranking, reach: int) -> bool:
        """Whether no row beyond that reach, or passed over by the choice of candidates, could be among the nearest."""
        if len(self._best) < self._limit:
            return False
        nearest = heapq.nlargest(self._limit, self._best.values())
        certain = nearest[-1][0] >= ranking.scores[reach - 1] + ranking.slack
        # Where very many rows are nearly as near, those that a byte cannot tell apart are as good as one another.
        certain = certain or reach > 8 * self._limit + 500
        ranks = np.flatnonzero(np.isin(ranking.slots, [slot for _, slot in nearest]))
        return certain and (len(ranks) == 0 or int(ranks[-1]) < ranking.trusted)

    def _wider(self, wide: int) -> int:
        missing = self._limit / max(1, len(self._best))
        return math.ceil(wide * min(16, max(2, 1.25 * missing)))


async def scored(owned: Sequence[tuple[int, str, bytes]], vector: Floats, run: Run) -> list[float]:
    """Return the inner product of the vector with each that the store gave."""

    def score() -> list[float]:
        found: list[float] = kernels.products(decoded([half for _, _, half in owned], len(vector)), vector).tolist()
        return found

    if len(owned) <= INLINE:
        return score()
    found: list[float] = await run(score)
    return found


def decoded(halves: Sequence[bytes], dimension: int) -> Floats:
    """Return the store's half floats as an array of shape (vectors, dimension)."""
    joined = np.frombuffer(b"".join(halves), "<f2")
    if joined.size != len(halves) * dimension:
        found = len(halves[0]) // 2
        raise Invalid(f"the store's vectors have {found} dimensions, the index was opened for {dimension}")
    return joined.reshape(-1, dimension).astype(np.float32)


def meant(query: Query) -> Query:
    """Return the query's meaning alone, without how its answer is paged through."""
    return dataclasses.replace(query, newest=False, after=None, limit=10**9)


class Matches:
    """The slots that matched a filter, remembered; never too few.

    What is remembered stays right, if generous: a version that matched can only fall away (superseded, ended, erased),
    and the store disposes of those; what matches newly is a newer version, with a newer slot. So a list is only ever
    extended from where it reached. The lists that were not asked for longest go when there are too many.
    """

    def __init__(self, store: Store, model: str, room: int = ROOM) -> None:
        self._store, self._model, self._room = store, model, room
        self._lists: OrderedDict[tuple[Any, ...], tuple[Slots, int]] = OrderedDict()
        self._holes: dict[int, int] = {}

    def remembers(self, query: Query, extent: Extent) -> bool:
        """Whether this filter was asked for before, and had to be answered from a list."""
        return _name(query, extent) in self._lists

    async def slots(self, query: Query, extent: Extent) -> Slots:
        """Return the slots, ascending, of at least what matches."""
        if self._holes.setdefault(extent.group, extent.holes) != extent.holes:
            self.forget(extent.group)
            self._holes[extent.group] = extent.holes
        name = _name(query, extent)
        slots, reach = self._lists.get(name, (np.zeros(0, np.int64), 0))
        if reach < extent.slots:
            slots = np.concatenate((slots, await self._since(query, reach, extent.slots)))
        self._keep(name, slots, max(reach, extent.slots))
        return slots

    async def _since(self, query: Query, start: int, stop: int) -> Slots:
        """Return what matches from one slot to another: a few slots are cheaper looked at than looked for."""
        if stop - start <= FEW:
            owned = await self._store.owners(query, self._model, range(start, stop))
            return np.array(sorted(slot for slot, _, _ in owned), np.int64)
        found = await self._store.slots(query, self._model, start=start)
        return found[found < stop]

    def _keep(self, name: tuple[Any, ...], slots: Slots, reach: int) -> None:
        self._lists[name] = slots, reach
        self._lists.move_to_end(name)
        taken = sum(kept.nbytes for kept, _ in self._lists.values())
        while taken > self._room or len(self._lists) > 256:
            taken -= self._lists.popitem(last=False)[1][0].nbytes

    def forget(self, group: int) -> None:
        for name in [name for name in self._lists if name[0] == group]:
            del self._lists[name]

    def clear(self) -> None:
        self._lists.clear()


def _name(query: Query, extent: Extent) -> tuple[Any, ...]:
    """Return what tells filters apart. That True is not 1 must be said: for Python they are equal."""
    return extent.group, query, *(type(value) is bool for _, value in query.metadata)


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
