"""Upkeep: how much there is, whether it is sound, what was erased, the settings, and a first look round."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import click

from .. import config as configuration
from .. import shown, terminal, wire
from ..arguments import levels_of, named, zone_of
from ..asked import UPKEEP, Asked, Command, command, common, format_examples, take_common
from ..errors import Invalid
from .remember import remark

COMPLAINTS = 1  # the exit status where something is wrong
INSTALL = {
    "bash": "echo 'eval \"$(simonides completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(simonides completion zsh)\"' >> ~/.zshrc",
    "fish": "simonides completion fish > ~/.config/fish/completions/simonides.fish",
}


@command(UPKEEP, "simonides stats")
def stats(asked: Asked) -> None:
    """Show what is kept and how much."""
    with asked.memory() as memory:
        found = memory.stats()
    if asked.json:
        terminal.say_json(found)
        return
    rows = {name.replace("_", " "): _figure(value) for name, value in found.items() if value is not None}
    terminal.show(shown.pairs(rows))


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


@command(UPKEEP, "simonides doctor\nsimonides doctor --repair")
@click.option("--repair", is_flag=True, help="Make words and vectors again from the records, then look again.")
def doctor(asked: Asked, repair: bool) -> int:
    """Look everything over; the exit status is 1 if something is wrong."""
    before = complaints = _complaints(asked)
    if repair and complaints:
        with asked.memory() as memory, terminal.counting("Rebuilding", asked.quiet) as progress:
            memory.rebuild(progress=progress)
        complaints = _complaints(asked)  # of the memory opened anew, as whoever comes next will find it
    mended = [complaint for complaint in before if complaint not in complaints]
    if asked.json:
        terminal.say_json({"sound": not complaints, "complaints": complaints, "mended": mended})
    else:
        for complaint in complaints:
            terminal.say(terminal.safe(f"- {complaint}"))
        remark(asked, *(f"mended: {complaint}" for complaint in mended))
        if not complaints:
            terminal.say("Everything is sound.")
        elif not repair:
            remark(asked, f"{shown.count(len(complaints), 'complaint')}; `simonides doctor --repair` mends what it can")
    return COMPLAINTS if complaints else 0


def _complaints(asked: Asked) -> list[str]:
    with asked.memory() as memory, terminal.busy("Looking everything over…", asked.quiet):
        return memory.doctor()


@command(UPKEEP, "simonides rebuild")
def rebuild(asked: Asked) -> None:
    """Make words and vectors' index again from the records."""
    with asked.memory() as memory, terminal.counting("Rebuilding", asked.quiet) as progress:
        vectors = memory.rebuild(progress=progress)
    if asked.json:
        terminal.say_json({"vectors": vectors})
    elif not asked.quiet:
        terminal.say(f"Rebuilt: {shown.count(vectors, 'vector')}.")


@command(UPKEEP, "simonides certificates\nsimonides certificates --json")
def certificates(asked: Asked) -> int:
    """List what was erased: when, how much, and how. Nothing of what it said is left to show."""
    with asked.memory() as memory:
        found = memory.certificates(**asked.whose)
    if asked.json:
        terminal.say_json([wire.certificate_as_json(each) for each in found])
    elif found:
        terminal.show(shown.certificates(found, asked.zone))
    else:
        remark(asked, "nothing was ever erased here")
    return 0 if found else 1


# -- settings ----------------------------------------------------------------------------------------------------


class Settings(click.Group):
    """A group that is a command of its own when nothing follows it."""

    command_class = Command
    section = UPKEEP
    example = "simonides config\nsimonides config set user marta\nsimonides config path"

    def invoke(self, ctx: click.Context) -> Any:
        take_common(ctx)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_examples(self.example, formatter)


@click.group(cls=Settings, invoke_without_command=True, params=common(hidden=True))
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show every setting, its value, and where it comes from."""
    if ctx.invoked_subcommand is None:
        _show_settings(ctx.obj)


def _show_settings(asked: Asked) -> None:
    settings = asked.settings
    names = configuration.NAMES
    rows = [{"name": name, "value": _value(settings, name), "from": _origin(asked, name)} for name in names]
    if asked.json:
        terminal.say_json(rows)
        return
    made = shown.table("Setting", "Value", "From")
    for row in rows:
        made.add_row(*(shown.plain(row[name]) for name in ("name", "value", "from")))
    terminal.show(made)


def _value(settings: configuration.Settings, name: str) -> str:
    return settings.store_url if name == "store" else str(getattr(settings, name))


def _origin(asked: Asked, name: str) -> str:
    variable = f"SIMONIDES_{name.upper()}"
    if dataclasses.asdict(asked).get(name) is not None:
        return f"--{name}"
    if os.environ.get(variable):
        return variable
    return str(configuration.settings_file()) if name in configuration.file_settings() else "default"


@config.command("set", example="simonides config set user marta\nsimonides config set user ''")
@click.argument("name")
@click.argument("value")
@click.pass_obj
def set_(asked: Asked, name: str, value: str) -> None:
    """Write a setting to the configuration file; an empty value takes it out."""
    if name not in configuration.NAMES:
        close = configuration.did_you_mean(name, configuration.NAMES)
        raise Invalid(f"there is no setting {name!r}{close}; there are: {', '.join(configuration.NAMES)}")
    _check(name, value)
    path = configuration.settings_file()
    _write(path, {**configuration.file_settings(), name: value}, name)
    terminal.say_json({"name": name, "value": value, "path": str(path)}) if asked.json else None
    remark(asked, *([] if asked.json else [f"written to {path}"]))


def _check(name: str, value: str) -> None:
    if not value:
        return
    named(name, value)
    if name == "zone":
        zone_of(value)
    if name == "require":
        levels_of(value.split(","))


def _write(path: Path, settings: dict[str, str], name: str) -> None:
    """Write one of the settings in its place in the file, whose other lines stay as they are, comments too."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    line = f"{name} = {json.dumps(settings[name], ensure_ascii=False)}"  # a basic string of TOML is one of JSON
    places = [place for place, old in enumerate(lines) if re.match(rf"\s*{name}\s*=", old)]
    at = places[0] if places else len(lines)
    lines[at : at + 1] = [line] if settings[name] else []
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    partial.replace(path)


@config.command("path", example="$EDITOR $(simonides config path)")
@click.pass_obj
def path_(asked: Asked) -> None:
    """Print where the configuration file is, or would be."""
    path = str(configuration.settings_file())
    terminal.say_json({"path": path}) if asked.json else terminal.say(terminal.safe(path))


# -- first look --------------------------------------------------------------------------------------------------


@command(UPKEEP, 'eval "$(simonides completion bash)"')
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completion(asked: Asked, shell: str) -> None:
    """Print the completion script of a shell, and how to install it."""
    from click.shell_completion import get_completion_class

    context = click.get_current_context().find_root()
    made = get_completion_class(shell)
    assert made is not None
    script = made(context.command, {}, "simonides", "_SIMONIDES_COMPLETE").source()
    if asked.json:
        terminal.say_json({"shell": shell, "script": script, "install": INSTALL[shell]})
    else:
        terminal.say(f"{script.rstrip()}\n\n# To install: {INSTALL[shell]}")


@command(UPKEEP, "simonides demo\nsimonides demo --keep ./demo")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep the memory there.")
def demo(asked: Asked, keep: Path | None) -> None:
    """See it at work: a sample archive is imported, asked, corrected and erased from.

    It happens in a folder of its own, which is removed afterwards; nothing of yours is touched.
    """
    from ..demo.story import tell

    tell(keep, embedder=asked.settings.embedder, quiet=asked.quiet)
