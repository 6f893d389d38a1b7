"""What a manifest says of a backup: the parts that it is made of, under a seal.

Without a passphrase the seal is a digest, which shows damage; with one, only whoever has the passphrase can make it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from ..errors import Damaged, Invalid
from ..sealing import Key

FORMAT = 1
LOG, VECTORS, ERASED, BESIDE, KEYS = "log", "vectors", "erased", "beside", "keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of a backup."""

    name: str
    kind: str
    head: int  # the log's last line when it was written
    first: int  # the first and the last line, or slot, that it holds
    last: int
    group: int = 0  # of vectors
    frames: int
    held: int  # versions, or embeddings
    size: int  # bytes
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a manifest says."""

    format: int
    id: str
    at: datetime
    store: str  # the identity of what was backed up
    lineage: tuple[str, ...]  # the stores that it is a copy of
    head: int  # the log's last line that is in it
    mark: str  # a digest of that line
    base: str | None  # the backup before, whose parts it goes on from; None: it holds everything anew
    counts: Mapping[str, int]
    added: int  # bytes of the parts that are its own
    vectors: bool
    key: Mapping[str, Any] | None  # how the passphrase makes the key; None: not encrypted
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def of(self, kind: str) -> list[Part]:
        return sorted((part for part in self.parts if part.kind == kind), key=lambda part: (part.group, part.first))


def counted(parts: Iterable[Part]) -> dict[str, int]:
    """Return how much these parts hold, of what is told of a backup."""
    counts = {"lines": 0, "versions": 0, "embeddings": 0, "keys": 0}
    for part in parts:
        counts["keys"] += part.held if part.kind == KEYS else 0
        counts["lines"] += part.frames if part.kind == LOG else 0
        counts["versions"] += part.held if part.kind == LOG else 0
        counts["embeddings"] += part.held if part.kind == VECTORS else 0
    return counts


class Sealed(msgspec.Struct):
    """A manifest as it is written, with its seal."""

    manifest: msgspec.Raw
    seal: str

    def said(self, name: str) -> Backup:
        """Return what it says; raise Damaged where that is no manifest, or not the one of that name."""
        try:
            backup = msgspec.json.decode(self.manifest, type=Backup)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Damaged(f"{name} is damaged, or no manifest of a backup") from None
        if backup.format > FORMAT:
            raise Invalid(f"{name} was made by a newer Simonides: upgrade first")
        if name_of(backup.id) != name:
            raise Damaged(f"{name} is another backup's manifest: somebody has moved it")
        return backup

    def is_true(self, key: Key | None) -> bool:
        return hmac.compare_digest(_seal(bytes(self.manifest), key), self.seal)


def sealed(backup: Backup, key: Key | None) -> bytes:
    """Return a manifest as it is written."""
    raw = msgspec.json.encode(backup)
    return msgspec.json.encode(Sealed(msgspec.Raw(raw), _seal(raw, key)))


def unsealed(content: bytes, name: str) -> Sealed:
    try:
        return msgspec.json.decode(content, type=Sealed)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged(f"{name} is damaged, or no manifest of a backup") from None


def _seal(raw: bytes, key: Key | None) -> str:
    return key.seal(raw) if key else hashlib.sha256(raw).hexdigest()


def name_of(id: str) -> str:
    return f"backups/{id}.json"
