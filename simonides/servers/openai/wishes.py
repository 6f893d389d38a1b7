"""What a request asks of the memory, in headers of ours and in fields of its body; narrowed to what its key allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import Headers

from ...access import Permit, Principal
from ...arguments import folder_of, named, names_of, one_of
from ...errors import Forbidden, Invalid
from ...record import Scope

EXTRAS = ("folder", "excluded_folders", "context_budget")  # fields of ours in a body; no upstream knows them
LEVELS = {"user": "X-Simonides-User", "agent": "X-Simonides-Agent", "session": "X-Simonides-Session"}
MODES = {"on": Permit.READ | Permit.WRITE, "off": Permit(0), "read": Permit.READ, "write": Permit.WRITE}
# What keeps nothing at the upstream and shows nothing of others: open to every key where all share the server's own.
STATELESS = re.compile(
    r"POST (chat/completions|completions|embeddings|responses|moderations|rerank|images/\w+|audio/\w+)"
    r"|(GET|HEAD) models(/.+)?"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of the memory."""

    scope: Scope
    does: Permit
    budget: int
    folder: str | None
    excluded: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def whose(self) -> dict[str, Any]:
        scope = self.scope
        return {"user": scope.user, "agent": scope.agent, "space": scope.space, "tenant": scope.tenant}


@dataclass(frozen=True, slots=True)
class Wont:
    """What holds where a request says nothing."""

    home: Scope  # the walls of the memory
    require: tuple[str, ...]  # levels that must be named
    user: str | None
    budget: int


def wish_of(headers: Headers, extras: Mapping[str, Any], user: Any, principal: Principal, wont: Wont) -> Wish:
    """Return what is asked; raise Invalid or Forbidden where it cannot be had.

    `user` is the field of OpenAI's: whose memory it is, where neither the key nor a header of ours says so.
    """
    said = {name: _header(headers, name) for name in ("user", "session", "agent", "space", "budget", "memory")}
    does, notes = _does(said["memory"], principal)
    if not does:
        return Wish(Scope(), does, 0, None, (), ())
    levels = {level: named(header, said[level]) for level, header in LEVELS.items()}
    asked = Scope(tenant="", space=named("X-Simonides-Space", said["space"]) or "", **levels)
    if asked.user is None and principal.user is None:
        asked = replace(asked, user=named("user", user) or wont.user)
    scope = principal.narrow(asked, does, default=wont.home)
    for level in wont.require:
        if level in ("user", "agent") and not getattr(scope, level):
            raise Invalid(f"this memory requires {level!r}: name it as {LEVELS[level]}")
    budget = wont.budget
    for given in (extras.get("context_budget"), said["budget"]):
        budget = budget if given is None else _budget(given)
    excluded = names_of("excluded_folders", extras.get("excluded_folders"))
    folders = tuple(filter(None, map(folder_of, excluded)))
    return Wish(scope, does, budget, folder_of(extras.get("folder")), folders, notes)


def may(principal: Principal, call: str, *, shared: bool) -> None:
    """Raise Forbidden where a key may not make this call.

    Where all use the server's account at the upstream (`shared`), only who administers it reaches what is kept there:
    files, stored answers and the like know no users.
    """
    if not principal.permits & (Permit.READ | Permit.WRITE | Permit.ADMIN):
        raise Forbidden("this key may not read or write, so it has no use for a model")
    if shared and Permit.ADMIN not in principal.permits and not STATELESS.fullmatch(call):
        raise Forbidden("the account at the upstream is the server's: this call needs a key that may administer")


def _does(mode: str | None, principal: Principal) -> tuple[Permit, tuple[str, ...]]:
    """Return what the memory is to do. Where nobody says, what the key may; a note says what it may not."""
    if mode is not None:
        return one_of("X-Simonides-Memory", mode.strip().lower(), MODES), ()
    does = MODES["on"] & principal.permits
    if does == Permit.READ:
        return does, ("this key may not write: nothing of this turn is remembered",)
    if does == Permit.WRITE:
        return does, ("this key may not read: no context",)
    return MODES["on"], ()


def _budget(given: Any) -> int:
    if isinstance(given, str) and given.strip().isdecimal() and len(given) <= 9:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise Invalid("the budget must be a number of tokens, 0 for no context")
    return given


def _header(headers: Headers, name: str) -> str | None:
    """Return a header of ours, which holds UTF-8 where it holds more than ASCII."""
    value = headers.get(f"x-simonides-{name}")
    try:
        return value and value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return value
