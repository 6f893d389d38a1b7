"""An operation: one thing that can be asked of a memory from outside, and everything a door needs to know of it.

A row of the table is a function decorated with `operation`: its name, the first line of its docstring, the model it
takes, what it gives back and what it needs are the row. HTTP, MCP, gRPC, the command line, the SDK and the reference
are made from that. Calling an operation is the one way in: arguments are checked, then the scope is narrowed to what
the caller may reach, and only then does anything happen.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..access import Permit, Principal
from ..arguments import Whose, named
from ..directory import Directory
from ..errors import Forbidden, Invalid, Limited, Unauthorized
from ..memory import AsyncMemory
from ..passes import waited_for
from ..record import Scope, began, now, stable_id
from ..serving import REFUSE, Serving
from .shapes import Asked
from .tasks import Tasks
from .watch import Watch

PREFIX = "/api/v1"


@dataclass(slots=True)
class Desk:
    """What stands behind the doors: the memory, who may use it, how it is served, and the work under way."""

    memory: AsyncMemory
    directory: Directory | None = None  # None: no keys are kept
    serving: Serving = field(default_factory=Serving)
    tasks: Tasks = field(default_factory=Tasks)
    watch: Watch = field(default_factory=Watch)
    began: datetime = field(default_factory=now)
    on_erase: list[Callable[[], None]] = field(default_factory=list)  # whatever keeps answers lets go of them

    async def full(self) -> bool:
        """Whether more waits to be indexed than may; it is seen a moment late."""
        most = self.serving.queue_max
        return bool(most) and (await self.memory.backlog())[0] > most

    async def admit(self) -> None:
        """Raise Limited where a write is to be turned away, because too much waits to be indexed."""
        most = self.serving.queue_max
        if not most or self.serving.when_full != REFUSE:
            return
        waiting, seconds = await self.memory.backlog(most)
        if waiting > most:
            raise Limited(
                f"{waiting} changes wait to be indexed, more than the {most} that may: try again later",
                retry_after=seconds,
            )

    @property
    def home(self) -> Scope:
        settings = self.memory.settings
        return Scope(tenant=settings.tenant, space=settings.space)


@dataclass(frozen=True, slots=True)
class Call:
    """One call at the desk: who asks, and the scope that was granted. `once` is the caller's own mark of this write:
    the same mark twice is one write.
    """

    desk: Desk
    principal: Principal
    scope: Scope
    once: str | None = None

    @property
    def memory(self) -> AsyncMemory:
        return self.desk.memory

    @property
    def whose(self) -> Whose:
        """The granted scope as the arguments that every method of a memory takes."""
        scope = self.scope
        levels = {"user": scope.user, "agent": scope.agent, "session": scope.session}
        named = {name: value for name, value in levels.items() if value is not None}
        return typing.cast(Whose, {"tenant": scope.tenant, "space": scope.space, **named})

    async def stays(self) -> None:
        """Raise Unauthorized where the key was closed meanwhile: what has no end of its own asks before it goes on."""
        directory, mine = self.desk.directory, self.principal
        if directory is None or mine.tenant is None:  # nobody showed a key
            return
        if why := (await directory.get(mine.name, tenant=mine.tenant)).closed(now()):
            raise Unauthorized(f"this key is {why}" if why == "revoked" else f"this key has {why}")


Run = Callable[[Any, Call], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A row of the table.

    `reads`: changes nothing. `destroys`: what it takes away cannot be had back. `repeats`: doing it twice is doing it
    once. `whole`: it is about the whole store, so only whoever runs the server may ask.
    """

    name: str
    does: str
    tells: str  # the whole docstring: what a reference says
    takes: type[Asked]
    gives: type[BaseModel]
    needs: Permit
    method: str
    path: str  # below /api/v1
    resource: str
    status: int
    reads: bool
    destroys: bool
    repeats: bool
    whole: bool
    example: Mapping[str, Any] | None  # arguments of a call that makes sense, without what stands in the path
    run: Run

    @property
    def fills(self) -> bool:
        """Whether it writes what followers have to follow: an erase is never kept waiting."""
        return bool(self.needs & Permit.WRITE) and not self.reads and not self.destroys

    @property
    def route(self) -> str:
        return PREFIX + self.path

    async def __call__(
        self, desk: Desk, principal: Principal, arguments: Mapping[str, Any], *, once: str | None = None
    ) -> dict[str, Any]:
        """Answer with what `gives` describes. What a caller did wrong is an error of our tree."""
        asked = self.read(arguments)
        if self.whole and not operates(principal, desk.home):
            raise Forbidden(f"{self.name} concerns the whole store: it needs an unbound key of its own tenant")
        if self.fills:
            await desk.admit()
        try:
            with waited_for(getattr(asked, "wait", None) == "indexed"):
                return await self.run(asked, granted(desk, principal, asked, self.needs, once))
        finally:
            if self.destroys:
                for let_go in desk.on_erase:
                    let_go()

    def read(self, arguments: Mapping[str, Any]) -> Asked:
        return read(self.takes, arguments)


