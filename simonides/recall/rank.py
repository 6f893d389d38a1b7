"""Puts the signals together: relevance first, then small bounded boosts, then one of each near-duplicate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from .. import words as language
from ..query import Factor, Hit
from ..record import IMPORTANCE, Record
from .gather import Pool
from .question import Question
from .signals import SIGNALS, Evidence, Values, half_life

RECENCY, IMPORTANT, PIN = 0.04, 0.06, 0.04  # the most that each adds, as a share of the relevance
DOUBT = 0.4  # the share of the score that does not depend on how well the best candidate fits at all


class Hits(list[Hit]):
    """Hits, best first. `notes` says what fell back, and why."""

    notes: tuple[str, ...] = ()

    def noting(self, *notes: str | None) -> Self:
        self.notes += tuple(note for note in notes if note)
        return self


def rank(question: Question, pool: Pool, limit: int, *, explain: bool = False) -> Hits:
    evidence = Evidence.of(question, pool)
    relevance, factors = fuse(evidence)
    found = [
        (boosted(relevance[id], candidate.record, question), id, candidate) for id, candidate in evidence.candidates
    ]
    found.sort(key=lambda item: (-item[0], item[1]))
    hits = (
        Hit(
            record=candidate.record,
            score=score,
            by=tuple(sorted(candidate.by)),
            why=factors[id] if explain else (),
            title=pool.titles.get(candidate.record.part_of or ""),
        )
        for score, id, candidate in found
        if score > 0
    )
    return Hits(collapsed(hits, limit)).noting(*pool.notes)


def fuse(evidence: Evidence) -> tuple[Values, dict[str, tuple[Factor, ...]]]:
    """Return the relevance of each candidate in [0, 1], and of what it is made.

    A weighted sum of the signals that say anything at all for this question. The sum is relative (the best candidate is
    near 1 even when nothing fits), so it is scaled by how well the best one fits in itself.
    """
    values = {name: signal(evidence) for name, (signal, _, _) in SIGNALS.items()}
    fit = DOUBT + (1 - DOUBT) * confidence(values)
    tops = {name: max(found.values(), default=0.0) for name, found in values.items()}
    heard = {name: SIGNALS[name][1] for name, top in tops.items() if top > 0}
    total = sum(heard.values()) or 1.0
    relevance, factors = Values(), dict[str, tuple[Factor, ...]]()
    for id, _ in evidence.candidates:
        parts = []
        for name, weight in heard.items():
            value = values[name].get(id, 0.0)
            share = weight / total * fit * (value / tops[name] if SIGNALS[name][2] else value)
            parts.append(Factor(name, value, share))
        relevance[id] = sum(part.share for part in parts)
        factors[id] = tuple(sorted((p for p in parts if p.value > 0), key=lambda part: -part.share))
    return relevance, factors


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
    return min(1.0, relevance * (1 + RECENCY * recency + IMPORTANT * max(-1.0, importance) + PIN * record.pinned))


def collapsed(hits: Iterable[Hit], limit: int) -> list[Hit]:
    """Return the first `limit` hits, each standing for those after it that say the very same."""
    kept: dict[str, Hit] = {}
    for hit in hits:
        said = f"{hit.record.kind} {hit.record.body.who} {' '.join(language.fold(hit.text).split())}"
        if said in kept:
            first = kept[said]
            kept[said] = Hit(first.record, first.score, first.by, first.why, first.title, (*first.also, hit.record.id))
        elif len(kept) < limit:
            kept[said] = hit
    return list(kept.values())
