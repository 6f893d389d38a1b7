"""Why a recall did not return a certain record: the first gate that it does not pass, from the scope to the limit."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import Unavailable
from ..query import Factor, Query
from ..record import NEVER, Record
from ..store import Store
from ..words import Counter, searched
from .means import Effort, Means
from .question import Question

if TYPE_CHECKING:
    from .gather import Pool

# What each reason says, in the order in which they are looked at.
SENTENCES = {
    "absent": "there is no record {id} in this scope: it was never there, was erased, or is somebody else's",
    "unknown": "it was not known then",
    "retracted": "it was retracted: it was never true",
    "not_yet": "it was not true yet then: it is true from {since:%Y-%m-%d %H:%M} on",
    "superseded": "it was superseded by {by}, which is true instead since {until:%Y-%m-%d %H:%M}",
    "ended": "it is true no longer: it ended at {until:%Y-%m-%d %H:%M}",
    "archived": "it is archived, and only what is not was asked for",
    "filtered": "it is left out by what was asked for: {named}",
    "unfound": "no way of finding brought it up: {likeness}",
    "irrelevant": "nothing speaks for it: {likeness}",
    "repeated": "it says the same as {by}, which is in place {place} and stands for it",
    "limit": "it is in place {place}, with a score of {score:.2f}, beyond the limit of {limit}",
    "min_relevance": "its score is {score:.2f}, in place {place}, below the relevance of {least:g} asked for",
    "returned": "it was returned, in place {place}, with a score of {score:.2f}",
}

# The arguments of a recall that leave records out, and what they are called in a Query.
FILTERS = {
    "shared": "shared",
    "kinds": "kinds",
    "labels": "labels",
    "folder": "folder",
    "outside": "outside",
    "since": "since",
    "until": "until",
    "pinned": "pinned",
    "importance_min": "importance_min",
    "metadata": "metadata",
    "sources": "sources",
    "conversation": "part_of",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why a record was not returned, or that it was. It prints as a sentence.

    `reason` is the first that holds of: "absent" (never there, erased or somebody else's: the answer is the same),
    "unknown" (at `known_at`), "retracted", "not_yet" (true only after `as_of`), "superseded", "ended", "archived",
    "filtered", "unfound" (no way of finding brought it up), "irrelevant" (something did, but nothing speaks for it),
    "repeated" (another hit says the same and stands for it), "limit", "min_relevance" and "returned".
    """

    id: str
    reason: str
    place: int | None = None  # among the different things that were found, from 1; of "repeated", of who stands for it
    score: float | None = None
    why: tuple[Factor, ...] = ()  # what its relevance is made of, as far as it was weighed
    by: str | None = None  # the id of what superseded it, or of the hit that stands for it
    filters: tuple[str, ...] = ()  # the arguments that leave it out
    words: float | None = None  # the share of the question's terms that it says, by rarity, in [0, 1]
    cosine: float | None = None  # of its meaning with the question's, where both are known
    since: datetime | None = None  # when it is true
    until: datetime | None = None
    limit: int = 0  # as asked for
    least: float = 0.0  # the min_relevance asked for
    notes: tuple[str, ...] = ()  # what fell back, and why

    @property
    def returned(self) -> bool:
        return self.reason == "returned"

    def __str__(self) -> str:
        """Return the reason as a sentence."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said = SENTENCES[self.reason].format(**values, named=", ".join(self.filters), likeness=self._likeness())
        return f"{said[0].upper()}{said[1:]}."

    def _likeness(self) -> str:
        words = f"it says {self.words or 0:.0%} of the question's words, by rarity"
        return words if self.cosine is None else f"{words}, and the cosine of their meanings is {self.cosine:.2f}"


async def missing(
    id: str,
    versions: Sequence[Record],
    question: Question,
    query: Query,
    means: Means,
    effort: Effort,
    least: float = 0.0,
) -> Missing:
    """Return why this record is not among the hits, of which there are at most `query.limit`.

    `versions` are all that the scope sees of it, the first one first.
    """
    from .gather import SAYING, gather  # here, because they need numpy, and a program that only writes does not

    if not versions:
        return Missing(id=id, reason="absent")
    if query.kinds is None:
        query = dataclasses.replace(query, kinds=SAYING)
    if gate := closed(query, versions, question.at):
        return await _superseded(gate, query, means.store) if gate.reason == "ended" else gate
    pool = await gather(question, query, means, effort)
    found = await asyncio.to_thread(placed, id, question, pool, query.limit, least)
    if found.reason not in ("unfound", "irrelevant"):
        return found
    said = said_of(question, pool, believed(query, versions) or versions[-1])
    return dataclasses.replace(found, words=said, cosine=await _cosine(id, query, means, pool))


def closed(query: Query, versions: Sequence[Record], at: datetime) -> Missing | None:
    """Return what keeps the record out before anything is looked for; None where it is one of those asked about.

    Its clocks come first: of what is no longer true nobody asks for the label. `at` is the present.
    """
    record = believed(query, versions)
    if record is None:
        return Missing(id=versions[0].id, reason="unknown")
    state = _state(query, record, at)
    if state is None and query.statuses is not None and record.status not in query.statuses:
        state = "archived"
    if state is not None:
        return Missing(id=record.id, reason=state, since=record.valid.since, until=record.valid.until)
    filters = left_out(query, record)
    return Missing(id=record.id, reason="filtered", filters=filters) if filters else None


def believed(query: Query, versions: Sequence[Record]) -> Record | None:
    """Return the version that the query looks at: the latest, or the one that was believed then."""
    if query.known_at is None:
        return versions[-1]
    return next((version for version in versions if version.known.holds(query.known_at)), None)


def _state(query: Query, record: Record, at: datetime) -> str | None:
    """Return why the record is not true when it is asked about; None where it is."""
    asked = query.valid_at
    if asked is None and (query.ended or not record.valid.ended(at)):
        return None
    if asked is not None and record.valid.holds(asked):
        return None
    if record.valid == NEVER:
        return "retracted"
    if asked is not None and record.valid.since is not None and asked < record.valid.since:
        return "not_yet"
    return "ended"


def left_out(query: Query, record: Record) -> tuple[str, ...]:
    """Return the arguments that leave the record out: each filter of the query by itself, as `Query.matches` has it."""
    opened: dict[str, Any] = {"statuses": None, "any_time": True}
    return tuple(
        name
        for name, field in FILTERS.items()
        if not Query(scope=query.scope, **opened, **{field: getattr(query, field)}).matches(record)
    )


async def _superseded(gate: Missing, query: Query, store: Store) -> Missing:
    """Return the same, with what is true instead where something is."""
    instead = Query(
        scope=query.scope, linked=("supersedes", frozenset({gate.id})), statuses=None, known_at=query.known_at,
        ended=True, limit=1,
    )  # fmt: skip
    for record in await store.find(instead):
        return dataclasses.replace(gate, reason="superseded", by=record.id)
    return gate


def placed(id: str, question: Question, pool: Pool, limit: int, least: float) -> Missing:
    """Return where the record is in the ranking of the pool, and so why it is not among the hits."""
    from .gather import saying
    from .rank import fuse, ranked
    from .signals import Evidence

    if id not in pool.candidates:
        return Missing(id=id, reason="unfound", notes=pool.notes)
    weighed = fuse(Evidence.of(question, pool))
    scores, first = dict[str, float](), dict[object, str]()  # the first of those that say the same
    for score, other, candidate in ranked(question, pool, weighed):
        scores[other] = score
        first.setdefault(saying(candidate.record), other)
    leader = first[saying(pool.candidates[id].record)]
    place = list(first.values()).index(leader) + 1
    reason = _place_says(id, leader, place, scores, limit, least)
    return Missing(
        id=id, reason=reason, place=place, score=scores[id], why=weighed.factors(id), limit=limit, least=least,
        by=leader if reason == "repeated" else None, notes=pool.notes + ((weighed.note,) if weighed.note else ()),
    )  # fmt: skip


def _place_says(id: str, leader: str, place: int, scores: dict[str, float], limit: int, least: float) -> str:
    if scores[id] <= 0:
        return "irrelevant"
    if place > limit:
        return "limit"
    if scores[leader] < least:
        return "min_relevance"
    return "returned" if leader == id else "repeated"


def said_of(question: Question, pool: Pool, record: Record) -> float:
    """Return the share of the question's terms, by rarity, that the record says with who and when."""
    from .signals import rarity

    counter, weights = Counter(question.terms), rarity(question.terms, pool)
    total = float(weights.sum())
    said = sum(float(weights[place]) for place, _ in counter.counts(searched(record)))
    return said / total if total else 0.0


async def _cosine(id: str, query: Query, means: Means, pool: Pool) -> float | None:
    if means.index is None or pool.asked is None:
        return None
    try:
        near = await means.index.near(dataclasses.replace(query, ids=frozenset({id}), limit=1), pool.asked.vector, 1)
    except Unavailable:  # then recall itself has gone by words alone, and said so
        return None
    return near[0][1] if near else None
