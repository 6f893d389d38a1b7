"""What may be put aside: proposes conversations and notes that are out of use, and says why.

Nothing is proposed that was said, recalled or changed its validity within the threshold, that is pinned, or that holds
something pinned. Of the rest, what matters little enough is proposed, what says the same as another, and what was
superseded, retracted or has ended. Each reason that speaks for it has a strength and a value in [0, 1]; the score is
how likely one of them is right, 1 − Π (1 − strength · value), so that more reasons never lower it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from . import words as language
from .kinds import Conversation
from .query import Factor, Place, Query
from .record import ACTIVE, IMPORTANCE, NEVER, Record, Scope
from .store import Store
from .versions import EVERYTHING, latest

KINDS = frozenset({"conversation", "note"})
DAYS, IMPORTANT, LIMIT = 30.0, 5.0, 100  # the thresholds where nobody says
STRENGTHS = {
    "superseded": 0.9, "retracted": 0.9, "ended": 0.7, "duplicate": 0.8, "age": 0.5, "unrecalled": 0.4,
    "unimportant": 0.4,
}  # fmt: skip
PREVIEW = 160  # characters
PAGE, TALKS = 1000, 50  # notes, and conversations with all that was said in them, that are read at a time
CHARACTERS = 4  # a token has about so many


@dataclass(frozen=True, slots=True, repr=False)
class Proposal:
    """Something that may be archived. `score` in [0, 1] says how much speaks for it, `why` what; their shares add up
    to it. It prints as a sentence.

    `said` is when it was last spoken in, `last_recalled` when anything of it was, `instead` the id of what says the
    same or superseded it. `messages` are its parts, `tokens` about how many there are in all of it.
    """

    record: Record
    score: float
    why: tuple[Factor, ...]
    at: datetime  # when it was proposed
    said: datetime
    last_recalled: datetime | None
    ended: datetime | None
    importance: int  # of the most important thing in it
    messages: int
    tokens: int
    preview: str
    instead: str | None = None

    @property
    def id(self) -> str:
        return self.record.id

    def __str__(self) -> str:
        told = "; ".join(self._tell(factor.name) for factor in self.why)
        return f"{told[:1].upper()}{told[1:]}."

    def __repr__(self) -> str:
        return f"<Proposal {self.score:.2f} {self.id} {self}>"

    def _tell(self, name: str) -> str:
        match name:
            case "superseded":
                return f"superseded by {self.instead} {self._ago(self.ended)}"
            case "duplicate":
                return f"says the same as {self.instead}"
            case "age":
                return f"last said {self._ago(self.said)}"
            case "unrecalled":
                return f"last recalled {self._ago(self.last_recalled)}" if self.last_recalled else "never recalled"
            case "unimportant":
                return f"of importance {self.importance}"
        return f"{name} {self._ago(self.ended)}"

    def _ago(self, then: datetime | None) -> str:
        days = max(0, (self.at - then).days) if then else 0
        return "today" if not days else "a day ago" if days == 1 else f"{days:,} days ago"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`days` nothing was said or recalled, and at most so important."""

    days: float = DAYS
    importance: float = IMPORTANT


@dataclass(frozen=True, slots=True)
class Whole:
    """What is known of a conversation or a note as a whole. `digest` is the same where the same is said."""

    id: str
    scope: Scope
    kind: str
    said: datetime
    ended: datetime | None
    retracted: bool
    importance: int
    pinned: bool
    messages: int
    characters: int
    preview: str
    digest: bytes | None
    recalled: datetime | None = None

    @property
    def name(self) -> tuple[Scope, str, bytes | None]:
        return dataclasses.replace(self.scope, session=None), self.kind, self.digest

    @property
    def worth(self) -> tuple[bool, int, datetime, str]:
        """Of those that say the same, the greatest stays."""
        return self.pinned, self.importance, self.said, self.id


