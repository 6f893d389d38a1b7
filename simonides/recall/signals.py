"""What speaks for a candidate: one small pure function a signal, from the evidence to a value for each candidate.

Values lie in [0, 1]; 0 says nothing. To add a signal, write it, name it in SIGNALS, and let `bench/fit_weights.py` find
what it weighs; `fuse` does the rest, and `explain` shows it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import words as language
from ..kinds import Message
from ..record import Record
from ..tokens import likenesses
from .gather import Pool, holds_literal
from .question import Question

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)
NEIGHBOUR = 0.85  # what a word in the turn before or after counts, against one in the turn itself
SHARP = 2  # the power of a token's cosine: one that is there counts more than several that are vaguely there
LETTERS, HEADING = 5.5, 6  # characters a word takes, and the words of who and when
AFTER_DAYS = 10  # what happened in a span of time is also spoken of a little later
FULL = 100  # words from which a text says enough
BRIEF, WORDY = 15, 400  # words up to which it is as short as can be, and from which as long
_ENDS = re.compile(r"[.!?…。！？\n]")
SENTENCE = 500  # characters that a question is looked for before its mark
FIGURE = re.compile(r"\d")

# What a question asks for, and what a text must hold to be an answer. English; other languages are left alone.
_ASKS_WHEN = re.compile(r"\bwhen\b|\bwhat (?:date|day|month|year|time)\b|\bhow long\b", re.IGNORECASE)
_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|old|often|long|far)\b|\bwhat (?:number|percentage|amount)\b", re.IGNORECASE
)
_ASKS_NAME = re.compile(
    r"\b(?:who|whose|where|which)\b|\bname\b|\bwhat (?:city|country|place|book|\w+ is called)\b", re.IGNORECASE
)
_TIMES = frozenset(
    """yesterday today tomorrow tonight last next ago morning week weeks month months year years weekend weekends since
    recently monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
    september october november december""".split()
)
_NUMBERS = frozenset("one two three four five six seven eight nine ten couple dozen once twice".split())
_RUN = re.compile(r"[a-z]+")
_ORDINAL = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)\b")
_NAME = re.compile(r"(?<=[a-z,'] )[A-Z][a-z]+")
LOOKED = 4_000  # characters of a text that are looked at for its manner


def _tells_when(text: str) -> bool:
    lower = text.lower()
    return not _TIMES.isdisjoint(_RUN.findall(lower)) or _ORDINAL.search(lower) is not None


def _tells_number(text: str) -> bool:
    return FIGURE.search(text) is not None or not _NUMBERS.isdisjoint(_RUN.findall(text.lower()))


def _tells_name(text: str) -> bool:
    return _NAME.search(text) is not None


@dataclass(slots=True)
class Evidence:
    """The pool as arrays, made once for all signals; candidates are numbered in the order of their ids."""

    question: Question
    pool: Pool
    records: list[Record]
    counts: NDArray[np.float32]  # of the question's terms in each candidate with who and when: (candidates, terms)
    answered: NDArray[np.float32]  # the same in the question that the turn before asks, where another asks it
    lengths: Values  # in words, about
    idf: Values  # of each term
    before: NDArray[np.intp]  # the place of the turn before, -1 where none is known
    after: NDArray[np.intp]
    talk: NDArray[np.intp]  # a number for each conversation; who stands alone is one of his own
    cosines: Values  # with the question; nan where not known
    likeness: NDArray[np.float32]  # how close each token asked for comes: (candidates, tokens), to the power of SHARP
    looked: NDArray[np.bool_]  # whose tokens are known
    kept: dict[str, Values] = field(default_factory=dict, init=False)  # see `once`

    @classmethod
    def of(cls, question: Question, pool: Pool) -> Evidence:
        order = sorted(pool.candidates)
        places = {id: place for place, id in enumerate(order)}
        candidates = [pool.candidates[id] for id in order]
        records = [candidate.record for candidate in candidates]
        counter = language.Counter(question.terms)
        before = np.array([places.get(pool.before.get(id, ""), -1) for id in order], np.intp)
        wholes = {name: n for n, name in enumerate(dict.fromkeys(r.part_of or r.id for r in records))}
        asked = pool.asked
        tokens = [candidate.tokens for candidate in candidates]
        likeness = likenesses(asked.tokens, tokens) if asked and len(asked.tokens) else np.zeros((len(order), 0))
        return cls(
            question=question,
            pool=pool,
            records=records,
            counts=_counted(counter, [language.searched(record) for record in records]),
            answered=_counted(counter, [_asked_before(records, place, at) for place, at in enumerate(before)]),
            lengths=np.array([len(record.text) / LETTERS + HEADING for record in records], np.float32),
            idf=rarity(question.terms, pool),
            before=before,
            after=np.array([places.get(pool.after.get(id, ""), -1) for id in order], np.intp),
            talk=np.array([wholes[record.part_of or record.id] for record in records], np.intp),
            cosines=np.array([np.nan if c.cosine is None else c.cosine for c in candidates], np.float32),
            likeness=likeness.astype(np.float32) ** SHARP,
            looked=np.array([bool(packed) for packed in tokens], np.bool_),
        )

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]

    def bm25(self, counts: NDArray[np.float32], lengths: Values) -> Values:
        """Return Okapi BM25 as a share of what a text that says every term without end would get."""
        most = float(self.idf.sum()) * (K1 + 1)
        if not most:
            return np.zeros(len(self.records), np.float32)
        norm = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1.0))
        return _f4((counts / (counts + norm[:, None]) @ self.idf) * ((K1 + 1) / most))

    def beside(self, values: NDArray[np.float32], way: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the neighbour's values, 0 where there is no neighbour."""
        there = way >= 0
        return values[way] * (there if values.ndim == 1 else there[:, None])

    def shared(self, values: Values) -> Values:
        """Return for each candidate the largest value in its conversation."""
        best = np.zeros(int(self.talk.max(initial=-1)) + 1, np.float32)
        np.maximum.at(best, self.talk, values)
        return best[self.talk]

    def gathered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same for each column of a matrix."""
        best = np.zeros((int(self.talk.max(initial=-1)) + 1, values.shape[1]), np.float32)
        np.maximum.at(best, self.talk, values)
        return best[self.talk]


Signal = Callable[[Evidence], "Values"]


def once(signal: Signal) -> Signal:
    """The signal, worked out once for each evidence: others build on it. Its values are not to be written to."""

    @functools.wraps(signal)
    def kept(evidence: Evidence) -> Values:
        if signal.__name__ not in evidence.kept:
            evidence.kept[signal.__name__] = signal(evidence)
        return evidence.kept[signal.__name__]

    return kept


def _f4(values: Any) -> Values:
    return np.asarray(values, np.float32)


def _counted(counter: language.Counter, texts: Sequence[str]) -> NDArray[np.float32]:
    counts = np.zeros((len(texts), len(counter.terms)), np.float32)
    for place, text in enumerate(texts):
        for term, often in counter.counts(text) if text else ():
            counts[place, term] = often
    return counts


def _asked_before(records: Sequence[Record], place: int, before: int) -> str:
    """Return the question that the turn answers: the last one of the turn before, when somebody else asks it."""
    if before < 0 or records[before].body.who == records[place].body.who:
        return ""
    return last_question(records[before].text)


def last_question(text: str) -> str:
    """Return the last sentence that ends in a question mark; empty where none does."""
    end = max(text.rfind("?"), text.rfind("？"))
    if end < 0:
        return ""
    begin = max(
        (found.end() for found in _ENDS.finditer(text, max(0, end - SENTENCE), end)), default=max(0, end - SENTENCE)
    )
    return text[begin : end + 1]


def rarity(terms: Sequence[str], pool: Pool) -> Values:
    """Return each term's inverse document frequency in its realm; one that is nowhere weighs as one that is once."""
    versions, often = max(pool.versions, 1), pool.frequencies
    return np.array([idf(max(often.get(term, 1), 1), versions) for term in terms], np.float32)