A = TypeVar("A", bound=Asked)


def read(takes: type[A], arguments: Mapping[str, Any]) -> A:
    """Return the arguments as that model; raise Invalid with what is wrong."""
    if not isinstance(arguments, Mapping):
        raise Invalid("the arguments must be an object")
    try:
        return takes.model_validate(dict(arguments))
    except ValidationError as error:
        raise Invalid(explained(error)) from None


def granted(desk: Desk, principal: Principal, asked: Asked, needs: Permit, once: str | None = None) -> Call:
    """Return the call with the scope that this principal may use for it; raise Forbidden where it may not."""
    scope = principal.narrow(scope_of(asked), needs, default=desk.home)
    return Call(desk, principal, scope, own_mark(principal, once))


def own_mark(principal: Principal, once: str | None) -> str | None:
    """Return the mark as this caller's own, as two callers may both say "1"; a UUIDv7 is nobody else's anyway."""
    if once is None or began(once) is not None:
        return once
    return stable_id(None, "mark", principal.name, once)


def operates(principal: Principal, home: Scope) -> bool:
    """Whether this is somebody who runs the server, and not a tenant, a user or a guest of one space."""
    mine = principal.tenant is None or principal.tenant == home.tenant
    return mine and principal.spaces is None and principal.user is None


def scope_of(asked: Asked) -> Scope:
    """Return the scope that was asked for; walls that were not named are empty."""
    levels = {level: named(level, getattr(asked, level, None)) for level in Whose.__annotations__}
    return Scope(**{**levels, "tenant": levels["tenant"] or "", "space": levels["space"] or ""})  # type: ignore[arg-type]


def explained(error: ValidationError) -> str:
    """Return what is wrong in one sentence, at most three things of it; nothing of the value is repeated."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{'.'.join(str(part) for part in each['loc']) or 'the request'}: {each['msg']}" for each in found[:3]]
    return "; ".join(said) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def operation(
    method: str,
    path: str,
    *,
    needs: Permit,
    gives: type[BaseModel],
    status: int = 200,
    reads: bool | None = None,
    destroys: bool = False,
    repeats: bool | None = None,
    whole: bool = False,
    example: Mapping[str, Any] | None = None,
) -> Callable[[Run], Operation]:
    """Make a row of a function `(asked, call) -> what it gives`, whose first argument is annotated with its model."""

    def made(run: Run) -> Operation:
        tells = inspect.getdoc(run) or ""
        return Operation(
            name=run.__name__,
            does=tells.partition("\n")[0],
            tells=tells,
            takes=typing.get_type_hints(run)["asked"],
            gives=gives,
            needs=needs,
            method=method,
            path=path,
            resource=run.__module__.rpartition(".")[2],
            status=status,
            reads=method == "GET" if reads is None else reads,
            destroys=destroys,
            repeats=method in ("GET", "PUT", "DELETE") if repeats is None else repeats,
            whole=whole,
            example=example,
            run=run,
        )

    return made
