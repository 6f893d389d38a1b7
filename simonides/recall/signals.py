"""What speaks for a candidate: one small pure function a signal, from the pool to a value in [0, 1] for each id.

A signal that says nothing of a candidate leaves it out. To add one, write it and name it in SIGNALS with its weight;
`fuse` does the rest, and `explain` shows it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import words as language
from ..kinds import Message
from ..record import Record
from .gather import Candidate, Pool, holds_literal
from .question import Question

K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)
NEIGHBOUR = 0.85  # what a word in the turn before or after counts, against one in the turn itself
LETTERS, HEADING = 5.5, 6  # characters a word takes, and the words of who and when
NONE: Mapping[str, int] = {}
AFTER_DAYS = 10  # what happened in a span of time is also spoken of a little later

Values = dict[str, float]
Signal = Callable[["Evidence"], Values]


@dataclass(slots=True)
class Evidence:
    """The pool with its texts made into terms once, for all signals."""

    question: Question
    pool: Pool
    counts: dict[str, Mapping[str, int]]  # of the question's terms in each candidate and turn
    lengths: dict[str, float]  # in words, about
    idf: Mapping[str, float]
    place: dict[str, tuple[str, int]]  # where a turn stands: its conversation, and which turn of it

    @classmethod
    def of(cls, question: Question, pool: Pool) -> Evidence:
        records = {candidate.record.id: candidate.record for candidate in pool.candidates.values()}
        place = {turn.id: (whole, n) for whole, talk in pool.talks.items() for n, turn in enumerate(talk)}
        records |= {turn.id: turn for talk in pool.talks.values() for turn in talk}
        wanted, traces = frozenset(question.terms), language.traces(question.terms)
        counts = {id: counted(record, wanted, traces) for id, record in records.items()}
        lengths = {id: len(record.text) / LETTERS + HEADING for id, record in records.items()}
        return cls(question, pool, counts, lengths, rarity(question.terms, pool), place)

    @property
    def candidates(self) -> Iterable[tuple[str, Candidate]]:
        return self.pool.candidates.items()

    def beside(self, id: str) -> list[str]:
        """Return the ids of the turns before and after."""
        if id not in self.place:
            return []
        whole, n = self.place[id]
        talk = self.pool.talks[whole]
        return [talk[at].id for at in (n - 1, n + 1) if 0 <= at < len(talk)]

    def bm25(self, counts: Mapping[str, float], length: float, typical: float) -> float:
        """Return Okapi BM25 as a share of what a text that says every term without end would get."""
        if not counts:
            return 0.0
        most = sum(self.idf.values()) * (K1 + 1)
        norm = K1 * (1 - B + B * length / max(typical, 1.0))
        found = sum(self.idf[term] * n * (K1 + 1) / (n + norm) for term, n in counts.items())
        return found / most if most else 0.0

    @property
    def typical(self) -> float:
        return sum(self.lengths.values()) / max(len(self.lengths), 1)


def counted(record: Record, wanted: frozenset[str], traces: Sequence[str]) -> Mapping[str, int]:
    """Return how often the text, with who and when, says each of the terms; most texts say none."""
    text = language.searched(record)
    folded = language.fold(text)
    if not any(trace in folded for trace in traces):
        return NONE
    return Counter(term for term in language.terms(text) if term in wanted)


def rarity(terms: Sequence[str], pool: Pool) -> dict[str, float]:
    """Return each term's inverse document frequency in its realm; one that is nowhere weighs as one that is once."""
    versions, often = max(pool.versions, 1), pool.frequencies
    return {term: idf(max(often.get(term, 1), 1), versions) for term in terms}


def idf(frequency: int, versions: int) -> float:
    """Return Lucene's form of the inverse document frequency, which is never negative."""
    return math.log(1 + max(0.0, versions - frequency + 0.5) / (frequency + 0.5))


def near(evidence: Evidence) -> Values:
    """Meaning: the cosine, above what unrelated texts have."""
    floor = evidence.pool.unrelated
    return {
        id: min(1.0, max(0.0, (c.cosine - floor) / (1 - floor)))
        for id, c in evidence.candidates
        if c.cosine is not None and floor < 1
    }


def words(evidence: Evidence) -> Values:
    """The question's words in the text, with who and when."""
    typical = evidence.typical
    return {id: evidence.bm25(evidence.counts[id], evidence.lengths[id], typical) for id, _ in evidence.candidates}


