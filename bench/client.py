"""A client that costs little: HTTP/1.1 by hand on asyncio streams, so that what is measured is the server."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

BODY_MAX = 1 << 24
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
BROKEN = (OSError, asyncio.IncompleteReadError)  # the other side went away


def asking(method: str, path: str, key: str, body: Any = None) -> bytes:
    """Return a request as it goes over the wire."""
    content = b"" if body is None else json.dumps(body).encode()
    kind = "Content-Type: application/json\r\n" if content else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{kind}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that is kept open: one request at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, url: str) -> Self:
        place = urlsplit(url)
        return cls(*await asyncio.open_connection(place.hostname, place.port, limit=BODY_MAX))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer; raise one of BROKEN where there is none."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        return int(head[9:12]), body

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except BROKEN:
            return