def idf(frequency: int, versions: int) -> float:
    """Return Lucene's form of the inverse document frequency, which is never negative."""
    return math.log(1 + max(0.0, versions - frequency + 0.5) / (frequency + 0.5))


# -- meaning -----------------------------------------------------------------------------------------------------------


@once
def near(evidence: Evidence) -> Values:
    """Meaning: the cosine, above what unrelated texts have."""
    floor = evidence.pool.unrelated
    return _f4(np.clip((np.nan_to_num(evidence.cosines, nan=floor) - floor) / max(1 - floor, 1e-6), 0, 1))


def near_before(evidence: Evidence) -> Values:
    """Meaning of the turn before: an answer is close to its question. Who stands alone speaks for himself."""
    return _neighbours(evidence, evidence.before)


def near_after(evidence: Evidence) -> Values:
    """Meaning of the turn after."""
    return _neighbours(evidence, evidence.after)


def _neighbours(evidence: Evidence, way: NDArray[np.intp]) -> Values:
    own = near(evidence)
    return np.where(way >= 0, own[way], own)


@once
def late(evidence: Evidence) -> Values:
    """Late interaction: how close the text comes to each token of the question, on average."""
    return _weighed(evidence, evidence.likeness)


def late_around(evidence: Evidence) -> Values:
    """The same for the turn together with the turns around it."""
    around = np.maximum(
        evidence.beside(evidence.likeness, evidence.before), evidence.beside(evidence.likeness, evidence.after)
    )
    found = _weighed(evidence, np.maximum(evidence.likeness, NEIGHBOUR**SHARP * around))
    return np.where(evidence.looked, found, 0)


