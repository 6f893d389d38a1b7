"""Puts the signals together: relevance first, then small bounded boosts, then one of each near-duplicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..query import Factor, Hit
from ..record import IMPORTANCE, Record
from .gather import Candidate, Pool, saying
from .question import Question
from .signals import SIGNALS, Evidence, Values, half_life

RECENCY, IMPORTANT, PIN = 0.04, 0.06, 0.04  # the most that each adds, as a share of the relevance
AT_HAND = 0.01  # the relevance of a pinned record that nothing speaks for: after everything that fits at all
ALIKE = 5  # how many times the limit is looked through for near-duplicates
DOUBT = 0.4  # the share of the score that does not depend on how well the best candidate fits at all


class Hits(list[Hit]):
    """Hits, best first. `notes` says what fell back, and why."""

    notes: tuple[str, ...] = ()

    def noting(self, *notes: str | None) -> Self:
        self.notes += tuple(note for note in notes if note)
        return self


def rank(question: Question, pool: Pool, limit: int, *, explain: bool = False) -> Hits:
    evidence = Evidence.of(question, pool)
    weighed = fuse(evidence)
    found = [
        (boosted(weighed.relevance(id), candidate.record, question), id, candidate)
        for id, candidate in evidence.candidates
    ]
    found.sort(key=lambda item: (-item[0], item[1]))
    hits = [
        Hit(
            record=leader.record,
            score=score,
            by=tuple(sorted(leader.by)),
            why=weighed.factors(id) if explain else (),
            title=pool.titles.get(leader.record.part_of or ""),
            also=also,
        )
        for score, id, leader, also in collapsed(found, limit)
    ]
    return Hits(hits).noting(*pool.notes)


@dataclass(frozen=True, slots=True)
class Weighed:
    """The signals that say anything for this question, each with the factor that turns its value into its share."""

    values: Mapping[str, Values]
    factor: Mapping[str, float]

    def relevance(self, id: str) -> float:
        """Return the sum of all shares, in [0, 1]."""
        return sum(factor * self.values[name].get(id, 0.0) for name, factor in self.factor.items())

    def factors(self, id: str) -> tuple[Factor, ...]:
        """Return what the relevance is made of, the largest share first."""
        parts = [Factor(name, self.values[name].get(id, 0.0), 0.0) for name in self.factor]
        shares = [replace(part, share=self.factor[part.name] * part.value) for part in parts if part.value > 0]
        return tuple(sorted(shares, key=lambda part: -part.share))


def fuse(evidence: Evidence) -> Weighed:
    """Weigh the signals. Those on a scale of their own are set to 1 for the best candidate, so the sum is relative (the
    best is near 1 even when nothing fits); therefore all is scaled by how well the best one fits in itself.
    """
    values = {name: signal(evidence) for name, (signal, _, _) in SIGNALS.items()}
    fit = DOUBT + (1 - DOUBT) * confidence(values)
    tops = {name: max(found.values(), default=0.0) for name, found in values.items()}
    heard = {name: SIGNALS[name][1] for name, top in tops.items() if top > 0}
    total = sum(heard.values()) or 1.0
    factor = {name: weight / total * fit / (tops[name] if SIGNALS[name][2] else 1.0) for name, weight in heard.items()}
    return Weighed(values, factor)


def confidence(values: dict[str, Values]) -> float:
    """Return how well the best candidate fits, by meaning or by words or letter for letter, in itself."""
    doubt = 1.0
    for name, full in (("near", 0.5), ("words", 0.5), ("exact", 1.0)):
        doubt *= 1 - min(1.0, max(values[name].values(), default=0.0) / full)
    return 1 - doubt


def boosted(relevance: float, record: Record, question: Question) -> float:
    """Return the relevance with at most 14 % added, so that no boost lifts what is irrelevant over what is relevant."""
    age = max(0.0, (question.at - record.at).total_seconds() / 86_400) if record.at else 0.0
    recency: float = 0.5 ** (age / half_life(record))
    importance = (record.importance - IMPORTANCE) / (10 - IMPORTANCE)
    relevance = max(relevance, AT_HAND if record.pinned else 0.0)
    return min(1.0, relevance * (1 + RECENCY * recency + IMPORTANT * max(-1.0, importance) + PIN * record.pinned))


def collapsed(
    found: Sequence[tuple[float, str, Candidate]], limit: int
) -> list[tuple[float, str, Candidate, tuple[str, ...]]]:
    """Return the first `limit` that say different things, each with the ids of those after it that say the same."""
    kept: dict[object, tuple[float, str, Candidate]] = {}
    also: dict[object, list[str]] = {}
    for place, (score, id, candidate) in enumerate(found):
        if score <= 0 or (len(kept) == limit and place >= limit * ALIKE):
            break
        said = saying(candidate.record)
        if said in kept:
            also[said].append(id)
        elif len(kept) < limit:
            kept[said], also[said] = (score, id, candidate), []
    return [(*first, tuple(also[said])) for said, first in kept.items()]
