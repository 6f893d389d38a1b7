"""Who may come in: the keys, and what each is bound to. Not records: who may read memory is not decided by memory.

A secret is `sim_<id>_<random>`. The id is public: logs, lists and metrics name a key by it, and it is what a directory
looks up. The rest is 43 letters and digits drawn at random, 256 bits, so nobody guesses one, however fast. Of a secret
only its SHA-256 is kept. A slow hash (argon2, scrypt) is for passwords, which are few enough to be tried one by one;
here there is nothing to try, and every call to a server has to be answered for.

To add a directory, add one file to `directories/` and run the suite in `testing/directories.py` against it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Protocol

from .access import Permit, Principal

PREFIX = "sim"  # by which a secret is known where it should not be: in a repository, in a log
ID_SIZE, RANDOM_SIZE = 12, 43  # characters; log2(62) * 43 = 256.03 bits
NOBODY = bytes(32)  # the digest that a secret is compared with where no key has its id; no secret has it

_ID_LETTERS, _LETTERS = string.ascii_lowercase + "234567", string.ascii_letters + string.digits
_SECRET = re.compile(rf"{PREFIX}_([{_ID_LETTERS}]{{{ID_SIZE}}})_[{_LETTERS}]{{{RANDOM_SIZE}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a key is to be: what it is called, what it is bound to, and what it may do. None: not bound to one."""

    name: str  # for people; several keys may bear the same
    tenant: str
    spaces: frozenset[str] | None = None
    user: str | None = None
    permits: Permit = Permit.READ | Permit.WRITE
    rate: int | None = None  # calls a minute; None: what the server's settings say
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Grant):
    """A key that was made. It holds nothing secret."""

    id: str
    made: datetime
    revoked: datetime | None = None
    used: datetime | None = None  # when it last opened something, to within some seconds

    @property
    def principal(self) -> Principal:
        return Principal(
            name=self.id,
            tenant=self.tenant,
            spaces=self.spaces,
            user=self.user,
            permits=self.permits,
            rate=self.rate,
        )

    def closed(self, at: datetime) -> str | None:
        """Return why it opens nothing at that time, "revoked" or "expired"; None while it does."""
        if self.revoked is not None and self.revoked <= at:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= at else None


Kept = tuple[Key, bytes]  # a key, and the digest of its secret


class Directory(Protocol):
    """All methods may be called at once, from any task; none blocks the event loop.

    What one process has been answered, every other that has the same directory open sees from then on.
    """

    async def make(self, grant: Grant) -> tuple[Key, str]:
        """Make a key; return it and its secret, which nobody can be shown again. What is answered survives a crash."""
        ...

    async def find(self, secret: str) -> Key | None:
        """Return the key that this is the secret of, closed or not; None where it is nobody's.

        Any text may be asked with. To refuse one takes the same work whether or not its id exists, and the comparison
        takes a time that tells nothing of the secret.
        """
        ...

    async def get(self, id: str, *, tenant: str | None = None) -> Key:
        """Return the key of that id; raise NotFound where there is none, or where it is of another tenant."""
        ...

    async def keys(self, *, tenant: str | None = None, after: str | None = None, limit: int = 100) -> list[Key]:
        """Return the keys of a tenant, or of all, closed ones too, in the order they were made.

        `after` is the id that the last page ended with; Invalid where no key has it.
        """
        ...

    async def count(self, at: datetime) -> int:
        """Return how many keys open something at that time."""
        ...

    async def revoke(self, id: str, at: datetime, *, tenant: str | None = None) -> Key:
        """Close a key from that time on, for good, and return it. Of two revocations the earlier counts.

        Raise NotFound like `get`.
        """
        ...

    async def note(self, uses: Mapping[str, datetime]) -> None:
        """Note when keys were last used, by their ids. A use never goes back in time; unknown ids are passed over."""
        ...

    async def kept(self, *, after: str | None = None, limit: int = 1000) -> list[Kept]:
        """Return the keys of all tenants like `keys`, each with what is kept of its secret: for a copy of them all."""
        ...

    async def restore(self, kept: Sequence[Kept]) -> int:
        """Take in keys of a copy, in their order, with the secrets that they have; return how many were not here.

        One that is here stays as it is, but is closed from the earlier of both times at which it was revoked.
        """
        ...

    async def close(self) -> None: ...


def issue(grant: Grant, at: datetime) -> tuple[Key, str]:
    """Return a new key of that grant, and its secret."""
    id = _drawn(_ID_LETTERS, ID_SIZE)
    granted = {field.name: getattr(grant, field.name) for field in fields(Grant)}
    return Key(**granted, id=id, made=at), f"{PREFIX}_{id}_{_drawn(_LETTERS, RANDOM_SIZE)}"


def _drawn(letters: str, size: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(size))


def id_in(secret: str) -> str:
    """Return the id that a secret names; "" where it is not written like one."""
    found = _SECRET.fullmatch(secret)
    return found[1] if found else ""


def digest(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def opens(secret: str, kept: bytes | None) -> bool:
    """Whether that digest is this secret's, in a time that tells nothing; None stands for a key that is not there."""
    same = hmac.compare_digest(digest(secret), NOBODY if kept is None else kept)
    return same and kept is not None
