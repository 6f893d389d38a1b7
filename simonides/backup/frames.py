"""The frames that a part is made of: gathered into parts as large as they may be, and read again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from ..errors import Damaged
from ..record import new_id
from ..sealing import packed
from ..store import Change
from .manifest import Part
from .place import Place

PART_FRAMES, PART_BYTES = 50_000, 64 << 20  # what one part holds at most, before it is packed


@dataclass(frozen=True, slots=True)
class Frame:
    place: int  # the line, or the slot
    content: bytes
    held: int = 0


class Source:
    """Frames on their way into parts, and what the part at hand has of them."""

    def __init__(self, frames: AsyncIterator[Frame]) -> None:
        self._frames = frames
        self._begun = False
        self.first = self.last = self.count = self.held = 0
        self._next: Frame | None = None

    async def more(self) -> bool:
        if not self._begun:
            self._begun, self._next = True, await _after(self._frames)
        self.first = self.last = self.count = self.held = 0
        return self._next is not None

    async def part(self, title: bytes | None) -> AsyncIterator[bytes]:
        size = 0
        if title is not None:
            yield title
        while self._next and self.count < PART_FRAMES and size < PART_BYTES:
            frame = self._next
            self.first, self.last = (frame.place if not self.count else self.first), frame.place
            self.count, self.held, size = self.count + 1, self.held + frame.held, size + len(frame.content)
            yield frame.content
            self._next = await _after(self._frames)


async def _after(frames: AsyncIterator[Frame]) -> Frame | None:
    async for frame in frames:
        return frame
    return None


async def put(place: Place, kind: str, source: Source, title: bytes | None, group: int, head: int) -> Part:
    """Write the next part that the source has; the title stands in front of its frames."""
    name = f"parts/{new_id()}-{kind}"
    blob = await place.blobs.put(name, packed(source.part(title), name, place.key))
    return Part(
        name=name, kind=kind, head=head, first=source.first, last=source.last, group=group,
        frames=source.count, held=source.held, size=blob.size, digest=blob.digest or "",
    )  # fmt: skip


def entry_of(frame: bytes, part: Part) -> tuple[Change, bytes | None]:
    """Return the line that a frame of the log holds, and the version it speaks of."""
    try:
        return msgspec.msgpack.decode(frame, type=tuple[Change, bytes | None])
    except msgspec.MsgspecError as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None


def embedding_of(frame: bytes, part: Part) -> tuple[int, str, int, int, bytes, bytes]:
    """Return the slot, the id and version, the dimension, the vectors and the tokens that a frame of vectors holds."""
    try:
        return msgspec.msgpack.decode(frame, type=tuple[int, str, int, int, bytes, bytes])
    except msgspec.MsgspecError as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None
