"""How an index that proposes finds: it ranks slots, and the store says which of the best are meant.

What is answered was given by the store for this query, with the vector it keeps; so an index that is behind or damaged
can cost a hit its place, but never bring one up that does not match. What an index ranks, and how, is its own: it hands
`Search.through` a function that returns the best slots, as far down as it is asked.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Invalid
from ..query import Query
from ..record import Record, Scope
from ..store import Extent, Store
from . import kernels
from .kernels import Floats, Slots

DROPPED = 1 / 10  # share of the best rows that may be superseded, ended or archived without a second trip to the store
PASSING = 1 / 8  # share of the best rows that must match for a filter to be answered by looking further down
OWNERS = 4096  # slots that the store is asked about at once
FEW = 256  # new slots that are each looked at, when a list is extended
SPARE = 1 / 5  # of what is wanted, asked for beyond it, because some of it may not match now…
SPARE_LEAST = 12  # …and at least so many
CHECKED = 1024  # vectors that are compared with the store at once
INLINE = 256  # vectors that are scored without a trip to a worker
REMEDY = "run `simonides rebuild`"  # what mends whatever an index complains of
NAMES = 256  # filters that are remembered
ROOM = 64 * 1024 * 1024  # bytes of slots that are remembered for filters, and of vectors that are held

Run = Callable[..., Awaitable[Any]]


def checked(vector: Floats, model: str, dimension: int) -> Floats:
    """Return the vector that is asked for; raise Invalid where it is not of the model."""
    vector = np.ascontiguousarray(vector, np.float32)
    if vector.shape != (dimension,):
        raise Invalid(f"a vector of shape {vector.shape} was given; {model} has {dimension} dimensions")
    return vector


def meant(query: Query) -> Query:
    """Return the query's meaning alone, without how its answer is paged through."""
    return dataclasses.replace(query, newest=False, after=None, limit=10**9)


def everything(scope: Scope) -> Query:
    """Return the query for every version in the scope's realm."""
    return Query(scope=Scope(tenant=scope.tenant, space=scope.space), statuses=None, any_time=True, limit=10**9)


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


Rank = Callable[[int], Awaitable[Ranking]]  # somewhat more than so many of the best
Proposed = tuple[Slots, Floats, bool]  # slots and their scores, best first, and whether there are no more of them
Propose = Callable[[int, Slots | None], Awaitable[Proposed]]  # so many, of all rows or of those in these slots


@dataclass(frozen=True, slots=True)
class _Best:
    """The best score of a record's vectors, and that vector's slot."""

    score: float
    slot: int
    record: Record


class Search:
    """One question: what the store has said of the rows that were proposed so far, and whether that is the answer."""

    def __init__(self, store: Store, model: str, query: Query, vector: Floats, limit: int, run: Run) -> None:
        self._store, self._model, self._query, self._run = store, model, query, run
        self._vector, self._limit = vector, limit
        self._seen = set[int]()
        self._passed = 0  # vectors seen that match
        self._best: dict[str, _Best] = {}  # by the record's id

    def answer(self) -> list[tuple[Record, float]]:
        found = sorted(self._best.values(), key=lambda best: (-best.score, best.record.id))
        return [(best.record, min(1.0, max(-1.0, best.score))) for best in found[: self._limit]]

    async def through(self, rank: Rank, *, patient: bool) -> bool:
        """Look further and further down until the answer is found, or nothing is left.

        The impatient give up, and return False, where so few match that they had better be asked for directly.
        """
        wide = self._limit
        while True:
            ranking = await rank(wide)
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
            for (slot, record, _), score in zip(owned, scores, strict=True):
                if record.id not in self._best or score > self._best[record.id].score:
                    self._best[record.id] = _Best(score, slot, record)

    def _further(self, ranking: Ranking) -> int:
        """Return up to which rank a row could still be among the nearest, and the first that could not."""
        if len(self._best) < self._limit:
            return len(ranking.slots)
        last = self._nearest()[-1].score
        return min(len(ranking.slots), int(np.count_nonzero(ranking.scores + ranking.slack > last)) + 1)

    def _is_settled(self, ranking: Ranking, reach: int) -> bool:
        """Whether no row beyond that reach, or passed over by the choice of candidates, could be among the nearest."""
        if len(self._best) < self._limit:
            return False
        nearest = self._nearest()
        certain = nearest[-1].score >= ranking.scores[reach - 1] + ranking.slack
        # Where very many rows are nearly as near, those that a byte cannot tell apart are as good as one another.
        certain = certain or reach > 8 * self._limit + 500
        return certain and {best.slot for best in nearest}.isdisjoint(ranking.slots[ranking.trusted :].tolist())

    def _nearest(self) -> list[_Best]:
        return heapq.nlargest(self._limit, self._best.values(), key=lambda best: best.score)

    def _wider(self, wide: int) -> int:
        missing = self._limit / max(1, len(self._best))
        return math.ceil(wide * min(16, max(2, 1.25 * missing)))


