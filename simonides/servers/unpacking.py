"""Bodies that come compressed (gzip, zstd) are unpacked on their way in, so that nobody behind sees anything else.

What comes out is handed on in pieces, which whoever stands behind counts: a small body that unpacks to a large one is
refused as the large one would be. What cannot be unpacked is refused when it is read: by then it is known who sends it.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import zstandard
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

SLICE = 512  # bytes that are unpacked at once; even of the worst zstd no more than some 16 MB come out of them
WINDOW_MAX = 2**23  # bytes that zstd may look back (RFC 9659)
BROKEN = (zlib.error, zstandard.ZstdError)


class Refused(HTTPException):
    """The body will not be read on."""


def _gzip() -> Any:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX).decompressobj()


CODINGS = {"gzip": _gzip, "x-gzip": _gzip, "zstd": _zstd}


def coding_of(scope: Scope) -> str:
    """Return how the body is compressed; empty where it is not."""
    said = Headers(scope=scope).get("content-encoding", "").strip().lower()
    return "" if said == "identity" else said


def unpacked(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Return a request that is compressed as if it were not; reading it raises Refused where that cannot be."""
    messages, ended = _unpacked(coding_of(scope), receive), False

    async def receiving() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        message = await anext(messages)
        ended = not message.get("more_body", False)
        return message

    headers = [each for each in scope["headers"] if each[0] not in (b"content-encoding", b"content-length")]
    return {**scope, "headers": headers}, receiving


async def _unpacked(coding: str, receive: Receive) -> AsyncIterator[Message]:
    if coding not in CODINGS:
        raise Refused(
            415, f"a body is taken as it is, or compressed by gzip or zstd, not by {coding[:50]!r}",
            headers={"Accept-Encoding": "gzip, zstd"},
        )  # fmt: skip
    members = _Members(coding)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            yield message
            return
        for piece in members.of(message.get("body", b"")):
            yield {"type": "http.request", "body": piece, "more_body": True}
        if not message.get("more_body", False):
            if not members.whole:
                raise Refused(422, f"the body broke off: its {coding} has no end")
            yield {"type": "http.request", "body": b"", "more_body": False}
            return


class _Members:
    """What is compressed in one go, and whatever follows it in the same body. `whole`: nothing of it is outstanding."""

    def __init__(self, coding: str) -> None:
        self.whole = True
        self._coding, self._one = coding, CODINGS[coding]()

    def of(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), SLICE):
            rest = body[start : start + SLICE]
            while rest:
                try:
                    piece = self._one.decompress(rest)
                except BROKEN:
                    raise Refused(422, f"the body is not what its Content-Encoding says: {self._coding}") from None
                self.whole, rest = self._one.eof, self._one.unused_data if self._one.eof else b""
                if self.whole:
                    self._one = CODINGS[self._coding]()
                if piece:
                    yield piece
