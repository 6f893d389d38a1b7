"""Token vectors: what each word of a text means where it stands, packed small, and how a question compares with them.

An embedder gives one unit vector for each token that says something (stop words and punctuation left out). Packed, a
number takes four bits: a vector is divided by its largest number, times 7, rounded. Unpacked it has unit length again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .embedder import TOKEN_BYTES, TOKEN_DIMENSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 7  # a packed number is one of -7 … 7

_HALVES = np.arange(256)
_TABLE = np.stack([(_HALVES & 15) - 8, (_HALVES >> 4) - 8], axis=1).astype(np.float32)


def pack(vectors: NDArray[np.float32]) -> bytes:
    """Return vectors of shape (tokens, TOKEN_DIMENSION) as bytes, TOKEN_BYTES of them a token."""
    if not len(vectors):
        return b""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-9)
    codes = (np.rint(vectors * (STEPS / largest)) + 8).astype(np.uint8)
    packed: bytes = (codes[:, 0::2] | codes[:, 1::2] << 4).tobytes()
    return packed


def unpack(packed: bytes) -> NDArray[np.float32]:
    """Return the vectors, of unit length, shape (tokens, TOKEN_DIMENSION)."""
    codes = np.frombuffer(packed, np.uint8).reshape(-1, TOKEN_BYTES)
    vectors = _TABLE[codes].reshape(-1, TOKEN_DIMENSION)
    length = np.sqrt(np.einsum("td,td->t", vectors, vectors))[:, None]
    unit: NDArray[np.float32] = np.divide(vectors, length, out=vectors, where=length > 0)
    return unit


def likenesses(asked: NDArray[np.float32], texts: Sequence[bytes]) -> NDArray[np.float32]:
    """Return, for each text and each token asked for, the cosine of the token of the text that comes closest.

    Shape (texts, tokens asked); 0 where nothing comes close, or where the text has no tokens.
    """
    found = np.zeros((len(texts), len(asked)), np.float32)
    there = [place for place, packed in enumerate(texts) if packed]
    if not there or not len(asked):
        return found
    starts = np.cumsum([0, *(len(texts[place]) // TOKEN_BYTES for place in there[:-1])])
    cosines = unpack(b"".join(texts[place] for place in there)) @ asked.T
    found[there] = np.maximum(np.maximum.reduceat(cosines, starts, axis=0), 0)
    return found
