"""The arithmetic of the flat index: pure functions over rows of codes, which know of no store and no file.

A vector is kept twice, smaller each time: as one signed byte for each component, with the step that the bytes count,
and as bits, the signs of its components and of sums of them. Bits are compared by how many differ, bytes by their inner
product.

The step is the row's own (its largest component / 127). One step for all would have to be about 0.22 / 127 at 384
dimensions, and would clip what is larger: harmless to the dense vectors of a language model, but a sparse vector of a
few words has components of 0.5 and more, and all of them would become the same.

Everything runs on the thread that calls. Products are taken in pieces that stay in the second-level cache and below the
size from which OpenBLAS starts threads: its barrier turned 1 ms into 33 on a busy machine.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 1024 * 384  # components that one product reads; measured: twice as many start OpenBLAS's threads
BITS_PIECE = 8192  # rows
QUICK = (8, 16, 32, 64)  # bytes of a row for which faiss has a loop of its own: 48 take a quarter longer than 64
COUNTERS_MAX = 1 << 28  # bytes that faiss may take to sort by counting; it needs (bits + 1) · count · 8

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Codes = NDArray[np.void]  # of row_type(dimension)
Slots = NDArray[np.int64]


def row_type(dimension: int) -> np.dtype[np.void]:
    """Return the type of a row of codes: component i is about code[i] · step."""
    return np.dtype([("code", "i1", (dimension,)), ("step", "<f4")])


def bits_width(dimension: int) -> int:
    """Return the bytes of a row of sign bits."""
    least = -(-dimension // 8)
    return next((width for width in QUICK if width >= least), -(-least // 8) * 8)


def sign_bits(vectors: Floats) -> Bytes:
    """Return a bit for each component, 1 where it is above 0: shape (rows, bits_width(dimension)).

    What room is left in a row is filled with the signs of sums of components, each of other ones: further directions,
    which tell as much as the first. Where there are too few components for that, it is 0.
    """
    rows, dimension = vectors.shape
    signs = np.zeros((rows, 8 * bits_width(dimension)), np.bool_)
    signs[:, :dimension] = vectors > 0
    room = signs.shape[1] - dimension
    if 0 < room <= dimension // 2:
        sums = vectors[:, :room].copy()
        for place in range(1, dimension // room):  # one by one, so that every batch comes to the very same
            sums += vectors[:, place * room : (place + 1) * room] * np.float32((-1) ** place)
        signs[:, dimension:] = sums > 0
    return np.packbits(signs, axis=1)


def int8(vectors: Floats) -> Codes:
    """Return the vectors as rows of signed bytes; each component is off by at most half the row's step."""
    rows = np.zeros(len(vectors), row_type(vectors.shape[1]))
    largest = np.abs(vectors).max(axis=1, initial=0)
    inverse = np.divide(127, largest, out=np.zeros_like(largest), where=largest > 0)
    rows["code"] = np.rint(vectors * inverse[:, None])
    rows["step"] = largest / np.float32(127)
    return rows


def dots(codes: Codes, vector: Floats, rows: Slots | None = None) -> Floats:
    """Return the vector's inner product with each row of codes, or with those at the places given."""
    count = len(codes) if rows is None else len(rows)
    raw = codes.view(np.uint8).reshape(len(codes), codes.dtype.itemsize)
    scores, size = np.empty(count, np.float32), max(1, PIECE // len(vector))
    for start in range(0, count, size):
        # Taken as bytes: numpy takes rows of a type with fields five times as slowly.
        taken = raw[start : start + size] if rows is None else raw.take(rows[start : start + size], axis=0)
        part: Codes = taken.view(codes.dtype)[:, 0]
        scores[start : start + size] = (part["code"].astype(np.float32) @ vector) * part["step"]
    return scores


def products(vectors: Floats, vector: Floats, rows: Slots | None = None) -> Floats:
    """Return the vector's inner product with each of the vectors, or with those at the places given."""
    count = len(vectors) if rows is None else len(rows)
    scores, size = np.empty(count, np.float32), max(1, PIECE // len(vector))
    for start in range(0, count, size):
        part = vectors[start : start + size] if rows is None else vectors[rows[start : start + size]]
        scores[start : start + size] = part @ vector
    return scores


def nearest_bits(
    bits: Bytes, query: Bytes, n: int, count: int, mask: NDArray[np.bool_] | None = None, *, faiss: bool = True
) -> Slots:
    """Return the slots, ascending, of the `count` rows among the first n that differ from the query in fewest bits.

    With a mask (n, bool) only the rows where it is True are looked at. Which of equally distant rows are the last to
    get in is left open. faiss is used where it is installed and wanted, numpy otherwise: about 4 times slower.
    """
    allowed = n if mask is None else int(np.count_nonzero(mask))
    count = min(count, allowed)
    if count == 0:
        return np.zeros(0, np.int64)
    fits = (8 * bits.shape[1] + 1) * count * 8 <= COUNTERS_MAX
    search = _nearest_faiss if faiss and fits and _faiss() else _nearest_numpy
    return np.sort(search(bits, query, n, count, mask))


def _nearest_numpy(bits: Bytes, query: Bytes, n: int, count: int, mask: NDArray[np.bool_] | None) -> Slots:
    distances = _distances(bits[:n], query)
    if mask is not None:
        distances[~mask] = np.iinfo(np.uint16).max
    if count == n:
        return np.arange(n)
    return np.argpartition(distances, count - 1)[:count].astype(np.int64)


def _distances(bits: Bytes, query: Bytes) -> NDArray[np.uint16]:
    wide = np.dtype(np.uint64 if bits.shape[1] % 8 == 0 else np.uint8)
    asked, found = query.view(wide), np.zeros(len(bits), np.uint16)
    for start in range(0, len(bits), BITS_PIECE):
        differing = np.bitwise_count(bits[start : start + BITS_PIECE].view(wide) ^ asked)
        part = found[start : start + BITS_PIECE]
        for column in range(differing.shape[1]):  # measured: twice as fast as a sum over the axis
            part += differing[:, column]
    return found


def _nearest_faiss(bits: Bytes, query: Bytes, n: int, count: int, mask: NDArray[np.bool_] | None) -> Slots:
    """Let faiss count; it reads a mapped file where it lies. Sorting by counting is 3 times as fast as by a heap."""
    faiss = _faiss()
    faiss.omp_set_num_threads(1)  # holds for the calling thread alone
    distances, labels = np.empty(count, np.int32), np.empty(count, np.int64)
    bitmap = None if mask is None else np.packbits(mask, bitorder="little")
    chosen = () if bitmap is None else (faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap)),)
    places = faiss.swig_ptr(distances), faiss.swig_ptr(labels)
    faiss.hammings_knn_mc(
        faiss.swig_ptr(query), faiss.swig_ptr(bits), 1, n, count, bits.shape[1], *places, *chosen
    )  # fmt: skip
    return labels[labels >= 0]


@functools.cache
def _faiss() -> Any:
    """Return faiss, or None. It is imported with the first group that is large enough to need it."""
    try:
        import faiss
    except ImportError:
        return None
    version = tuple(int(part) for part in faiss.__version__.split(".")[:2])
    return faiss if version >= (1, 11) else None  # before, it could not count under a mask