def whole(record: Record, parts: Sequence[Record], at: datetime) -> Whole:
    """Sum up a conversation with its parts, in order; or a note, which has none."""
    everything = [record, *parts]
    said = [each.at for each in everything if each.at is not None]
    over = record.valid.ended(at)
    texts = [each.text for each in parts] if isinstance(record.body, Conversation) else [record.text]
    return Whole(
        id=record.id,
        scope=record.scope,
        kind=record.kind,
        said=max(said, default=at),
        ended=_ended(record) if over else None,
        retracted=record.valid == NEVER,
        importance=_importance(record, parts),
        pinned=any(each.pinned for each in everything),
        messages=len(parts),
        characters=sum(map(len, texts)),
        preview=" ".join((texts[0] if texts else record.text)[: PREVIEW * 2].split())[:PREVIEW],
        digest=None if over or not texts else _digest((each.body.who or "", each.text) for each in parts or [record]),
    )


def _ended(record: Record) -> datetime | None:
    """Return when it ended; of what a later version ended, no earlier than it was said to."""
    said = None if record.version == 1 else record.known.since
    return max(filter(None, (said, record.valid.until)), default=None)


def _importance(record: Record, parts: Sequence[Record]) -> int:
    """Return how important the whole is: of what is said of itself and of its most important part, the more; what
    nobody said anything of does not count.
    """
    said = {record.importance, max((part.importance for part in parts), default=IMPORTANCE)} - {IMPORTANCE}
    return max(said, default=IMPORTANCE)


def _digest(said: Iterable[tuple[str, str]]) -> bytes:
    """Return the same for what is said by the same in the same words, whatever their case, accents and punctuation."""
    made = hashlib.blake2b(digest_size=16)
    for who, text in said:
        folded = language.fold(text)
        plain = " ".join(re.findall(r"\w+", folded)) or folded
        made.update(f"{who}\x1e{plain}\x1f".encode("utf-8", "surrogatepass"))
    return made.digest()


def reasons(one: Whole, twin: str | None, superseded: bool, at: datetime, limits: Thresholds) -> dict[str, float]:
    """Return the value of each reason to put it aside; none where nothing is reason enough."""
    used = max(one.said, one.recalled or one.said, one.ended or one.said)
    if one.pinned or _days(used, at) < limits.days:
        return {}
    if not (one.ended or twin or one.importance <= limits.importance):
        return {}
    over = ("superseded" if superseded else "retracted" if one.retracted else "ended") if one.ended else None
    return {
        **({over: 1.0} if over else {}),
        **({"duplicate": 1.0} if twin else {}),
        "age": _grown(_days(one.said, at), limits.days),
        "unrecalled": _grown(_days(one.recalled, at), limits.days) if one.recalled else 1.0,
        **({"unimportant": (10 - one.importance) / 9} if one.importance <= limits.importance else {}),
    }


def weighed(values: Mapping[str, float]) -> tuple[float, tuple[Factor, ...]]:
    """Return the score, and what each reason added to it, the largest share first."""
    parts = {name: -math.log1p(-STRENGTHS[name] * value) for name, value in values.items()}
    total = math.fsum(parts.values())
    score = -math.expm1(-total)
    why = [Factor(name, values[name], score * part / total) for name, part in parts.items() if part > 0]
    return score, tuple(sorted(why, key=lambda factor: (-factor.share, factor.name)))


def _days(then: datetime, at: datetime) -> float:
    return max(0.0, (at - then) / timedelta(days=1))


def _grown(days: float, half: float) -> float:
    """Return 0 for what is new, 1/2 after so many days, and 1 in the end."""
    return 1.0 if half <= 0 else 1 - 0.5 ** (days / half)


# -- from a store -------------------------------------------------------------------------------------------------