def _weighed(evidence: Evidence, likeness: NDArray[np.float32]) -> Values:
    asked = evidence.pool.asked
    if asked is None or not likeness.shape[1]:
        return np.zeros(len(evidence.records), np.float32)
    found: Values = likeness @ asked.counts
    return found


# -- words -------------------------------------------------------------------------------------------------------------


def words(evidence: Evidence) -> Values:
    """The question's words in the text, with who and when."""
    return evidence.bm25(evidence.counts, evidence.lengths)


def words_before(evidence: Evidence) -> Values:
    """The question's words in the turn together with the turn before it."""
    counts = evidence.counts + NEIGHBOUR * evidence.beside(evidence.counts, evidence.before)
    return evidence.bm25(counts, evidence.lengths + evidence.beside(evidence.lengths, evidence.before))


@once
def passage(evidence: Evidence) -> Values:
    """The question's words in the turn together with the turns around it."""
    ways = evidence.before, evidence.after
    counts = evidence.counts + NEIGHBOUR * sum(evidence.beside(evidence.counts, way) for way in ways)
    return evidence.bm25(counts, evidence.lengths + sum(evidence.beside(evidence.lengths, way) for way in ways))


def answered(evidence: Evidence) -> Values:
    """The question's words in the text and in the question that it answers."""
    return evidence.bm25(evidence.counts + evidence.answered, evidence.lengths)


def exact(evidence: Evidence) -> Values:
    """Quotes, numbers and identifiers that stand there letter for letter."""
    literals = evidence.question.literals
    found = np.zeros(len(evidence.records), np.float32)
    if literals:
        for place, record in enumerate(evidence.records):
            if evidence.pool.candidates[record.id].by & {"exact", "words"}:
                text = language.fold(record.text)
                found[place] = sum(holds_literal(text, part) for part in literals) / len(literals)
    return found


# -- the conversation --------------------------------------------------------------------------------------------------


def session_near(evidence: Evidence) -> Values:
    """The nearest turn of the conversation speaks for all its turns."""
    return evidence.shared(near(evidence))


def session_late(evidence: Evidence) -> Values:
    """How close the conversation comes to each token of the question, in whichever turn."""
    return _weighed(evidence, evidence.gathered(evidence.likeness)) if evidence.likeness.shape[1] else late(evidence)


def session_words(evidence: Evidence) -> Values:
    """How many of the question's words, by rarity, the conversation says anywhere."""
    return _said(evidence, evidence.counts)


def speaker_words(evidence: Evidence) -> Values:
    """The same, of what the one says there whom the question names; of what all say, where it names nobody."""
    named = speaker(evidence)
    return _said(evidence, evidence.counts * named[:, None] if named.any() else evidence.counts)


def _said(evidence: Evidence, counts: NDArray[np.float32]) -> Values:
    total = float(evidence.idf.sum())
    if not total:
        return np.zeros(len(evidence.records), np.float32)
    said: Values = evidence.gathered(np.minimum(counts, 1)) @ evidence.idf / total
    return said


# -- who, when, and what kind of text ----------------------------------------------------------------------------------


def when(evidence: Evidence) -> Values:
    """Said within the span of time that the question names, or, counting half, soon after it."""
    found = np.zeros(len(evidence.records), np.float32)
    if evidence.question.window is not None:
        since, until = evidence.question.window
        for place, record in enumerate(evidence.records):
            if record.at and since <= record.at:
                late_by = (record.at - until).total_seconds() / 86_400
                found[place] = 1.0 if late_by < 0 else 0.5 if late_by < AFTER_DAYS else 0.0
    return found


def speaker(evidence: Evidence) -> Values:
    """The question names who says it, and nobody else who speaks here."""
    return _f4(voices(evidence) > 0)


