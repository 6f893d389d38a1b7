"""Text to the token numbers of a BERT model: uncased WordPiece.

Promises the numbers that the `tokenizers` library makes of the same text with the model's `tokenizer.json`, one for
one, in every script, without its 35 MB; the tests compare the two. Most words come from a cache of words seen.

As there, a special token spelled out in the text (`[SEP]`) is that token: a reader of vectors cannot be fooled by it
more than by any other word, and the comparison stays exact.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ..words import STOP

UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
WORD_MAX = 100  # characters; a longer word is unknown as a whole
KNOWN_MAX = 65_536  # words (about 10 MB) in the cache, which then starts anew, and characters in each table

_SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ASCII_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")

# Ideographs are words by themselves. That U+2B820 to U+2B91F are not among them is the library's own slip, kept.
_IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf"
    "\U0002f800-\U0002fa1f]"
)
# The library reads characters by Unicode 8: of what came later, marks, punctuation and controls are letters to it.
# These ranges hold all such characters up to Unicode 18, and no older one that is not a letter in any case.
_NEWER = re.compile(
    "[\u05c8-\u05c9\u061d\u07fd\u0890-\u08e2\u09fd-\u09fe\u0a76\u0afa-\u0aff\u0b53-\u0b55\u0c04-\u0c3c\u0c77\u0c84"
    "\u0d00\u0d3b-\u0d3c\u0d81\u0eba\u0ece\u180f-\u1886\u1abf-\u1af0\u1b4e-\u1b4f\u1b7d-\u1b7f\u1df6-\u1dfb"
    "\u2e43-\u2e63\ua82c\ua8c5\ua8ff\ua9bd\U00010d24-\U00010f89\U00011070-\U00011074\U000110c2-\U000110cd\U000111cf"
    "\U0001123e-\U00011241\U0001133b\U000113bb-\U0001145e\U00011660-\U0001166c\U000116b9\U0001182f-\U00011fff"
    "\U00012ff1-\U0001612f\U00016d6d-\U00016f4f\U00016fe2-\U00016fe4\U0001cf00-\U0001d128\U0001d25b-\U0001d25c"
    "\U0001e000-\U0001e6f5\U0001e944-\U0001e95f]"
)
_CHANGED = {"\u166d": "Po", "\u1734": "Mn", "\U000111c9": "Po", "\U0001171e": "Mn"}  # another category since


class WordPiece:
    """The tokenizer of one vocabulary: a file with a token a line, whose number is its line's, from 0. Thread-safe."""

    def __init__(self, vocabulary: Path) -> None:
        tokens = vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self._numbers = {token: number for number, token in enumerate(tokens)}
        self.unknown, self.start, self.end = (self._numbers[token] for token in (UNKNOWN, START, END))
        self.silent = frozenset(  # tokens that say nothing by themselves: stop words and punctuation
            number
            for token, number in self._numbers.items()
            if token in STOP or (len(token) == 1 and not token.isalnum()) or number in (self.start, self.end)
        )
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the text's tokens, without START and END, however many there are."""
        known = self._known  # one that is cleared meanwhile is no longer ours: nothing of this text stays behind
        numbers: list[int] = []
        for part in _SPECIAL.split(text) if "[" in text else (text,):
            if _SPECIAL.fullmatch(part):
                numbers.append(self._numbers[part])
                continue
            for word in words(part):
                pieces = known.get(word)
                if pieces is None:
                    if len(known) >= KNOWN_MAX:
                        known.clear()
                    pieces = known[word] = self._pieces(word)
                numbers += pieces
        return numbers

    def clear_cache(self) -> None:
        """Forget the words seen."""
        self._known = {}

    def _pieces(self, word: str) -> list[int]:
        """Cut the word into the longest pieces in the vocabulary, from the left; if that fails, it is unknown."""
        if len(word) > WORD_MAX:
            return [self.unknown]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self._numbers.get(prefix + word[start:end])
                if number is not None:
                    pieces.append(number)
                    start = end
                    break
            else:
                return [self.unknown]
        return pieces


def words(text: str) -> list[str]:
    """Return the text's words, lower-case and without accents; punctuation and ideographs are words of their own."""
    if text.isascii():
        return _ASCII_WORD.findall(_ASCII_CONTROL.sub("", text).lower())
    clean = text.translate(_CLEAN)
    return unicodedata.normalize("NFD", clean).translate(_FOLD).split()


class _Table(dict[int, str]):
    """A table for `str.translate` that works out a character when it first meets it."""

    def __missing__(self, code: int) -> str:
        becomes = self.becomes(chr(code))
        if len(self) < KNOWN_MAX:
            self[code] = becomes
        return becomes

    @staticmethod
    def becomes(character: str) -> str:
        raise NotImplementedError


class _Clean(_Table):
    """What becomes of a character before accents are split off: gone, a space, spaced, or itself."""

    @staticmethod
    def becomes(character: str) -> str:
        if character in "\t\n\r":
            return " "
        if character == "\ufffd" or _category(character) in ("Cc", "Cf", "Co", "Cs"):
            return ""
        if _IDEOGRAPH.match(character):
            return f" {character} "
        return " " if character.isspace() else character


class _Fold(_Table):
    """What becomes of a character afterwards: an accent goes, punctuation is spaced, the rest is made lower-case.

    By the character, not the word: Σ is σ at a word's end too.
    """

    @staticmethod
    def becomes(character: str) -> str:
        category = _category(character)
        if category == "Mn":
            return ""
        return f" {character} " if category.startswith("P") or character in "$+<=>^`|~" else character.lower()


_CLEAN, _FOLD = _Clean(), _Fold()


def _category(character: str) -> str:
    if _NEWER.match(character):
        return "Lo"
    return _CHANGED.get(character) or unicodedata.category(character)
