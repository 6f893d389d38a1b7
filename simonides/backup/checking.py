"""A backup is read through, to say whether it can be restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from .. import exports
from ..errors import Damaged, NotFound
from ..whole import Progress, halves
from .frames import embedding_of, entry_of
from .keys import key_of
from .manifest import BESIDE, ERASED, KEYS, LOG, VECTORS, Backup, Part, counted
from .place import Place


@dataclass(frozen=True, slots=True)
class Verified:
    """What reading all of a backup showed; without complaints it can be restored."""

    backup: Backup
    counts: Mapping[str, int]
    complaints: tuple[str, ...]


async def verify(place: Place, backup: Backup, progress: Progress | None = None) -> Verified:
    """Read every part of a backup: digests, encryption, every record and vector, and whether anything is missing."""
    complaints, found, line = list[str](), list[Part](), 0
    for kind in (LOG, ERASED, VECTORS, BESIDE, KEYS):
        for part in backup.of(kind):
            try:
                frames, held, first, last = await _read_through(place, part)
            except (Damaged, NotFound) as error:
                complaints.append(error.message)
                continue
            if (frames, held) != (part.frames, part.held):
                complaints.append(f"{part.name} does not hold as much as the manifest says")
            if kind == LOG and (first, last, frames) != (line + 1, part.last, part.last - line):
                complaints.append(f"{part.name} does not go on from line {line} of the log")
            line = part.last if kind == LOG else line
            found.append(dataclasses.replace(part, frames=frames, held=held))
            if progress:
                progress(part.size)
    if line != backup.head:
        complaints.append(f"the log ends with line {line} and not with {backup.head}")
    return Verified(backup, counted(found), tuple(complaints))


async def _read_through(place: Place, part: Part) -> tuple[int, int, int, int]:
    frames = held = first = last = 0
    titled = part.kind == VECTORS
    async for frame in place.frames(part):
        if titled:
            titled = False
            continue
        frames += 1
        if part.kind == LOG:
            line, record = entry_of(frame, part)
            first, last, held = first or line.seq, line.seq, held + (record is not None)
            if record is not None and (found := exports.record(record)).ref != line.ref:
                raise Damaged(f"{part.name} holds {found.id} where its log speaks of {line.id}")
        elif part.kind == VECTORS:
            _, _, _, dimension, vectors, _ = embedding_of(frame, part)
            halves(vectors, dimension)
            held += 1
        elif part.kind == KEYS:
            key_of(frame, part)
            held += 1
    return frames, held, first, last
