"""Older backups are removed, with the parts that none of those that stay is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from ..errors import Invalid
from ..record import now
from .manifest import Backup, Part
from .place import Place, look, sweep


@dataclass(frozen=True, slots=True)
class Pruned:
    """Which backups stay and which go, and the bytes of the parts that none of those that stay needs."""

    kept: tuple[Backup, ...]
    gone: tuple[Backup, ...]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def spared(place: Place, *, keep: int | None = None, keep_days: float | None = None) -> Pruned:
    """Return what pruning would do: of each store the last `keep` backups stay, and those made within `keep_days` days,
    but always the last. Raise Invalid where neither is named, NotFound where there is no backup.
    """
    if keep is None and keep_days is None:
        raise Invalid("say how many backups to keep, or for how many days")
    place.get()
    since, kept, count = now() - timedelta(days=keep_days or 0), set[str](), dict[str, int]()
    for backup in reversed(place.backups):
        count[backup.store] = nth = count.get(backup.store, 0) + 1
        if nth <= max(1, keep or 0) or (keep_days is not None and backup.at >= since):
            kept.add(backup.id)
    stay, gone = ([backup for backup in place.backups if (backup.id in kept) is so] for so in (True, False))
    needed = _parts(stay)
    return Pruned(tuple(stay), tuple(gone), tuple(p for name, p in _parts(gone).items() if name not in needed))


def _parts(backups: Iterable[Backup]) -> dict[str, Part]:
    return {part.name: part for backup in backups for part in backup.parts}


async def prune(place: Place, *, keep: int | None = None, keep_days: float | None = None) -> Pruned:
    """Remove backups as `spared` says, and the parts that no backup names any more.

    Every manifest is whole in itself, so those that stay lose nothing; and what an earlier one of a store knew to be
    erased, each later one knows, too. What is left where it is cut off, the next backup removes.
    """
    found = spared(place, keep=keep, keep_days=keep_days)
    for backup in found.gone:
        await place.drop(backup)
    place.backups = list(found.kept)
    named = _parts((await look(place.blobs)).backups)  # somebody may have made one meanwhile
    loose = tuple(part for part in found.parts if part.name not in named)
    for part in loose:
        await place.blobs.delete(part.name)
    await sweep(place, None)
    return dataclasses.replace(found, parts=loose)
