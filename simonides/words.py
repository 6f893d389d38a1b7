"""How text becomes words, in every language, for full-text search.

The terms are ours, so that every store finds the same: case and accents folded, English inflections stemmed (by
Snowball's English stemmer, which leaves most words of other languages alone, and treats question and text alike where
it does not), and where a script has no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) or glues
particles to them (Korean), pairs of neighbouring characters instead.

VERSION is kept in every store: one whose words were made by another version makes them again when it is opened.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime
from functools import lru_cache

import Stemmer

from .record import Body, Record

VERSION = 1
TERM_MAX = 48  # characters of a term that count; longer runs are not words anybody types
STEMS_KEPT = 200_000

# Marks belong to the word in scripts that write vowels with them; \w alone would cut Hindi and Thai words apart.
_MARKS = "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
_INDIC = "\u0900-\u0963\u0966-\u0dff\u0f18-\u0f3e\u0f71-\u0fbc"
_PAIRED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"[{_PAIRED}]+|(?:(?![{_PAIRED}_])[\w{_MARKS}{_INDIC}])+")
_PAIRED_RUN = re.compile(rf"[{_PAIRED}]")
_ASCII_FOLDED = bytes(ord(chr(byte).lower()) if byte < 128 and chr(byte).isalnum() else 32 for byte in range(256))
_APOSTROPHE = re.compile(r"['\u2019\u02bc](?=\w)")
_FOLDABLE = re.compile(r"[\u0300-\u036f]")

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)

STOP = frozenset(
    """a about after all also am an and any are as at be because been before being but by can could d did do does doing
    don for from further had has have having he her here him his how i if in into is isn it its just ll m may me might
    more must my no not now of off on once only or other our out over own re s same shall she should so some such t than
    that the their them then there these they this those through to too under until up ve very was wasn we were what
    when where which while who whom why will with won would you your""".split()
)

_local = threading.local()  # a stemmer is not to be shared between threads


def terms(text: str) -> list[str]:
    """Return the terms of the text in order, repeats and stop words included."""
    folded = text if text.isascii() else fold(text)
    if folded.isascii():
        return list(map(_stem, folded.encode().translate(_ASCII_FOLDED).decode().split()))
    found: list[str] = []
    for run in _RUN.findall(folded):
        if _PAIRED_RUN.match(run):
            found += [run[place : place + 2] for place in range(len(run) - 1)] or [run]
        else:
            found.append(_stem(run) if run.isascii() else run[:TERM_MAX])
    return found


def asked(text: str) -> list[str]:
    """Return the terms worth looking for: each once, in order, without stop words unless there is nothing else."""
    every = list(dict.fromkeys(terms(text)))
    return [term for term in every if term not in STOP and term not in _STOP_STEMS] or every


def fold(text: str) -> str:
    """Return the text without case, accents and compatibility forms (NFKC, so that ﬁ is fi and Ａ is A)."""
    if text.isascii():
        return _APOSTROPHE.sub(" ", text.lower()) if "'" in text else text.lower()
    plain = _APOSTROPHE.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _FOLDABLE.sub("", unicodedata.normalize("NFD", plain)))


def traces(asked: Iterable[str]) -> tuple[str, ...]:
    """Return what a folded text must hold somewhere to say any of these terms at all: a quick look before `terms`.

    A stem is its word without an ending, but for its last letter (happy is happi, cry is cri) and one case of its last
    two (dying is die).
    """
    return tuple({_trace(term) for term in asked})


def _trace(term: str) -> str:
    if len(term) < 3 or not term.isascii():
        return term
    return term[0] if len(term) == 3 and term.endswith("ie") else term[:-1]


def heading(record: Record) -> str:
    """Return who and when, as they are searched and read beside the text."""
    at = record.at
    return _heading(record.body.who, at.date() if at else None)


@lru_cache(maxsize=10_000)
def _heading(who: str | None, day: date | None) -> str:
    when = f"{day.isoformat()} {day.day} {MONTHS[day.month - 1]} {day.year}" if day else None
    return " ".join(part for part in (who, when) if part)


def searched(record: Record) -> str:
    """Return the text that full-text search looks through for this record."""
    return f"{heading(record)}\n{record.text}"


def searched_terms(body: Body, at: datetime | None) -> list[str]:
    """Return the terms of what is searched of a record with this body, said then: its heading's, then its text's.

    The day is that of UTC, whatever the zone that it is given in: a store reads it back so, and takes the terms away.
    """
    return [*_heading_terms(body.who, at.astimezone(UTC).date() if at else None), *terms(body.text)]


@lru_cache(maxsize=10_000)
def _heading_terms(who: str | None, day: date | None) -> tuple[str, ...]:
    return tuple(terms(_heading(who, day)))


class _Stems(dict[str, str]):
    """The stems of the words met so far."""

    def __missing__(self, word: str) -> str:
        if not hasattr(_local, "english"):
            _local.english = Stemmer.Stemmer("english", 0)
        stem = str(_local.english.stemWord(word[:TERM_MAX]))
        if len(self) >= STEMS_KEPT:
            self.clear()
        if len(word) <= TERM_MAX:
            self[word] = stem
        return stem


_stem = _Stems().__getitem__
_STOP_STEMS = frozenset(_stem(word) for word in STOP)


def _at_the_beginning(trace: str) -> str:
    """Return a pattern for the trace at the beginning of a run. It looks back behind the first character: an expression
    that begins with a choice of characters skips all others at once.
    """
    first = re.escape(trace[0])
    return f"{first}(?<![a-z0-9]{first}){re.escape(trace[1:])}"


class Counter:
    """Counts how often texts say certain terms; quicker than making terms of each text, since most say few of them."""

    def __init__(self, asked: Iterable[str]) -> None:
        self.terms = tuple(dict.fromkeys(asked))
        self._places = {term: place for place, term in enumerate(self.terms)}
        self._traces = traces(self.terms)
        ascii_traces = sorted((trace for trace in self._traces if trace.isascii()), key=len, reverse=True)
        alternatives = "|".join(map(_at_the_beginning, ascii_traces)) or "(?!)"
        self._runs = re.compile(rf"(?:{alternatives})[a-z0-9]*")

    def counts(self, text: str) -> list[tuple[int, int]]:
        """Return (the term's place among the terms, how often) for the terms that the text says."""
        folded = fold(text)
        if folded.isascii():
            said = [_stem(run) for run in self._runs.findall(folded)]
        elif any(trace in folded for trace in self._traces):
            said = terms(text)
        else:
            return []
        found: dict[int, int] = {}
        for term in said:
            if (place := self._places.get(term)) is not None:
                found[place] = found.get(place, 0) + 1
        return list(found.items())
