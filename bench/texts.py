"""Made-up texts, the same on every machine: 25 words, Zipf over a vocabulary of 50,000, so that word search has work.

Texts come by the thousand. The first ten of each thousand are the rare ones: they bear the label and the user that the
filtered questions ask for, so a filter lets 1 % through.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCABULARY, WORDS, THOUSAND, RARE = 50_000, 25, 1_000, 10
ASKED = 5  # words of a question
FRESH = 1_000_000  # the number of the first thousand that is in no store yet
RARE_NAME, COMMON_NAME = "rare", "common"


def thousand(number: int) -> list[str]:
    """Return the texts of that thousand, in order."""
    ranks = np.searchsorted(_cumulated(), np.random.default_rng([1, number]).random((THOUSAND, WORDS)))
    return [" ".join(words) for words in _vocabulary()[np.minimum(ranks, VOCABULARY - 1)].tolist()]


def fresh(number: int = FRESH) -> Iterator[str]:
    """Yield texts without end that are in no store yet."""
    while True:
        yield from thousand(number)
        number += 1


def questions(size: int, count: int) -> list[str]:
    """Return questions in the words of a text among the first `size`, its last word, which is its topic, in the end."""
    rng = np.random.default_rng([2, size])
    return [_question(rng, int(number)) for number in rng.integers(size, size=count)]


def _question(rng: np.random.Generator, number: int) -> str:
    *words, topic = thousand(number // THOUSAND)[number % THOUSAND].split()
    return " ".join([*rng.choice(words, ASKED - 1, replace=False).tolist(), topic])


@functools.cache
def _cumulated() -> NDArray[np.float64]:
    """Return the cumulated frequencies: a word's is in inverse proportion to its rank (Zipf, 1935)."""
    frequencies = 1 / np.arange(1, VOCABULARY + 1)
    return np.asarray(np.cumsum(frequencies) / frequencies.sum())


@functools.cache
def _vocabulary() -> NDArray[Any]:
    """Return the words by rank: two to four syllables, as a language has them, the short ones first."""
    rng = np.random.default_rng(3)
    syllables = np.array([consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"])
    drawn = syllables[rng.integers(len(syllables), size=(2 * VOCABULARY, 4))].tolist()
    lengths = rng.choice([2, 3, 4], 2 * VOCABULARY, p=[0.1, 0.45, 0.45]).tolist()
    words = dict.fromkeys("".join(parts[:length]) for parts, length in zip(drawn, lengths, strict=True))
    return np.array(sorted(words, key=len)[:VOCABULARY], object)
