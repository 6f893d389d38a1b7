"""Embedders that cost next to nothing, so that what is measured is the memory and not a model."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from simonides.config import open_backend
from simonides.embedder import Embedder
from simonides.errors import Unavailable

Floats = NDArray[np.float32]

DIMENSION = 384
TOPICS, THEMES = 500, 16  # centres; and centres around each of them
THEME, OWN = 0.5, 0.7  # how far a theme is from its topic, and a text from its theme
NOISE = 1 << 18  # numbers that all vectors are cut from
INLINE = 16  # texts; more are embedded in a thread, as a model would


class Clustered:
    """Vectors in clusters, as texts have them: a topic (the last word's, so Zipf weighs them), a theme, and their own.

    A text's vector follows from the text alone. At 100,000 texts the 1st, 10th and 100th nearest have cosines of about
    .75, .72 and .58; all-MiniLM-L6-v2 makes .67, .56 and .46 of as many package descriptions, a little harder.
    """

    name, dimension, max_tokens = f"clustered/{DIMENSION}", DIMENSION, 512
    unrelated = 0.0

    def __init__(self) -> None:
        noise = np.random.default_rng(4).standard_normal(NOISE + DIMENSION, np.float32) / np.float32(DIMENSION**0.5)
        self._cut: Floats = sliding_window_view(noise, DIMENSION)

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Floats:
        return self.vectors(texts) if len(texts) <= INLINE else await asyncio.to_thread(self.vectors, texts)

    def vectors(self, texts: Sequence[str]) -> Floats:
        own = np.frombuffer(b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts), "<u8")
        topic = np.array([zlib.crc32(text[text.rfind(" ") + 1 :].encode()) % TOPICS for text in texts], np.uint64)
        theme = (topic * np.uint64(THEMES) + own % np.uint64(THEMES)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(46)
        found = self._cut[topic * np.uint64(NOISE // TOPICS)] + THEME * self._cut[theme]
        for shift in (6, 24):  # the sum of two cuts is another for every text, one cut alone would not be
            found += OWN / 2**0.5 * self._cut[(own >> np.uint64(shift)) % np.uint64(NOISE)]
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def tokens(self, text: str) -> int:
        return len(text.split())

    def clear_cache(self) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing is open."""


class Recorded(Clustered):
    """The vectors of questions, made elsewhere and given out in that order: a process that only asks stays small."""

    def __init__(self, vectors: Floats) -> None:
        self._rest = iter(vectors)

    def vectors(self, texts: Sequence[str]) -> Floats:
        return np.stack([next(self._rest) for _ in texts])


class Modelled:
    """An embedder whose questions also go through a real model, so that its time is in the figure; or all texts do."""

    def __init__(self, inner: Clustered, model: Embedder, *, everything: bool = False) -> None:
        self.name, self.dimension, self.max_tokens = inner.name, inner.dimension, inner.max_tokens
        self.unrelated = inner.unrelated
        self._inner, self._model, self._everything = inner, model, everything

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Floats:
        if query or self._everything:
            await self._model.embed(texts, query=query)
        return await self._inner.embed(texts, query=query)

    def tokens(self, text: str) -> int:
        return self._model.tokens(text)

    def clear_cache(self) -> None:
        self._model.clear_cache()

    async def close(self) -> None:
        await self._model.close()


def open_modelled(url: str = "modelled:") -> Embedder:
    """Open the embedder of a server that is measured: all texts go through the real model, where it is installed."""
    model: Embedder = open_backend("embedders", "local:")
    try:
        model.tokens("ready")
    except Unavailable:
        return Clustered()
    return Modelled(Clustered(), model, everything=True)


def open_clustered(url: str = "clustered:") -> Embedder:
    return Clustered()
