"""What a question asks for, as far as its own words say: terms, literals, names, a span of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo

from .. import words
from .when import window

QUESTION_MAX = 20_000  # characters of a question that are looked at; more is a document, not a question
LITERALS_MAX = 8
PART = 80  # characters; sentences are put together up to this, and embedded each by itself
PARTS_MAX = 10  # the last ones, where a question is a whole dialogue
PART_MAX = 2_000  # characters of a part that are embedded
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+|\n+")
_QUOTED = re.compile(r'"([^"\n]{2,200})"|“([^”\n]{2,200})”|«([^»\n]{2,200})»|`([^`\n]{2,200})`|「([^」\n]{2,200})」')
# Identifiers and numbers: something with a digit, or joined by -, _, /, . or @ (PR-2291, v1.2, me@example.org).
_IDENTIFIER = re.compile(r"(?<![\w])(?=[\w.@/#+:-]*\d)[\w][\w.@/#+:-]*[\w]|(?<![\w])[\w.+-]+@[\w-]+\.[\w.-]+|\b\d+\b")
_WORD = re.compile(r"[^\W\d_]+")
_YEARS = re.compile(r"(?:19|20)\d\d(?:-\d\d){0,2}")


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    terms: tuple[str, ...]  # see `words.asked`
    literals: tuple[str, ...]  # folded: quotes, numbers and identifiers that must be there letter for letter
    window: tuple[datetime, datetime] | None
    at: datetime
    parts: tuple[str, ...] = ()  # the sentences, short ones together: what is embedded
    names_nobody: bool = False  # as far as can be told from how it is written


def understand(text: str, at: datetime, zone: tzinfo | None = None) -> Question:
    text = text[:QUESTION_MAX]
    asked, exact = tuple(words.asked(text)), tuple(literals(text))
    return Question(text, asked, exact, window(text, at, zone), at, tuple(parts(text)), names_nobody(text))


def parts(text: str) -> list[str]:
    """Return the last sentences of the text, neighbours that are short put together."""
    found, current = list[str](), ""
    for sentence in filter(None, map(str.strip, _SENTENCE.split(text))):
        if current and len(current) + len(sentence) > PART:
            found.append(current)
            current = ""
        current = f"{current} {sentence}" if current else sentence
    found.append(current or text)
    return [part[:PART_MAX] for part in found[-PARTS_MAX:]]


def literals(text: str) -> list[str]:
    quoted = [next(part for part in found.groups() if part) for found in _QUOTED.finditer(text)]
    written = [found[0] for found in _IDENTIFIER.finditer(text) if not _YEARS.fullmatch(found[0])]
    return list(dict.fromkeys(words.fold(part) for part in quoted + written))[:LITERALS_MAX]


def names_nobody(text: str) -> bool:
    """Return whether every word is written small, but the first of a sentence and "I": then hardly one is a name.

    Scripts that have no small letters do not tell.
    """
    for sentence in _SENTENCE.split(text):
        for place, word in enumerate(_WORD.findall(sentence)):
            first = word[0]
            if not (first.islower() or word == "I" or (place == 0 and first.isupper())):
                return False
    return True


def without_names(text: str, names: frozenset[str]) -> str:
    """Return the text without the participants' names: small models are drawn to every greeting that bears one."""
    if not names:
        return text
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    left, found = re.subn(rf"(?<!\w)(?:{pattern})(?:['’]s)?(?!\w)", " ", text, flags=re.IGNORECASE)
    if not found:
        return text
    return " ".join(left.split()) if any(character.isalnum() for character in left) else text
