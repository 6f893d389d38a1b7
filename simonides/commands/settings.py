"""The settings: what each is and where it comes from, setting one, and whether all of them can be."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .. import config as configuration
from .. import shown, terminal
from ..arguments import levels_of, named, zone_of
from ..asked import UPKEEP, Asked, Group, among
from ..clients import replace
from ..errors import Invalid, NotFound, SimonidesError
from ..sending import sender
from ..serving import Serving, about, told
from ..sources import FILE, Given, read_file, value_of, written
from .remember import remark

COMPLAINTS = 1  # the exit status where something is wrong
ASKED = ("store", "embedder", "user", "space", "tenant")  # settings that are common options
RESOLVED = {"store": "store_url", "index": "index_url"}  # settings that stand for another value where they are empty
NAMES = [name for known in configuration.NAMED.values() for name in known]
EXTRAS = {"grpc_port": ("grpc", "grpc"), "tracing": ("tracing", "opentelemetry")}  # a setting needs this extra


EVERY_SETTING = "simonides config\nsimonides config set user marta\nsimonides config check"


@click.group(cls=Group, invoke_without_command=True, section=UPKEEP, example=EVERY_SETTING)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show every setting, its value, and where it comes from. Those of the server begin with `server.`."""
    if ctx.invoked_subcommand is None:
        _show_settings(ctx.obj)


def _show_settings(asked: Asked) -> None:
    rows = [*_rows("", asked.settings, asked), *_rows(configuration.SERVER, configuration.serving(), asked)]
    if asked.json:
        terminal.say_json(rows)
        return
    made = shown.table("Setting", "Value", "From")
    for row in rows:
        made.add_row(*(shown.plain(text) for text in (row["name"], _told(row["value"]), row["from"])))
    terminal.show(made)


def _rows(table: str, settings: configuration.Settings | Serving, asked: Asked) -> Iterator[dict[str, Any]]:
    origins = configuration.origins(table, {} if table else _given(asked))
    for field in dataclasses.fields(settings):
        value = told(field, getattr(settings, RESOLVED.get(field.name, field.name)))
        origin = origins[field.name].origin if field.name in origins else "default"
        yield {"name": f"{table}.{field.name}".strip("."), "value": value, "from": origin}


def _given(asked: Asked) -> dict[str, str | None]:
    return {name: getattr(asked, name) for name in ASKED}