def passage(evidence: Evidence) -> Values:
    """The question's words in the turn together with the turns around it."""
    typical, found = evidence.typical, Values()
    for id, _ in evidence.candidates:
        around = evidence.beside(id)
        merged: dict[str, float] = dict(evidence.counts[id])
        for other in around:
            for term, n in evidence.counts[other].items():
                merged[term] = merged.get(term, 0.0) + NEIGHBOUR * n
        length = evidence.lengths[id] + sum(evidence.lengths[other] for other in around)
        found[id] = evidence.bm25(merged, length, typical * (1 + len(around)))
    return found


def beside(evidence: Evidence) -> Values:
    """Meaning of the turns before and after: an answer is close to its question. Who stands alone speaks for itself."""
    own = near(evidence)
    return {
        id: sum(own.get(other, 0.0) for other in around) / 2 if (around := evidence.beside(id)) else own.get(id, 0.0)
        for id, _ in evidence.candidates
    }


def session_near(evidence: Evidence) -> Values:
    """The nearest turn of the conversation speaks for all its turns."""
    return _shared(evidence, near(evidence))


def session_words(evidence: Evidence) -> Values:
    """How many of the question's words, by rarity, the conversation says anywhere."""
    total = sum(evidence.idf.values()) or 1.0
    said = Values()
    for whole, talk in evidence.pool.talks.items():
        heard = {term for turn in talk for term in evidence.counts[turn.id]}
        said[whole] = sum(evidence.idf[term] for term in heard) / total
    alone = {id: sum(evidence.idf[term] for term in evidence.counts[id]) / total for id, _ in evidence.candidates}
    return {id: said[evidence.place[id][0]] if id in evidence.place else alone[id] for id, _ in evidence.candidates}


def exact(evidence: Evidence) -> Values:
    """Quotes, numbers and identifiers that stand there letter for letter."""
    literals = evidence.question.literals
    if not literals:
        return {}
    folded = {id: language.fold(c.record.text) for id, c in evidence.candidates if c.by & {"exact", "words"}}
    return {id: sum(holds_literal(text, part) for part in literals) / len(literals) for id, text in folded.items()}


def when(evidence: Evidence) -> Values:
    """Said within the span of time that the question names, or, counting half, soon after it."""
    if evidence.question.window is None:
        return {}
    since, until = evidence.question.window
    values: Values = {}
    for id, candidate in evidence.candidates:
        at = candidate.record.at
        if at and since <= at:
            late = (at - until).total_seconds() / 86_400
            values[id] = 1.0 if late < 0 else 0.5 if late < AFTER_DAYS else 0.0
    return values


def speaker(evidence: Evidence) -> Values:
    """The question names who says it, and nobody else who speaks here."""
    said = set(language.terms(evidence.question.text))
    names = {c.record.body.name for _, c in evidence.candidates if isinstance(c.record.body, Message)} - {None}
    asked = {name for name in names if name and said.issuperset(language.terms(name))}
    if len(asked) != 1:
        return {}
    return {id: 1.0 for id, c in evidence.candidates if getattr(c.record.body, "name", None) in asked}


def person(evidence: Evidence) -> Values:
    """What the person said, where an assistant spoke too: its answers are long and repeat the question's words."""
    roles = {id: c.record.body.role for id, c in evidence.candidates if isinstance(c.record.body, Message)}
    if "assistant" not in roles.values():
        return {}
    return {id: 0.0 if roles.get(id) == "assistant" else 1.0 for id, _ in evidence.candidates}


def _shared(evidence: Evidence, own: Values) -> Values:
    best: dict[str, float] = {}
    for id, value in own.items():
        if id in evidence.place:
            whole = evidence.place[id][0]
            best[whole] = max(best.get(whole, 0.0), value)
    return {
        id: best.get(evidence.place[id][0], 0.0) if id in evidence.place else own.get(id, 0.0)
        for id, _ in evidence.candidates
    }


def half_life(record: Record) -> float:
    """Return in how many days half of a record's recency is gone: what was said ages, what is stated lasts longer."""
    return 30.0 if record.kind == "message" else 180.0


# The weight of each signal in the sum, and whether it is scaled so that the best candidate has 1: meaning and words
# are on scales of their own that differ from question to question. The weights are round numbers near the optimum of a
# search over two kinds of conversation at once (two people chatting; a person and an assistant with long answers).
SIGNALS: Mapping[str, tuple[Signal, float, bool]] = {
    "near": (near, 1.0, True),
    "words": (words, 0.5, True),
    "passage": (passage, 0.8, True),
    "beside": (beside, 0.35, True),
    "session_near": (session_near, 0.35, True),
    "session_words": (session_words, 0.6, True),
    "exact": (exact, 1.0, False),
    "when": (when, 0.5, False),
    "speaker": (speaker, 0.6, False),
    "person": (person, 0.8, False),
}
