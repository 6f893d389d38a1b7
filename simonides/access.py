"""Who is asking, and what they may do. `Principal.narrow` is the one place where a scope is allowed or refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Flag, auto

from .errors import Forbidden, Invalid
from .record import Scope


class Permit(Flag):
    """What may be done. They do not contain one another: who may write may not therefore read."""

    READ = auto()  # recall, look, export
    WRITE = auto()  # remember, import; with READ also correct and organise, which show what is there
    ERASE = auto()  # forget; with READ also see before what would go
    ADMIN = auto()  # keys, rebuild, doctor, and what concerns the whole tenant

    @classmethod
    def of(cls, names: Iterable[str]) -> Permit:
        """Return the permits that go by these names, in whatever case."""
        permits = cls(0)
        for name in names:
            try:
                permits |= cls[name.strip().upper()]
            except KeyError:
                known = ", ".join(each.name.lower() for each in cls if each.name)
                raise Invalid(f"there is no permit {name!r}; there are: {known}") from None
        return permits

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name.lower() for each in Permit if each in self and each.name)


EVERYTHING = Permit.READ | Permit.WRITE | Permit.ERASE | Permit.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody at the door. None means: not bound to one (`spaces`: every space of the tenant).

    `name` is what logs, limits and metrics call it: the id of a key, or "local" for whoever sits at this machine. It is
    never a secret.
    """

    name: str = "local"
    tenant: str | None = None
    spaces: frozenset[str] | None = None
    user: str | None = None
    permits: Permit = EVERYTHING
    rate: int | None = None  # calls a minute; None: what the server's settings say

    def narrow(self, asked: Scope, needs: Permit, *, default: Scope) -> Scope:
        """Return the scope that this principal may use for that; raise Forbidden where it asks for another's.

        `asked` comes with empty walls ("") where none were named: then the principal's own tenant, and its space where
        it has but one, otherwise the walls of `default`. A principal bound to a user asks and writes as that user.
        """
        if missing := needs & ~self.permits:
            raise Forbidden(f"this key may not {' or '.join(missing.names)}")
        tenant = asked.tenant or self.tenant or default.tenant
        if self.tenant is not None and tenant != self.tenant:
            raise Forbidden("this key belongs to another tenant")
        only = next(iter(self.spaces)) if self.spaces is not None and len(self.spaces) == 1 else default.space
        space = asked.space or only
        if self.spaces is not None and space not in self.spaces:
            raise Forbidden("this key does not open that space")
        if self.user is not None and asked.user not in (None, self.user):
            raise Forbidden("this key is bound to another user")
        return Scope(tenant=tenant, space=space, user=asked.user or self.user, agent=asked.agent, session=asked.session)


LOCAL = Principal()
