"""Keys: who may come in through the doors of a server, and what each may reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import shown, terminal
from ..asked import ABBREVIATED_MIN, PAGE, SERVE, Asked, Command, Group
from ..config import keys_url, open_backend, serving
from ..directory import Directory, Key
from ..errors import Invalid, NotFound
from ..keys import PERMITS, grant_of
from ..record import now
from .remember import remark

T = TypeVar("T")


ELSEWHERE = "simonides.directory"  # in the context's `meta`


def _take_directory(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[ELSEWHERE] = value


def elsewhere() -> click.Option:
    """Return the option that says which directory; each command takes it, before its name or after."""
    said = "The directory that holds the keys; default: the setting `directory`, or beside the store."
    return click.Option(["--directory"], metavar="URL|PATH", help=said, expose_value=False, callback=_take_directory)


class OfKeys(Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or ()), elsewhere()]
        super().__init__(*args, **kwargs)


class Keys(Group):
    command_class = OfKeys


@click.group(
    cls=Keys,
    params=[elsewhere()],
    section=SERVE,
    example="simonides keys create laptop --user marta --spaces main --expires 90d\nsimonides keys list",
)
def keys() -> None:
    """Make, list and revoke the keys that open a server."""


@keys.command(
    "create",
    example="simonides keys create laptop --user marta --expires 90d\n"
    "simonides keys create reader --spaces team,plans --permits read --rate 600",
)
@click.argument("name")
@click.option("--spaces", metavar="NAMES", help="Only these spaces, separated by commas; default: all of the tenant.")
@click.option("--permits", default=PERMITS, show_default=True, metavar="NAMES", help="Of read, write, erase, admin.")
@click.option("--expires", metavar="TIME", help="When it ends, or after how long: 12h, 90d, 2w, 1y; default: never.")
@click.option("--rate", type=int, metavar="N", help="Calls a minute; default: what the server's settings say.")
@click.pass_obj
def create(asked: Asked, name: str, spaces: str | None, permits: str, expires: str | None, rate: int | None) -> None:
    """Make a key and print its secret: once, as only its hash is kept.

    With --user it is bound to one user, and reaches and writes what is theirs, whatever it asks for. --tenant says
    whose key it is.
    """
    if spaces is not None and asked.space is not None:
        raise Invalid("name spaces with --spaces or --space, not both")
    grant = grant_of(
        name,
        tenant=asked.settings.tenant,
        spaces=spaces if asked.space is None else [asked.space],
        user=asked.user,
        permits=permits,
        expires=expires,
        rate=rate,
        at=now(),
        zone=asked.zone,
    )

    key, secret = _asked_of(asked, lambda directory: directory.make(grant))
    if asked.json:
        terminal.say_json({**as_json(key), "secret": secret})
    else:
        terminal.say(secret)
        remark(asked, f"key {key.id} opens {bounds(key)}. Its secret is shown this once.")


@keys.command("list", example="simonides keys list\nsimonides keys list --tenant acme --json")
@click.pass_obj
def list_(asked: Asked) -> int:
    """List the keys, revoked and expired ones too: what each is bound to, and when it was last used."""
    found = _asked_of(asked, lambda directory: _all(directory, asked.tenant)) if _is_there(asked) else []
    if asked.json:
        terminal.say_json([as_json(key) for key in found])
    elif found:
        made = shown.table("Id", "Name", "Made", "Last used", "State", "Opens")
        for key in found:
            made.add_row(*(shown.plain(text) for text in _row(key, asked)))
        terminal.show(made)
    else:
        remark(asked, "no key was made here yet: `simonides keys create NAME` makes one")
    return 0 if found else 1


@keys.command("revoke", example="simonides keys revoke laptop")
@click.argument("ids", nargs=-1, required=True, metavar="ID|NAME…")
@click.pass_obj
def revoke(asked: Asked, ids: Sequence[str]) -> None:
    """Close keys for good. Servers that run refuse them from then on.

    Of an id its beginning or end is enough, and so is a name that only one open key bears.
    """
    if not _is_there(asked):
        raise NotFound("no key was made here yet")

    async def close(directory: Directory) -> list[Key]:
        every = await _all(directory, asked.tenant)
        named = [_named(id, every) for id in ids]
        return [await directory.revoke(id, now()) for id in dict.fromkeys(named)]

    closed = _asked_of(asked, close)
    terminal.say_json([as_json(key) for key in closed]) if asked.json else None
    remark(asked, *([] if asked.json else [f"key {key.id} ({terminal.line(key.name)}) is revoked" for key in closed]))


def _named(text: str, every: Sequence[Key]) -> str:
    """Return the id that this is or abbreviates, or that the key has which is called so."""
    if any(key.id == text for key in every):
        return text
    called = [key.id for key in every if key.name == text and not key.closed(now())]
    long_enough = len(text) >= ABBREVIATED_MIN
    ends = [key.id for key in every if long_enough and (key.id.startswith(text) or key.id.endswith(text))]
    found = list(dict.fromkeys(called + ends))
    if len(found) > 1:
        raise Invalid(f"{text!r} may be any of {len(found)} keys, write an id: {', '.join(found)}")
    if not found:
        raise NotFound(f"no key {text!r} here: `simonides keys list` shows them")
    return found[0]


# -- the directory -----------------------------------------------------------------------------------------------


def _asked_of(asked: Asked, question: Callable[[Directory], Coroutine[Any, Any, T]]) -> T:
    """Open the directory, ask it that, and close it."""

    async def ask() -> T:
        directory: Directory = open_backend("directories", _url(asked))
        try:
            return await question(directory)
        finally:
            await directory.close()

    return asyncio.run(ask())


def _url(asked: Asked) -> str:
    named = click.get_current_context().meta.get(ELSEWHERE)
    return keys_url(asked.settings.store_url, named or serving().directory)


def _is_there(asked: Asked) -> bool:
    """Whether there is a directory; asking must not make one."""
    scheme, _, path = _url(asked).partition(":///")
    return scheme != "sqlite" or Path(path).exists()


async def _all(directory: Directory, tenant: str | None) -> list[Key]:
    found = list[Key]()
    while page := await directory.keys(tenant=tenant, after=found[-1].id if found else None, limit=PAGE):
        found += page
    return found


# -- as it is shown ----------------------------------------------------------------------------------------------


def as_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "spaces": None if key.spaces is None else sorted(key.spaces),
        "user": key.user,
        "permits": list(key.permits.names),
        "rate": key.rate,
        "made": key.made.isoformat(),
        **{name: at and at.isoformat() for name in ("expires", "revoked", "used") for at in [getattr(key, name)]},
        "state": key.closed(now()) or "open",
    }


def bounds(key: Key) -> str:
    """Return what a key opens, in words: tenant default, space main, of user marta, to read and write."""
    spaces = sorted(key.spaces or ())
    where = f"space{'s' * (len(spaces) > 1)} {', '.join(spaces)}" if spaces else "every space"
    whose = f"of user {key.user}" if key.user is not None else "of every user"
    often = [f"{key.rate:,} calls a minute"] if key.rate else []
    until = [f"until {shown.when(key.expires, None)}"] if key.expires else []
    may = f"to {' and '.join(filter(None, [', '.join(key.permits.names[:-1]), key.permits.names[-1]]))}"
    return terminal.line(", ".join([f"tenant {key.tenant}", where, whose, may, *often, *until]))


def _row(key: Key, asked: Asked) -> tuple[str, ...]:
    used = shown.when(key.used, asked.zone) or "never"
    made = shown.when(key.made, asked.zone, clock=False)
    return key.id, shown.cut(key.name, 30), made, used, key.closed(now()) or "open", bounds(key)
