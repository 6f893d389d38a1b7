"""Where large things lie by name: backups. Bytes go in and come out as streams, so their size costs no memory.

A blob is there as a whole or not at all. To add a store of blobs, add one file to `blobs/` and run the suite in
`testing/blobs.py` against it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from .errors import Damaged, Invalid

NAME_MAX = 500  # characters
PIECE = 1 << 20  # bytes of a blob that are handed on at a time, about

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

Content = bytes | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is there: its name, how many bytes it has, and where it was just written its SHA-256 in hex."""

    name: str
    size: int
    digest: str | None = None


class BlobStore(Protocol):
    """All methods may be called at once, from any task; none blocks the event loop.

    A name is made of parts between slashes, each of ASCII letters, digits, `_`, `-` and `.`, the latter not in front;
    any other raises Invalid. No name is the beginning of another one's path.
    """

    async def put(self, name: str, content: Content, *, digest: str | None = None) -> Blob:
        """Write a blob, in place of the one of that name; what is acknowledged survives a crash.

        Where the content ends early, raises, or has another SHA-256 than `digest` (then Damaged is raised), nothing is
        written, and what was there stays.
        """
        ...

    def get(self, name: str, *, digest: str | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob, in pieces of any size; raise NotFound where there is none.

        With a `digest`, raise Damaged at its end where its SHA-256 is another.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Return how many bytes the blob has; None where there is none."""
        ...

    async def list(self, folder: str = "", *, after: str = "", limit: int = 1000) -> list[Blob]:
        """Return the blobs whose names begin with that folder and a slash (all, where it is empty) and come after that
        name, in the order of names.
        """
        ...

    async def delete(self, name: str) -> bool:
        """Remove a blob; return whether there was one."""
        ...

    async def close(self) -> None: ...


def check_name(name: str) -> str:
    """Return the name; raise Invalid where it is none that a blob may have."""
    if len(name) > NAME_MAX or not all(_PART.fullmatch(part) for part in name.split("/")):
        raise Invalid(f"{name!r} is no name for a blob: write letters, digits, _, - and . between slashes")
    return name


class Seen:
    """What has gone by of a stream: how many bytes, and their digest."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def take(self, piece: bytes) -> None:
        self.size += len(piece)
        self._hash.update(piece)

    def check(self, name: str, digest: str | None) -> None:
        if digest is not None and digest != self.digest:
            raise Damaged(f"{name} is not what it should be: its {self.size:,} bytes have another digest")


async def watched(content: Content, seen: Seen, name: str, digest: str | None) -> AsyncIterator[bytes]:
    """Yield the content in pieces while it is seen; raise Damaged at its end where its digest is another."""
    if isinstance(content, bytes):
        for start in range(0, len(content), PIECE):
            seen.take(piece := content[start : start + PIECE])
            yield piece
    else:
        async for piece in content:
            seen.take(piece)
            yield piece
    seen.check(name, digest)


async def every(blobs: BlobStore, folder: str = "") -> AsyncIterator[Blob]:
    """Yield all blobs of a folder, page by page."""
    after = ""
    while page := await blobs.list(folder, after=after):
        for blob in page:
            yield blob
        after = page[-1].name