async def propose(store: Store, query: Query, limits: Thresholds, at: datetime) -> list[Proposal]:
    """Return what may be archived of what the query means, what most speaks for first; at most `query.limit`.

    Only what bears the very names of the scope is meant: what others share with it stays.
    """
    found, kept = await _looked_over(store, query, limits, at)
    successors = await _successors(store, query.scope, [one.id for one in found if one.ended])
    scored = list[tuple[float, str, tuple[Factor, ...], Whole, str | None]]()
    for one in found:
        first = kept.get(one.name)
        twin = first.id if one.digest and first and first.id != one.id else None
        values = reasons(one, twin, one.id in successors, at, limits)
        if values and (weight := weighed(values))[1]:
            scored.append((-weight[0], one.id, weight[1], one, successors.get(one.id, twin)))
    best = heapq.nsmallest(query.limit, scored, key=lambda item: item[:2])
    records = {record.id: record for record in await store.find(latest(query.scope, [item[1] for item in best]))}
    return [
        Proposal(
            record=records[id], score=-score, why=why, at=at, said=one.said, last_recalled=one.recalled,
            ended=one.ended, importance=one.importance, messages=one.messages,
            tokens=-(-one.characters // CHARACTERS), preview=one.preview, instead=instead,
        )
        for score, id, why, one, instead in best if id in records
    ]  # fmt: skip


async def _looked_over(
    store: Store, query: Query, limits: Thresholds, at: datetime
) -> tuple[list[Whole], dict[tuple[Scope, str, bytes | None], Whole]]:
    """Return what was last said long ago, and of all that says the same the one that stays."""
    cutoff = at - timedelta(days=limits.days)
    found, kept = list[Whole](), dict[tuple[Scope, str, bytes | None], Whole]()
    async for page in _wholes(store, query, cutoff, at):
        for one in page:
            if one.digest and (one.name not in kept or kept[one.name].worth < one.worth):
                kept[one.name] = one
        found += [one for one in page if one.said <= cutoff and not one.pinned]
    return found, kept


async def _wholes(store: Store, query: Query, cutoff: datetime, at: datetime) -> AsyncIterator[list[Whole]]:
    """Yield notes of any age, as a newer one may say the same, and conversations that began long ago."""
    kinds = query.kinds or KINDS
    mine = dataclasses.replace(query, shared=False, statuses=frozenset({ACTIVE}), ended=True, after=None)
    if "note" in kinds:
        async for page in _pages(store, dataclasses.replace(mine, kinds=frozenset({"note"}), limit=PAGE)):
            recalled = await store.recalls(query.scope, [record.id for record in page])
            notes = (whole(record, (), at) for record in page if record.part_of is None)
            yield [dataclasses.replace(one, recalled=recalled.get(one.id)) for one in notes]
    if "conversation" in kinds:
        until = min(cutoff + timedelta(microseconds=1), query.until or cutoff + timedelta(microseconds=1))
        old = dataclasses.replace(mine, kinds=frozenset({"conversation"}), until=until, limit=TALKS)
        async for page in _pages(store, old):
            yield await _talks(store, query.scope, page, at)


async def _pages(store: Store, query: Query) -> AsyncIterator[list[Record]]:
    while page := await store.find(query):
        yield page
        query = dataclasses.replace(query, after=Place.of(page[-1]))


async def _talks(store: Store, scope: Scope, talks: Sequence[Record], at: datetime) -> list[Whole]:
    ids = frozenset(record.id for record in talks)
    parts: dict[str, list[Record]] = {id: [] for id in ids}
    everything = Query(scope=scope, part_of=ids, statuses=None, ended=True, newest=True, limit=EVERYTHING)
    for part in reversed(await store.find(everything)):
        parts[str(part.part_of)].append(part)
    recalled = await store.recalls(scope, [*ids, *(part.id for some in parts.values() for part in some)])

    def last(record: Record) -> datetime | None:
        there = (recalled.get(id) for id in (record.id, *(part.id for part in parts[record.id])))
        return max((then for then in there if then), default=None)

    return [dataclasses.replace(whole(record, parts[record.id], at), recalled=last(record)) for record in talks]


async def _successors(store: Store, scope: Scope, ids: Sequence[str]) -> dict[str, str]:
    """Return, for those of the ids that were superseded, the id of what superseded each."""
    wanted, found = set(ids), dict[str, str]()
    for start in range(0, len(ids), PAGE):
        some = frozenset(ids[start : start + PAGE])
        heirs = Query(scope=scope, linked=("supersedes", some), statuses=None, ended=True, limit=EVERYTHING)
        for record in await store.find(heirs):
            found |= {id: record.id for id in record.targets("supersedes") if id in wanted}
    return found
