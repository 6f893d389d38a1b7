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

BLOCK = 128  # tokens
STEPS = 7  # a packed number is one of -7 … 7

_HALVES = np.arange(256)
# The two numbers of each byte side by side, as one of twice the size: taken at once, that is four times as fast.
_PAIRS = np.stack([(_HALVES & 15) - 8, (_HALVES >> 4) - 8], axis=1).astype(np.float32).view(np.complex64)[:, 0]


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
    vectors, lengths = _opened(packed)
    unit: NDArray[np.float32] = vectors / lengths[:, None]
    return unit


def _opened(packed: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the vectors as they were packed, and the lengths that they have so."""
    codes = np.frombuffer(packed, np.uint8)
    vectors = _PAIRS[codes].view(np.float32).reshape(-1, TOKEN_DIMENSION)
    return vectors, np.sqrt(np.maximum(np.einsum("td,td->t", vectors, vectors), 1e-9))


def _products(vectors: NDArray[np.float32], asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply block by block: a large product would wake all of BLAS's threads, which cost more than they save."""
    found = np.empty((len(vectors), asked.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        np.matmul(vectors[start : start + BLOCK], asked, out=found[start : start + BLOCK])
    return found


def likenesses(asked: NDArray[np.float32], texts: Sequence[bytes]) -> NDArray[np.float32]:
    """Return, for each text and each token asked for, the cosine of the token of the text that comes closest.

    Shape (texts, tokens asked); 0 where nothing comes close, or where the text has no tokens.
    """
    found = np.zeros((len(texts), len(asked)), np.float32)
    there = [place for place, packed in enumerate(texts) if packed]
    if not there or not len(asked):
        return found
    starts = np.cumsum([0, *(len(texts[place]) // TOKEN_BYTES for place in there[:-1])])
    vectors, lengths = _opened(b"".join(texts[place] for place in there))
    cosines = _products(vectors, asked.T)
    cosines /= lengths[:, None]
    found[there] = np.maximum(np.maximum.reduceat(cosines, starts, axis=0), 0)
    return found