class Joined:
    """The rows that an index keeps somewhere else, and beyond those the vectors held in memory, ranked together.

    `filled` is the first slot that is held in memory; `slack` how far the scores of either may be off.
    """

    def __init__(self, propose: Propose, filled: int, held: Floats, vector: Floats, slack: float) -> None:
        self._propose, self._filled, self._held, self._vector, self._slack = propose, filled, held, vector, slack

    async def nearest(self, wide: int) -> Ranking:
        found = await self._propose(counted(wide), None) if self._filled else NOTHING
        return self._merged(found, None)

    def among(self, slots: Slots) -> Rank:
        """Return what ranks these slots alone."""
        rows, held = slots[slots < self._filled], slots[slots >= self._filled] - self._filled

        async def rank(wide: int) -> Ranking:
            found = await self._propose(counted(wide), rows) if len(rows) else NOTHING
            return self._merged(found, held[held < len(self._held)])

        return rank

    def _merged(self, found: Proposed, at: Slots | None) -> Ranking:
        """Rank both; what is held counts as far down as the rows were looked at."""
        slots, scores, complete = found
        held = (np.arange(len(self._held)) if at is None else at) + self._filled
        near = kernels.products(self._held, self._vector, at)
        if not complete:
            held, near = held[near >= scores[-1]], near[near >= scores[-1]]
        ours = slots < self._filled  # what another process has written since is held here
        both, values = np.concatenate((slots[ours], held)), np.concatenate((scores[ours], near))
        order = np.argsort(-values, kind="stable")
        return Ranking(both[order], values[order], self._slack, len(both), complete)


NOTHING: Proposed = (np.zeros(0, np.int64), np.zeros(0, np.float32), True)


async def nothing(count: int, among: Slots | None) -> Proposed:
    """Propose nothing, where all is held in memory."""
    return NOTHING