def _told(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else ", ".join(value) if isinstance(value, list) else str(value)


@config.command("set", example="simonides config set user marta\nsimonides config set user ''")
@click.argument("name", shell_complete=among(NAMES))
@click.argument("value")
@click.pass_obj
def set_(asked: Asked, name: str, value: str) -> None:
    """Write a setting to the configuration file; an empty value takes it out.

    `simonides config set upstream_key_file PATH` names a file that holds the value; any setting can be given so.
    """
    table, field = _setting_named(name)
    path = configuration.settings_file()
    if name.endswith(FILE):
        made = written(read_file(path), table, field.name + FILE, value)
    else:
        made = written(read_file(path), table, field.name, _checked(table, field, value) if value else "")
    replace(path, made)
    terminal.say_json({"name": name, "value": value, "path": str(path)}) if asked.json else None
    remark(asked, *([] if asked.json else [f"written to {path}"]))


def _setting_named(name: str) -> tuple[str, dataclasses.Field[Any]]:
    """Return the table of a setting and what is known of it; `server.rate` may be called `rate`."""
    plain = name.removeprefix(f"{configuration.SERVER}.").removesuffix(FILE)
    for table, made in configuration.TABLES.items():
        for field in dataclasses.fields(made):
            if field.name == plain and (table or not name.startswith(f"{configuration.SERVER}.")):
                return table, field
    close = configuration.did_you_mean(plain, NAMES)
    raise Invalid(f"there is no setting {name!r}{close}; there are: {', '.join(NAMES)}")


def _checked(table: str, field: dataclasses.Field[Any], value: str) -> Any:
    """Return the value as the setting has it."""
    if about(field).secret:
        raise Invalid(
            f"{field.name} is a secret, which would stay in the shell's history: write it into a file, and "
            f"`simonides config set {field.name}{FILE} PATH`"
        )
    if not table:
        _check_name(field.name, value)
    return value_of(field, Given(value, "the command line"))


def _check_name(name: str, value: str) -> None:
    named(name, value)
    if name == "zone":
        zone_of(value)
    if name == "require":
        levels_of(value.split(","))


@config.command("check", example="simonides config check\nsimonides config check ./config.toml --json")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def check_(asked: Asked, file: Path | None) -> int:
    """Say what is wrong with the settings, line by line; the exit status is 1 if anything is.

    With FILE, it is looked at in place of the configuration file.
    """
    if file and not file.exists():
        raise NotFound(f"there is no file {file}")
    found = list(dict.fromkeys(_all_complaints(asked, file)))
    if asked.json:
        terminal.say_json({"sound": not found, "complaints": found})
    else:
        for complaint in found:
            terminal.say(terminal.safe(f"- {complaint}"))
        if not found:
            terminal.say("The settings are sound.")
    return COMPLAINTS if found else 0


def _all_complaints(asked: Asked, file: Path | None) -> Iterator[str]:
    """Say what the settings are that cannot be, and what they name that is not there."""
    found = list(configuration.complaints(file))
    yield from found
    if not found:
        yield from _missing(configuration.settings(_given(asked), path=file), configuration.serving(path=file))


def _missing(settings: configuration.Settings, serving: Serving) -> Iterator[str]:
    for name in ("tenant", "space", "user", "zone", "require"):
        yield from _said(_check_name, name, getattr(settings, name)) if getattr(settings, name) else ()
    yield from _said(configuration.opener, "stores", configuration.store_url(settings.store_url))
    yield from _unreadable(settings.store_url)
    yield from _said(configuration.opener, "indexes", settings.index_url)
    yield from _said(_try_cache, settings.cache)
    for url in settings.sinks:
        yield from _said(sender, url)
    if settings.feed:
        yield from _said(configuration.opener, "feeds", settings.feed)
    if settings.embedder != configuration.OFF:
        yield from _said(_try_embedder, settings.embedder)
    for name, (extra, module) in EXTRAS.items():
        if getattr(serving, name) and importlib.util.find_spec(module) is None:
            yield f"server.{name} needs what is not installed: pip install 'simonides[{extra}]'"


def _said(call: Any, *arguments: Any) -> list[str]:
    """Return what the call complains of."""
    try:
        call(*arguments)
    except SimonidesError as error:
        return [error.message]
    return []


def _try_embedder(url: str) -> None:
    """Embed something, as nothing less tells that all it needs is there."""
    import asyncio

    async def embed() -> None:
        embedder = configuration.open_backend("embedders", url)
        try:
            await embedder.embed(["a"])
        finally:
            await embedder.close()

    asyncio.run(embed())


def _try_cache(url: str) -> None:
    """Ask it whether it is there."""
    import asyncio

    async def ask() -> None:
        if cache := configuration.open_cache(url):
            try:
                await cache.ping()
            finally:
                await cache.close()

    asyncio.run(ask())


def _unreadable(url: str) -> Iterator[str]:
    """Say of a memory in a file that it cannot be read and written, or made."""
    scheme, _, rest = configuration.store_url(url).partition(":///")
    path = Path(rest.partition("?")[0])
    if scheme != "sqlite" or rest == ":memory:":
        return
    place = path if path.exists() else next(each for each in path.absolute().parents if each.exists())
    if place.is_dir() == path.exists():
        yield f"store: {place} is {'a folder' if path.exists() else 'no folder'}"
    elif not os.access(place, os.R_OK | os.W_OK):
        yield f"store: {place} cannot be read and written"


@config.command("path", example="$EDITOR $(simonides config path)")
@click.pass_obj
def path_(asked: Asked) -> None:
    """Print where the configuration file is, or would be."""
    path = str(configuration.settings_file())
    terminal.say_json({"path": path}) if asked.json else terminal.say(terminal.safe(path))