def voices(evidence: Evidence) -> NDArray[np.int8]:
    """Return 1 for what the one says whom the question names, -1 for what others say, 0 for what nobody by name does;
    0 for all where it names nobody who speaks here, or several.
    """
    names = [record.body.name if isinstance(record.body, Message) else None for record in evidence.records]
    said = set(language.terms(evidence.question.text))
    asked = {name for name in set(names) if name and said.issuperset(language.terms(name))}
    return np.array([(1 if name in asked else -1) if name and len(asked) == 1 else 0 for name in names], np.int8)


def person(evidence: Evidence) -> Values:
    """What the person said, where an assistant spoke too: its answers are long and repeat the question's words."""
    roles = [record.body.role if isinstance(record.body, Message) else None for record in evidence.records]
    if "assistant" not in roles:
        return np.zeros(len(roles), np.float32)
    return np.array([role != "assistant" for role in roles], np.float32)


def tells(evidence: Evidence) -> Values:
    """It tells something, rather than ending in a question."""
    return np.array([not record.text.rstrip().endswith(("?", "？")) for record in evidence.records], np.float32)


def figures(evidence: Evidence) -> Values:
    """It holds a figure: dates, amounts and versions are worth more than chat."""
    return _each(evidence, lambda text: FIGURE.search(text) is not None)


def answer(evidence: Evidence) -> Values:
    """It holds the kind of thing that the question asks for: a time, a number, a name."""
    asked = evidence.question.text
    pairs = ((_ASKS_WHEN, _tells_when), (_ASKS_NUMBER, _tells_number), (_ASKS_NAME, _tells_name))
    wanted = [tell for ask, tell in pairs if ask.search(asked)]
    return _each(evidence, lambda text: any(tell(text) for tell in wanted)) if wanted else _none(evidence)


def long(evidence: Evidence) -> Values:
    """How much it says, by the logarithm of its words: a greeting hardly anything, some sentences enough."""
    return _f4(np.clip(np.log1p(evidence.lengths - HEADING) / math.log1p(FULL), 0, 1))


def short(evidence: Evidence) -> Values:
    """How far it is from a treatise, which touches everything: none of a few sentences is shorter than another."""
    beyond = np.log1p(evidence.lengths - HEADING) - math.log1p(BRIEF)
    return _f4(1 - np.clip(beyond / (math.log1p(WORDY) - math.log1p(BRIEF)), 0, 1))


def _each(evidence: Evidence, test: Callable[[str], bool]) -> Values:
    return np.array([test(record.text[:LOOKED]) for record in evidence.records], np.float32)


def _none(evidence: Evidence) -> Values:
    return np.zeros(len(evidence.records), np.float32)


def half_life(record: Record) -> float:
    """Return in how many days half of a record's recency is gone: what was said ages, what is stated lasts longer."""
    return 30.0 if record.kind == "message" else 180.0


# Whether a signal is scaled so that the least candidate has 0 and the best 1: meaning and words are on scales of their
# own that differ from question to question.
SIGNALS: Mapping[str, tuple[Signal, bool]] = {
    "near": (near, True),
    "near_before": (near_before, True),
    "near_after": (near_after, True),
    "late": (late, True),
    "late_around": (late_around, True),
    "words": (words, True),
    "words_before": (words_before, True),
    "passage": (passage, True),
    "answered": (answered, True),
    "exact": (exact, False),
    "session_near": (session_near, True),
    "session_late": (session_late, True),
    "session_words": (session_words, False),
    "speaker_words": (speaker_words, False),
    "when": (when, False),
    "speaker": (speaker, False),
    "person": (person, False),
    "tells": (tells, False),
    "figures": (figures, False),
    "answer": (answer, False),
    "long": (long, False),
    "short": (short, False),
}

# Signals that tell who says a thing and how. They count as far as the others say that it is about what is asked.
MANNER = ("speaker", "person", "tells", "figures", "answer", "long", "short")

# How far each signal can say so, for a text whose tokens are known and for one whose are not: late interaction has
# compared text and question word by word; that a whole text is near, or shares a word, says less beside it; that its
# conversation does says least.
ABOUT: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(SIGNALS, (0.5, 0.75)),
    **dict.fromkeys(("late", "late_around"), (1.0, 0.0)),
    **dict.fromkeys(("session_near", "session_late", "session_words", "speaker_words"), (0.25, 0.25)),
    **dict.fromkeys(MANNER, (0.0, 0.0)),
}
