"""Keys: who may come in, and to what."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from ..access import Permit
from ..directory import Directory, Key
from ..errors import Forbidden, Unavailable
from ..keys import grant_of
from ..record import now
from ..wire import Json
from .operation import Call, operation
from .shapes import Asked, Name, Names, Shape

PermitName = Literal["read", "write", "erase", "admin"]


class KeyShape(Shape):
    """A key; its secret is nowhere."""

    id: str
    name: str
    tenant: str
    spaces: list[str] | None
    user: str | None
    permits: list[PermitName]
    rate: int | None
    made: str
    expires: str | None
    revoked: str | None
    used: str | None


class Made(Shape):
    key: KeyShape
    secret: str = Field(description="Shown this once.")


class Keys(Shape):
    results: list[KeyShape]
    next: str | None


def directory_of(call: Call) -> Directory:
    if call.desk.directory is None:
        raise Unavailable("this server keeps no keys")
    return call.desk.directory


def key_as_json(key: Key) -> Json:
    times = {"made": key.made, "expires": key.expires, "revoked": key.revoked, "used": key.used}
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "spaces": sorted(key.spaces) if key.spaces is not None else None,
        "user": key.user,
        "permits": list(key.permits.names),
        "rate": key.rate,
        **{name: at.isoformat() if at else None for name, at in times.items()},
    }


def _member() -> list[PermitName]:
    return ["read", "write"]


class MakeKey(Asked):
    """What the key is bound to: the tenant of whoever makes it, the spaces and the user named here."""

    name: Name = Field(description="What people call it.")
    spaces: Names | None = Field(None, description="The only spaces it opens; default: all of the tenant.")
    permits: Annotated[list[PermitName], Field(min_length=1, max_length=4)] = Field(default_factory=_member)
    rate: int | None = Field(None, ge=1, le=10**9, description="Calls a minute.")
    expires: str | None = Field(None, max_length=64, description="A time, or how long from now: 90d.")


@operation(
    "POST",
    "/keys",
    needs=Permit.ADMIN,
    gives=Made,
    status=201,
    example={"name": "the kitchen's agent", "user": "ana", "permits": ["read", "write"]},
)
async def make_key(asked: MakeKey, call: Call) -> Json:
    """Make a key, and show its secret this once. It cannot do more than the key it is made with, nor for longer."""
    mine, wanted = call.principal, Permit.of(asked.permits)
    spaces = frozenset(asked.spaces) if asked.spaces else frozenset({asked.space}) if asked.space else mine.spaces
    if wanted not in mine.permits or (mine.spaces is not None and not (spaces or frozenset()) <= mine.spaces):
        raise Forbidden("a key cannot make one that may do more than itself")
    grant = grant_of(
        asked.name,
        tenant=call.scope.tenant,
        at=now(),
        spaces=spaces,
        user=call.scope.user,
        permits=asked.permits,
        rate=asked.rate if mine.rate is None else min(asked.rate or mine.rate, mine.rate),
        expires=asked.expires,
    )
    directory = directory_of(call)
    if mine.tenant is not None and (ends := (await directory.get(mine.name, tenant=mine.tenant)).expires) is not None:
        grant = dataclasses.replace(grant, expires=min(grant.expires or ends, ends))
    key, secret = await directory.make(grant)
    return {"key": key_as_json(key), "secret": secret}


class ListKeys(Asked):
    after: Name | None = None
    limit: int = Field(100, ge=1, le=1000)


@operation("GET", "/keys", needs=Permit.ADMIN, gives=Keys)
async def list_keys(asked: ListKeys, call: Call) -> Json:
    """List the keys of the tenant, closed ones too."""
    _whole_tenant(call)
    found = await directory_of(call).keys(tenant=call.scope.tenant, after=asked.after, limit=asked.limit + 1)
    shown = found[: asked.limit]
    return {
        "results": [key_as_json(key) for key in shown],
        "next": shown[-1].id if len(found) > asked.limit else None,
    }


class NamedKey(Asked):
    id: Name


@operation("DELETE", "/keys/{id}", needs=Permit.ADMIN, gives=KeyShape)
async def revoke_key(asked: NamedKey, call: Call) -> Json:
    """Close a key, for good and at once."""
    _whole_tenant(call)
    return key_as_json(await directory_of(call).revoke(asked.id, now(), tenant=call.scope.tenant))


def _whole_tenant(call: Call) -> None:
    if call.principal.user is not None or call.principal.spaces is not None:
        raise Forbidden("this key is bound to a user or to spaces: it cannot see the tenant's keys")


ROWS = (make_key, list_keys, revoke_key)