def counted(wide: int) -> int:
    """Return how many rows to ask for where so many are wanted: some may not match now. It is one of a few sizes,
    because a question of each size may have a statement that is kept.
    """
    wanted = wide + max(SPARE_LEAST, math.ceil(wide * SPARE))
    step = 1 << max(0, wanted.bit_length() - 4)
    return -(-wanted // step) * step


async def answered(search: Search, rows: Joined, query: Query, extent: Extent, matches: Matches, most: int) -> None:
    """Find the answer: from the nearest rows, or where few of them match, from the slots of what does, up to `most`."""
    if query.ids is not None:
        await search.through(rows.among(await matches.named(query)), patient=True)
    elif matches.remembers(query, extent) or not await search.through(rows.nearest, patient=False):
        few = await matches.few(query, extent, most)
        await search.through(rows.nearest if few is None else rows.among(few), patient=True)


async def made_again(
    store: Store,
    model: str,
    small: int,
    remove: Callable[[Scope], Awaitable[None]],
    catch_up: Callable[[Scope], Awaitable[None]],
) -> int:
    """Remove what an index keeps of each realm, and make it anew where it is not small; return how many vectors there
    are.
    """
    count = 0
    for scope in await store.realms():
        extent = await store.extent(scope, model)
        await remove(scope)
        if extent.slots > small:
            await catch_up(scope)
        count += extent.slots - extent.holes
    return count


async def differing(
    store: Store, model: str, scope: Scope, filled: int, kept: Callable[[range], Awaitable[Mapping[int, bytes]]]
) -> tuple[int, int]:
    """Return how many of the store's vectors up to that slot an index keeps otherwise, and how many it keeps that the
    store no longer has.
    """
    wrong = left = 0
    for start in range(0, filled, CHECKED):
        span = range(start, min(filled, start + CHECKED))
        found = await store.vectors(scope, model, start=start, limit=CHECKED)
        true = {slot: half for slot, half in found if slot in span}
        there = await kept(span)
        wrong += sum(there.get(slot) != half for slot, half in true.items())
        left += len(there.keys() - true.keys())
    return wrong, left


async def scored(owned: Sequence[tuple[int, Record, bytes]], vector: Floats, run: Run) -> list[float]:
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


@dataclass(frozen=True, slots=True)
class _Part:
    """A group's vectors from a slot on, as far as they were read; holes are zeros."""

    group: int
    start: int
    vectors: Floats
    holes: int


class Held:
    """Vectors in memory as the store keeps them: of groups that are small, or what an index has not taken in yet.

    What was asked for longest ago makes room.
    """

    def __init__(self, store: Store, model: str, dimension: int, run: Run, room: int = ROOM) -> None:
        self._store, self._model, self._dimension, self._run, self._room = store, model, dimension, run, room
        self._parts: OrderedDict[tuple[str, str], _Part] = OrderedDict()

    def __contains__(self, scope: Scope) -> bool:
        return scope.realm in self._parts

    async def vectors(self, scope: Scope, extent: Extent, start: int = 0) -> Floats:
        """Return the vectors from that slot up to the extent at least, shape (slots, dimension)."""
        known = self._parts.get(scope.realm)
        if known is None or known.group != extent.group or start < known.start:
            known = _Part(extent.group, start, np.zeros((0, self._dimension), np.float32), extent.holes)
        if known.start < start:
            known = dataclasses.replace(known, start=start, vectors=known.vectors[start - known.start :].copy())
        if known.start + len(known.vectors) < extent.slots or known.holes < extent.holes:
            known = await self._extended(known, scope, extent)
        self._parts[scope.realm] = known
        self._parts.move_to_end(scope.realm)
        while len(self._parts) > 1 and sum(one.vectors.nbytes for one in self._parts.values()) > self._room:
            self._parts.popitem(last=False)
        return known.vectors

    async def _extended(self, known: _Part, scope: Scope, extent: Extent) -> _Part:
        first, reach = known.start, known.start + len(known.vectors)
        slots = max(reach, extent.slots)
        new = await self._store.vectors(scope, self._model, start=reach, limit=slots - reach) if slots > reach else []
        gone = await self._store.holes(scope, self._model, after=known.holes)
        new = [(slot, half) for slot, half in new if slot < slots]

        def extend() -> Floats:
            vectors = np.zeros((slots - first, self._dimension), np.float32)
            vectors[: reach - first] = known.vectors
            vectors[[slot - first for slot, _ in new]] = decoded([half for _, half in new], self._dimension)
            for kept in (vectors, known.vectors):  # what was erased is not left lying in the old one either
                kept[[slot - first for slot in gone if first <= slot < first + len(kept)]] = 0
            return vectors

        return _Part(known.group, first, await self._run(extend), known.holes + len(gone))

    def forget(self, scope: Scope) -> None:
        self._parts.pop(scope.realm, None)

    def clear(self) -> None:
        self._parts.clear()


class Matches:
    """The slots that matched a filter, remembered; never too few.

    What is remembered stays right, if generous: a version that matched can only fall away (superseded, ended, erased),
    and the store disposes of those; what matches newly is a newer version, with a newer slot. So a list is only ever
    extended from where it reached. The lists that were not asked for longest go when there are too many.
    """

    def __init__(self, store: Store, model: str, room: int = ROOM) -> None:
        self._store, self._model, self._room = store, model, room
        self._lists: OrderedDict[tuple[Any, ...], tuple[Slots, int]] = OrderedDict()
        self._many: OrderedDict[tuple[Any, ...], None] = OrderedDict()  # filters that more matched than were few
        self._holes: dict[int, int] = {}

    async def named(self, query: Query) -> Slots:
        """Return the slots of what a query for certain ids matches, which is not worth remembering."""
        return await self._store.slots(query, self._model)

    def remembers(self, query: Query, extent: Extent) -> bool:
        """Whether this filter was asked for before, and had to be answered from a list."""
        return _name(query, extent) in self._lists

    async def slots(self, query: Query, extent: Extent) -> Slots:
        """Return the slots, ascending, of at least what matches."""
        slots = await self.few(query, extent, None)
        assert slots is not None, "without a bound, all are few"
        return slots

    async def few(self, query: Query, extent: Extent, most: int | None) -> Slots | None:
        """Return the same, or None where more than `most` match: a filter that lets many through stays one."""
        if self._holes.setdefault(extent.group, extent.holes) != extent.holes:
            self.forget(extent.group)
            self._holes[extent.group] = extent.holes
        name = _name(query, extent)
        if most is not None and name in self._many:
            return None
        slots, reach = self._lists.get(name, (np.zeros(0, np.int64), 0))
        if reach < extent.slots:
            left = None if most is None else most + 1 - len(slots)
            slots = np.concatenate((slots, await self._since(query, reach, extent.slots, left)))
        if most is not None and len(slots) > most:
            self._lists.pop(name, None)
            self._many[name] = None
            if len(self._many) > NAMES:
                self._many.popitem(last=False)
            return None
        self._keep(name, slots, max(reach, extent.slots))
        return slots

    async def _since(self, query: Query, start: int, stop: int, limit: int | None) -> Slots:
        """Return what matches from one slot to another: a few slots are cheaper looked at than looked for."""
        if stop - start <= FEW:
            owned = await self._store.owners(query, self._model, range(start, stop))
            return np.array(sorted(slot for slot, _, _ in owned), np.int64)
        found = await self._store.slots(query, self._model, start=start, limit=limit)
        return found[found < stop]

    def _keep(self, name: tuple[Any, ...], slots: Slots, reach: int) -> None:
        self._lists[name] = slots, reach
        self._lists.move_to_end(name)
        taken = sum(kept.nbytes for kept, _ in self._lists.values())
        while taken > self._room or len(self._lists) > NAMES:
            taken -= self._lists.popitem(last=False)[1][0].nbytes

    def forget(self, group: int) -> None:
        for name in [name for name in self._lists if name[0] == group]:
            del self._lists[name]
        for name in [name for name in self._many if name[0] == group]:
            del self._many[name]

    def clear(self) -> None:
        self._lists.clear()
        self._many.clear()


def _name(query: Query, extent: Extent) -> tuple[Any, ...]:
    """Return what tells filters apart. That True is not 1 must be said: for Python they are equal."""
    return extent.group, query, *(type(value) is bool for _, value in query.metadata)
