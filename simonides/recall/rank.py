"""Puts the signals together: relevance first, then small bounded boosts, then one of each near-duplicate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kinds import Message
from ..query import Factor, Hit
from ..record import IMPORTANCE, Record
from .gather import Candidate, Pool, saying
from .means import Hits
from .question import Question
from .signals import ABOUT, MANNER, SIGNALS, Evidence, half_life, late, near, voices
from .weights import COMPANY, Model, fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECENCY, IMPORTANT, PIN = 0.04, 0.06, 0.04  # the most that each adds, as a share of the relevance
AT_HAND = 0.01  # the relevance of a pinned record that nothing speaks for: after everything that fits at all
NOTHING = (0.0,) * len(COMPANY)
DIALOGUE = 4  # parts from which a question is a whole dialogue
LEAD = 3.0  # see `lead`
DECIMALS = 4  # of a sum; beyond them is only in what order numbers were added, which depends on where they lay
ALIKE = 5  # how many times the limit is looked through for near-duplicates


def rank(question: Question, pool: Pool, limit: int, *, explain: bool = False, least: float = 0.0) -> Hits:
    """Return the best of the pool: at most `limit`, none whose score is below `least`."""
    if not pool.candidates:
        return Hits().noting(*pool.notes)
    weighed = fuse(Evidence.of(question, pool))
    found = ranked(question, pool, weighed)
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
        if score >= least
    ]
    return Hits(hits).noting(*pool.notes, weighed.note)


def ranked(question: Question, pool: Pool, weighed: Weighed) -> list[tuple[float, str, Candidate]]:
    """Return (score, id, candidate), best first."""
    found = [
        (boosted(relevance, pool.candidates[id].record, question), id, pool.candidates[id])
        for id, relevance in zip(weighed.ids, weighed.relevance.tolist(), strict=True)
    ]
    found.sort(key=lambda item: (-item[0], item[1]))
    return found


@dataclass(frozen=True, slots=True)
class Weighed:
    """The candidates' values by signal, each scaled, and what they come to."""

    ids: list[str]
    names: tuple[str, ...]
    values: NDArray[np.float32]  # (candidates, signals)
    weights: NDArray[np.float32]  # of the signals, for this company
    relevance: NDArray[np.float32]
    note: str | None

    def factors(self, id: str) -> tuple[Factor, ...]:
        """Return what the relevance is made of, the largest share first; the shares add up to it."""
        place = self.ids.index(id)
        parts = self.values[place] * self.weights
        total, relevance = float(parts.sum()) or 1.0, float(self.relevance[place])
        named = zip(self.names, self.values[place].tolist(), parts.tolist(), strict=True)
        shares = [Factor(name, value, relevance * part / total) for name, value, part in named if part > 0]
        return tuple(sorted(shares, key=lambda factor: -factor.share))


def fuse(evidence: Evidence) -> Weighed:
    """Weigh the signals, and turn their sum into a relevance: how likely this is what was asked for.

    The sum says how a candidate compares with the others of this question. How well the best one fits at all is told by
    what it is in itself, and the others' relevance is below it by as much as their sums are.
    """
    weights, note = fitted()
    model = weights.late if evidence.looked.any() else weights.plain
    names, values = valued(evidence)
    mine = np.array([model.weights.get(name, NOTHING) for name in names], np.float32) @ company(evidence)
    sums = (values @ mine).round(DECIMALS)
    relevance = _logistic(level(evidence, model, sums) + model.scale * (sums - sums.max(initial=0)))
    speaks = (values * mine > 0).any(axis=1)
    return Weighed(evidence.ids, names, values, mine, np.where(speaks, relevance, 0), note)


def valued(evidence: Evidence) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return the names of the signals, and the candidates' values by them, scaled where a signal is relative.

    Who says a thing and how counts only as far as the thing has to do with the question: nothing is found for being
    long.
    """
    found = [
        _scaled(signal(evidence)) if relative else np.asarray(signal(evidence), np.float32)
        for signal, relative in SIGNALS.values()
    ]
    names, values = tuple(SIGNALS), np.stack(found, axis=1)
    manner = np.array([name in MANNER for name in names])
    values[:, manner] *= _about(names, values, evidence.looked)[:, None]
    return names, values


def _about(names: Sequence[str], values: NDArray[np.float32], looked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how far each candidate is about what is asked: as far as the signal says that can say most."""
    known, unknown = np.array([ABOUT[name] for name in names], np.float32).T
    about: NDArray[np.float32] = np.where(looked[:, None], values * known, values * unknown).max(axis=1)
    return about


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    scaled: NDArray[np.float32] = (values - low) / (high - low) if high > low else np.sign(values)
    return scaled


def company(evidence: Evidence) -> NDArray[np.float32]:
    """Return how much of the pool is of each kind of company, in the order of COMPANY; together 1."""
    alone = "notes" if len(evidence.question.parts) < DIALOGUE else "dialogue"
    shares = dict.fromkeys(COMPANY, 0)
    helped = {
        record.part_of
        for record in evidence.records
        if isinstance(record.body, Message) and record.body.role == "assistant"
    }
    for record in evidence.records:
        said = isinstance(record.body, Message) and record.part_of is not None
        shares[("chat" if record.part_of in helped else "talk") if said else alone] += 1
    return np.array([shares[name] / len(evidence.records) for name in COMPANY], np.float32)


def level(evidence: Evidence, model: Model, sums: NDArray[np.float32]) -> float:
    """Return how well the best candidate fits at all, in logits."""
    fits = [1.0, *fit(evidence)[int(sums.argmax())], lead(sums, voices(evidence))]
    return float(np.dot(model.level, fits))


def fit(evidence: Evidence) -> NDArray[np.float32]:
    """Return how well each candidate fits in itself: (candidates, 2), by its tokens and by its meaning."""
    return np.stack([late(evidence), near(evidence)], axis=1).astype(np.float32)


def lead(sums: NDArray[np.floating[Any]], voices: NDArray[np.int8]) -> float:
    """Return by how much the best of what the one says whom the question names falls short of leading the best of what
    others say, at most 0.

    Sums are logits, so LEAD is twenty times as likely. What fits as well when another says it is taken from him: of
    the one who is named it may be asked in vain. 0 where nobody is named, or nobody else speaks.
    """
    theirs, others = sums[voices > 0], sums[voices < 0]
    return min(0.0, float(theirs.max() - others.max()) - LEAD) if len(theirs) and len(others) else 0.0


def _logistic(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), np.float32)


def boosted(relevance: float, record: Record, question: Question) -> float:
    """Return the relevance with its odds raised by at most 14 %, so that no boost lifts what is irrelevant over what is
    relevant.
    """
    at = record.at
    age = max(0.0, (question.at - at).total_seconds() / 86_400) if at else 0.0
    recency: float = 0.5 ** (age / half_life(record))
    importance = (record.importance - IMPORTANCE) / (10 - IMPORTANCE)
    relevance = max(relevance, AT_HAND if record.pinned else 0.0)
    boost = RECENCY * recency + IMPORTANT * max(-1.0, importance) + PIN * record.pinned
    return relevance * (1 + boost) / (1 + relevance * boost)


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
