"""MCP over stdin and stdout, and the entry for it in the configuration of the programs that speak MCP."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from .. import clients, terminal
from ..asked import SERVE, Asked, Group
from ..clients import CLIENTS, Change, Client, Entry, Machine
from ..config import NAMES, store_url
from ..errors import Invalid, Unavailable
from ..serving import Serving
from ..sources import variables
from .remember import remark

CARRIED = ("store", "embedder", "user", "agent", "session", "space", "tenant")  # common options a server may be given
PLACES = ("SIMONIDES_CONFIG", "SIMONIDES_HOME")


@click.group(
    cls=Group,
    invoke_without_command=True,
    section=SERVE,
    example="simonides mcp install claude-desktop\nsimonides mcp --user marta",
)
@click.option(
    "--tools",
    default="memory",
    show_default=True,
    metavar="NAMES",
    help="Which tools to show: memory, all, or names of sets and operations, separated by commas.",
)
@click.pass_context
def mcp(ctx: click.Context, tools: str) -> Any:
    """Speak MCP over stdin and stdout, for a program that starts it.

    `simonides mcp install` tells such a program of it.
    """
    return _speak(ctx.obj, tools) if ctx.invoked_subcommand is None else None


def _speak(asked: Asked, tools: str) -> Any:
    try:
        importlib.import_module("simonides.servers.mcp_server")
        server = importlib.import_module("simonides.servers.mcp")
    except ModuleNotFoundError as error:
        raise Unavailable(f"MCP needs the extra `serve`: pip install 'simonides[serve]' ({error})") from error
    if sys.stdin.isatty():
        remark(asked, "this speaks MCP to a program, which `simonides mcp install` tells of it; Ctrl-D ends it")
    return server.main_stdio(asked, tools)


INSTALL = """simonides mcp install claude-desktop
simonides mcp install claude-code --user marta --store ~/work.db --name work
simonides mcp install cursor --url https://memory.example.com --key-file ./key
simonides mcp install codex --dry-run"""


@mcp.command("install", example=INSTALL)
@click.argument("client", type=click.Choice(list(CLIENTS)), metavar="CLIENT")
@click.option("--name", default=clients.NAME, show_default=True, metavar="NAME", help="What the client calls it.")
@click.option("--url", metavar="URL", help="A server to reach over HTTP, in place of one that the client starts.")
@click.option("--key-file", type=click.Path(path_type=Path), metavar="PATH", help="The file that holds the key for it.")
@click.option("--dry-run", is_flag=True, help="Show what would change in the file.")
@click.option("--print", "printed", is_flag=True, help="Only print the entry, to be added by hand.")
@click.option("--remove", is_flag=True, help="Take the entry out.")
@click.pass_obj
def install(
    asked: Asked,
    client: str,
    name: str,
    url: str | None,
    key_file: Path | None,
    dry_run: bool,
    printed: bool,
    remove: bool,
) -> None:
    """Write this memory into the configuration file of an MCP client.

    CLIENT is claude-desktop, claude-code, cursor, vscode or codex. A copy of its file is kept beside it.

    The client will start `simonides mcp` with the --store, --user, --space, … given here, and with the SIMONIDES_
    variables of the memory that are set now, since it does not have those of your shell. With --url it will reach a
    server over HTTP: the key is written into its file.
    """
    if not clients.NAME_PATTERN.fullmatch(name):
        raise Invalid(f"--name {name!r}: letters, digits, - and _, at most 64")
    program, path = CLIENTS[client], CLIENTS[client].place(Machine.this())
    entry = None if remove else _entry(asked, program, url, key_file)
    if printed and entry:
        terminal.say(terminal.safe(clients.snippet(program, name, entry)))
        return
    change = _change(asked, program, path, name, entry)
    backup = clients.write(change) if change.needed and not dry_run else None
    _answer(asked, program, change, backup, dry_run, remove)


def _change(asked: Asked, program: Client, path: Path, name: str, entry: Entry | None) -> Change:
    try:
        return clients.change(program, path, name, entry)
    except Invalid as error:
        by_hand = f"take {name!r} out by hand"
        if entry and not asked.json:
            terminal.say(terminal.safe(clients.snippet(program, name, entry)))
        if entry:
            by_hand = "add by hand what `--print` prints" if asked.json else "add the above by hand"
        raise Invalid(f"{path} was left alone, {error.message}: {by_hand}") from error


def _answer(asked: Asked, program: Client, change: Change, backup: Path | None, dry_run: bool, remove: bool) -> None:
    if asked.json:
        told = {"path": str(change.path), "changed": change.needed and not dry_run, "diff": change.diff()}
        terminal.say_json({**told, "backup": str(backup) if backup else None})
    elif not change.needed:
        terminal.say(terminal.safe(f"Nothing to change in {change.path}."))
    elif dry_run:
        terminal.say(terminal.safe(change.diff()))
    else:
        done = "the entry is gone from" if remove else "the entry is in"
        terminal.say(terminal.safe(f"{program.title}: {done} {change.path}.{'' if remove else f' {program.after}'}"))
        remark(asked, *([f"what was there is in {backup}"] if backup else []))


# -- what the client is told -------------------------------------------------------------------------------------


def _entry(asked: Asked, program: Client, url: str | None, key_file: Path | None) -> Entry:
    given = {name: value for name in CARRIED if (value := getattr(asked, name)) is not None}
    if url is None:
        if key_file:
            raise Invalid("--key-file is for a server over HTTP: name it with --url")
        return clients.started(program, [*command(), "mcp", *_options(given)], carried(os.environ, given))
    if given:
        named = ", ".join(f"--{name}" for name in given)
        raise Invalid(f"{named}: over HTTP the key says whose memory it is, see `simonides keys create --help`")
    return clients.reached(program, _endpoint(asked, url, key_file), _key(key_file))


def command() -> list[str]:
    """Return how to start this program from anywhere: by its script where it runs as one, else by its interpreter.

    With `-P`, as a client may start it in a folder of somebody else's, from which nothing shall be imported.
    """
    run = Path(sys.argv[0])
    script = shutil.which(str(run.absolute())) if run.stem == "simonides" else None
    return [script] if script else [sys.executable, "-P", "-m", "simonides"]


def _options(given: Mapping[str, str]) -> Sequence[str]:
    absolute = {"store": _absolute(given["store"])} if "store" in given else {}
    return [part for name, value in {**given, **absolute}.items() for part in (f"--{name}", value)]


def carried(environ: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say which memory it is, with absolute paths; what an option says is left out."""
    plain = [name for setting in NAMES if setting not in given for name in variables(setting)]
    found = {name: value for name in plain if (value := environ.get(name))}
    stores = {name: _absolute(found[name]) for name in variables("store") if name in found}
    filed = [f"{name}_FILE" for name in plain]
    paths = {
        name: str(Path(value).expanduser().absolute()) for name in (*PLACES, *filed) if (value := environ.get(name))
    }
    return {**found, **stores, **paths}


def _absolute(store: str) -> str:
    """Return a store whose path does not depend on the folder that the client starts in."""
    scheme, slashes, path = store_url(store).partition(":///")
    if scheme != "sqlite" or not slashes or path.startswith((":memory:", "?")):
        return store
    place, question, options = path.partition("?")
    return f"sqlite:///{Path(place).expanduser().absolute()}{question}{options}"


def _endpoint(asked: Asked, url: str, key_file: Path | None) -> str:
    """Return where the server speaks MCP: what was given, with the usual path where it has none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"--url {url!r} must begin with http:// or https:// and name a server")
    if parts.scheme == "http" and key_file and not Serving(host=parts.hostname).loopback:
        remark(asked, f"{parts.hostname} is reached without TLS: whoever is on the way can read the key")
    return parts._replace(path="/mcp").geturl() if parts.path in ("", "/") else url


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        key = path.expanduser().read_text("ascii").strip()
    except OSError as error:
        raise Unavailable(f"--key-file: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        key = ""
    if not key or not key.isprintable() or " " in key:
        raise Invalid(f"--key-file: {path} does not hold a key, alone on one line")
    return key
