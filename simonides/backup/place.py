"""The place where backups are: a store of blobs, with the backups in it, and the key to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta

from ..blob import BlobStore, every
from ..errors import Conflict, Damaged, Invalid, NotFound
from ..record import began, now
from ..sealing import Key, key_of, unpacked
from .manifest import Backup, Part, Sealed, name_of, sealed, unsealed

MANIFEST_MAX = 64 << 20  # bytes
ABANDONED = timedelta(days=1)  # after which a part that no manifest names is taken to have no writer any more

Ask = Callable[[bool], str | None]  # asked for the passphrase; told whether the place is encrypted


@dataclass(slots=True)
class Place:
    """A store of blobs with the backups in it, in the order they were made."""

    blobs: BlobStore
    key: Key | None
    backups: list[Backup] = field(default_factory=list)

    def get(self, id: str | None = None) -> Backup:
        """Return the backup of that id, or whose id ends so; the last one where none is named."""
        found = [backup for backup in self.backups if id is None or backup.id == id or backup.id.endswith(id)]
        if not found:
            raise NotFound(f"there is no backup {id!r} here" if id else "there is no backup here")
        if id is not None and len(found) > 1:
            raise Invalid(f"{id!r} is the end of {len(found)} ids: write more of it")
        return found[-1]

    def akin(self, store: str, lineage: Collection[str]) -> list[Backup]:
        """Return the backups of that store, of what it is a copy of, and of copies of it."""
        mine = {store, *lineage}
        return [backup for backup in self.backups if backup.store in mine or store in backup.lineage]

    async def frames(self, part: Part) -> AsyncIterator[bytes]:
        """Yield what a part holds; raise Damaged where it is not what was written."""
        async for frame in unpacked(self.blobs.get(part.name, digest=part.digest), part.name, self.key):
            yield frame

    async def keep(self, backup: Backup) -> None:
        await self.blobs.put(name_of(backup.id), sealed(backup, self.key))

    async def drop(self, backup: Backup) -> None:
        await self.blobs.delete(name_of(backup.id))


async def look(blobs: BlobStore) -> Place:
    """Return the place with what its manifests say, without the passphrase: whether it is true is not known."""
    return Place(blobs, None, [each.said(name) for name, each in await _manifests(blobs)])


async def enter(blobs: BlobStore, ask: Ask) -> Place:
    """Return the place with its key. Raise Invalid where the passphrase is wrong or needed, Damaged where a manifest is
    not what was written.
    """
    found = await _manifests(blobs)
    said = [each.said(name) for name, each in found]
    about = next((backup.key for backup in said if backup.key), None)
    passphrase = ask(about is not None)
    if about and not passphrase:
        raise Invalid("these backups are encrypted: give the passphrase")
    if passphrase and said and not about:
        raise Invalid("the backups here are not encrypted: name another place for encrypted ones")
    key = key_of(passphrase, about) if passphrase else None
    for (name, each), backup in zip(found, said, strict=True):
        if backup.key != (about and dict(about)) or not each.is_true(key):
            raise Damaged(f"{name} was damaged or tampered with")
    return Place(blobs, key, said)


async def _manifests(blobs: BlobStore) -> list[tuple[str, Sealed]]:
    found = list[tuple[str, Sealed]]()
    async for blob in every(blobs, "backups"):
        if blob.size > MANIFEST_MAX:
            raise Damaged(f"{blob.name} is no manifest of a backup")
        content = b"".join([piece async for piece in blobs.get(blob.name)])
        found.append((blob.name, unsealed(content, blob.name)))
    return found


async def check_whole(place: Place, backup: Backup) -> None:
    """Somebody who made a backup at the same time may have written parts anew that this one names."""
    names = {blob.name async for blob in every(place.blobs, "parts")}
    if not names.issuperset(part.name for part in backup.parts):
        await place.drop(backup)
        raise Conflict("another backup was made here at the same time, and has replaced what this one names: try again")


async def sweep(place: Place, base: Backup | None) -> None:
    """Remove parts that no manifest names: what a rewrite or a backup left behind that was cut off."""
    named = {part.name for backup in (await look(place.blobs)).backups for part in backup.parts}
    old = int((now() - ABANDONED).timestamp() * 1000)
    before = max(old, began(base.id) or 0) if base else old
    loose = [blob.name async for blob in every(place.blobs, "parts") if blob.name not in named]
    for name in loose:
        if (began(name.removeprefix("parts/")[:36]) or 0) < before:
            await place.blobs.delete(name)
