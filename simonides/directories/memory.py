"""A directory in a plain dict: for tests, for a server that ends with its keys, and as the reading of the contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice

from ..directory import Grant, Kept, Key, digest, id_in, issue, opens
from ..errors import Invalid, NotFound
from ..record import now


class MemoryDirectory:
    def __init__(self, url: str = "memory:") -> None:
        if url != "memory:":
            raise Invalid(f"{url!r}: a directory in memory has no options")
        self._kept: dict[str, tuple[Key, bytes]] = {}

    async def make(self, grant: Grant) -> tuple[Key, str]:
        key, secret = issue(grant, now())
        self._kept[key.id] = key, digest(secret)
        return key, secret

    async def find(self, secret: str) -> Key | None:
        key, kept = self._kept.get(id_in(secret), (None, None))
        return key if opens(secret, kept) else None

    async def get(self, id: str, *, tenant: str | None = None) -> Key:
        key, _ = self._kept.get(id, (None, None))
        if key is None or tenant not in (None, key.tenant):
            raise NotFound(f"no key {id!r} here")
        return key

    async def keys(self, *, tenant: str | None = None, after: str | None = None, limit: int = 100) -> list[Key]:
        if after is not None and after not in self._kept:
            raise Invalid(f"no key {after!r} to go on after")
        ids = list(self._kept)
        behind = ids if after is None else ids[ids.index(after) + 1 :]
        found = (self._kept[id][0] for id in behind)
        return list(islice((key for key in found if tenant in (None, key.tenant)), limit))

    async def count(self, at: datetime) -> int:
        return sum(key.closed(at) is None for key, _ in self._kept.values())

    async def revoke(self, id: str, at: datetime, *, tenant: str | None = None) -> Key:
        key = await self.get(id, tenant=tenant)
        self._change(id, revoked=min(key.revoked or at, at))
        return self._kept[id][0]

    async def note(self, uses: Mapping[str, datetime]) -> None:
        for id, at in uses.items():
            key, _ = self._kept.get(id, (None, b""))
            if key is not None and (key.used is None or key.used < at):
                self._change(id, used=at)

    def _change(self, id: str, **changes: datetime) -> None:
        key, kept = self._kept[id]
        self._kept[id] = dataclasses.replace(key, **changes), kept  # type: ignore[arg-type]

    async def kept(self, *, after: str | None = None, limit: int = 1000) -> list[Kept]:
        return [self._kept[key.id] for key in await self.keys(after=after, limit=limit)]

    async def restore(self, kept: Sequence[Kept]) -> int:
        new = [(key, own) for key, own in kept if key.id not in self._kept]
        for key, _ in kept:
            if key.id in self._kept and key.revoked:
                await self.revoke(key.id, key.revoked)
        self._kept |= {key.id: (key, own) for key, own in new}
        return len(new)

    async def close(self) -> None:
        self._kept.clear()


open = MemoryDirectory
