"""Vectors from hashes of words: no model, the same on every machine. `hashing:`, `hashing:?dimension=64`

For tests and for trying things out. It knows words and their inflections (they share trigrams), not meanings.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACES = 4  # of a vector that a feature touches, so that two features seldom collide in all


class HashingEmbedder:
    """Each word and trigram adds or takes a bit at a few places of the vector that its hash names."""

    def __init__(self, url: str = "hashing:") -> None:
        self.dimension = numbers(url, dimension=256)["dimension"]
        self.name = f"hashing/{self.dimension}"
        self.max_tokens = 512
        self.unrelated = 0.0

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Return one unit vector a text, in the order given: shape (len(texts), dimension)."""
        return await asyncio.to_thread(self._vectors, texts)

    def tokens(self, text: str) -> int:
        """Return how many words the text has."""
        return len(_words(text))

    def clear_cache(self) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing is open."""

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        made = np.zeros((len(texts), self.dimension), np.float64)
        for row, text in zip(made, texts, strict=True):
            features = _features(_words(text)[: self.max_tokens])
            hashed = np.frombuffer(b"".join(map(_hash, features)), "<u4")
            signed = np.repeat(list(features.values()), PLACES) * (1.0 - 2.0 * (hashed % 2))
            row += np.bincount(hashed // 2 % self.dimension, signed, self.dimension)
            length = np.linalg.norm(row)
            row[:] = row / length if length else np.eye(1, self.dimension)[0]  # hashes that cancel out are a text too
        return made.astype(np.float32)


open = HashingEmbedder


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _features(words: list[str]) -> dict[str, float]:
    """Return the words and their trigrams with their weights; of a text without words, the empty word.

    A word's trigrams weigh together what the word does: walking is near walked, and nearer to itself.
    """
    features: dict[str, float] = defaultdict(float)
    for word in words or [""]:
        ends = f"<{word}>"
        features[ends] += 1
        trigrams = [ends[place : place + 3] for place in range(len(ends) - 2)]
        for trigram in trigrams:
            features[trigram] += len(trigrams) ** -0.5
    return features


def _hash(feature: str) -> bytes:
    return hashlib.blake2b(feature.encode(), digest_size=4 * PLACES).digest()
