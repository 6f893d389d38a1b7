"""MCP clients on this machine: where each keeps its configuration, and our entry written into it or taken out.

Nothing else in the file changes, not a byte: the entry is put in its place in the text. A file that cannot be changed
so (JSON with comments, a table written in another way) is left alone, and the error says what to add by hand.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import Conflict, Invalid, Unavailable
from .serving import HIDDEN

Entry = dict[str, Any]

NAME = "simonides"  # of the entry, by default
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
PRIVATE = 0o600  # the mode of a file that is made here: it may hold a key

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where programs keep things here: the platform as `sys.platform` names it, the home, and the variables."""

    platform: str
    home: Path
    environ: Mapping[str, str]

    @classmethod
    def this(cls) -> Machine:
        return cls(sys.platform, Path.home(), os.environ)

    def folder(self, variable: str, default: Path) -> Path:
        return Path(given) if (given := self.environ.get(variable)) else default

    def settings(self, program: str) -> Path:
        """Return where a desktop program keeps its settings."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support" / program
        if self.platform == "win32":
            return self.folder("APPDATA", self.home / "AppData" / "Roaming") / program
        return self.folder("XDG_CONFIG_HOME", self.home / ".config") / program


@dataclass(frozen=True, slots=True)
class Client:
    """A program that speaks MCP, and how its configuration is written."""

    title: str
    place: Callable[[Machine], Path]
    table: str = "mcpServers"  # what holds the entries
    kind: bool = False  # an entry says of which type it is
    headers: str = "headers"  # what holds the headers of a server over HTTP; "": it starts programs only
    toml: bool = False
    after: str = "Restart it."  # what makes it look


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a file says and what it would say."""

    path: Path
    before: str | None  # None: there is no file
    after: str

    @property
    def needed(self) -> bool:
        return (self.before or "") != self.after

    def diff(self) -> str:
        """Return the difference, without the keys that are in it."""
        before, after, name = (self.before or "").splitlines(), self.after.splitlines(), str(self.path)
        found = difflib.unified_diff(before, after, name, name, lineterm="", n=1)
        return "\n".join(re.sub(r"(Bearer )[^\"'\s]+", rf"\1{HIDDEN}", line) for line in found)


# -- where -------------------------------------------------------------------------------------------------------


def _claude_desktop(machine: Machine) -> Path:
    """Return where the app reads it. Installed as a Windows package, it has a folder of its own for this."""
    local = machine.folder("LOCALAPPDATA", machine.home / "AppData" / "Local")
    packed = sorted(local.glob("Packages/Claude_*/LocalCache/Roaming/Claude")) if machine.platform == "win32" else []
    return (packed[0] if packed else machine.settings("Claude")) / "claude_desktop_config.json"


CLIENTS = {
    "claude-desktop": Client(
        "Claude Desktop", _claude_desktop, headers="", after="Quit the app altogether and start it again."
    ),
    "claude-code": Client(
        "Claude Code",
        lambda machine: machine.folder("CLAUDE_CONFIG_DIR", machine.home) / ".claude.json",
        kind=True,
        after="New sessions have it; `/mcp` shows it.",
    ),
    "cursor": Client(
        "Cursor",
        lambda machine: machine.home / ".cursor" / "mcp.json",
        after="Its settings show it, under MCP.",
    ),
    "vscode": Client(
        "VS Code",
        lambda machine: machine.settings("Code") / "User" / "mcp.json",
        table="servers",
        kind=True,
        after="Start it by the command `MCP: List Servers`.",
    ),
    "codex": Client(
        "Codex",
        lambda machine: machine.folder("CODEX_HOME", machine.home / ".codex") / "config.toml",
        table="mcp_servers",
        headers="http_headers",
        toml=True,
        after="New sessions have it; `/mcp` shows it.",
    ),
}


# -- what --------------------------------------------------------------------------------------------------------


def started(client: Client, command: list[str], variables: Mapping[str, str]) -> Entry:
    """Return the entry of a server that the client starts."""
    entry: Entry = {"type": "stdio"} if client.kind else {}
    entry |= {"command": command[0], "args": command[1:]}
    return entry | ({"env": dict(variables)} if variables else {})


def reached(client: Client, url: str, key: str) -> Entry:
    """Return the entry of a server that is reached over HTTP; without a key, it asks for none."""
    if not client.headers:
        raise Invalid(
            f"{client.title} takes servers over HTTP as connectors, in its settings, not in its configuration file; "
            "what it can be told here is a server that it starts: leave out --url"
        )
    entry: Entry = {"type": "http"} if client.kind else {}
    return entry | {"url": url} | ({client.headers: {"Authorization": f"Bearer {key}"}} if key else {})


def snippet(client: Client, name: str, entry: Entry) -> str:
    """Return what to add by hand; where a key belongs it says so."""
    shown = json.loads(re.sub(r"Bearer [^\"]+", "Bearer YOUR-KEY", json.dumps(entry)))
    return _table(client.table, name, shown) if client.toml else json.dumps({client.table: {name: shown}}, indent=2)


# -- write -------------------------------------------------------------------------------------------------------


def change(client: Client, path: Path, name: str, entry: Entry | None) -> Change:
    """Return the file with this entry in its place, or with None without it. Nothing is written yet."""
    before = _text(path)
    edit = _edit_toml if client.toml else _edit_json
    return Change(path=path, before=before, after=edit(before or "", client.table, name, entry))


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Invalid("it is not UTF-8") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def write(change: Change, now: datetime | None = None) -> Path | None:
    """Write it in one step, and return the copy made of what was there before."""
    path = change.path.resolve()
    if _text(path) != change.before:
        raise Conflict(f"{path} was changed by somebody else meanwhile: try again")
    backup = None if change.before is None else _backup(path, now or datetime.now(UTC))
    if backup and change.before is not None:
        _put(backup, change.before, _mode(path))
    replace(path, change.after)
    return backup


def replace(path: Path, text: str) -> None:
    """Write a file in one step. Its mode is kept, a link stays one, and a new file is its owner's alone."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _put(partial, text, _mode(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else PRIVATE


def _backup(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.bak-{now:%Y%m%dT%H%M%SZ}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(place for name in names if not (place := path.with_name(name)).exists())


def _put(path: Path, text: str, mode: int) -> None:
    """Write a file that is never, not even while it is written, readable by more than `mode` says."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), PRIVATE)
    with os.fdopen(opened, "wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)


# -- JSON --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an object in a text: where its key begins, and where its value begins and ends."""

    key: str
    start: int
    value: int
    end: int


def _edit_json(text: str, table: str, name: str, entry: Entry | None) -> str:
    mark, body = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    if not body.strip():
        return text if entry is None else mark + json.dumps({table: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
    root = _parsed(body)
    if not isinstance(root, dict) or not isinstance(root.get(table, {}), dict):
        raise Invalid(f"it is JSON, but {table if isinstance(root, dict) else 'the whole'} is not an object")
    if root.get(table, {}).get(name) == entry:
        return text
    step = found[1] if (found := re.match(r"\s*\{\r?\n([ \t]+)", body)) else "  "
    place = next((member for member in _members(body, body.index("{")) if member.key == table), None)
    if place is None:
        return mark + _put_member(body, body.index("{"), table, {name: entry}, step, 1)
    if entry is None:
        return mark + _without_member(body, place.value, name)
    return mark + _put_member(body, place.value, name, entry, step, 2)


def _parsed(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise Invalid("a name stands twice in one of its objects")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Invalid("it is not plain JSON: it has comments, trailing commas, or a mistake") from error


def _members(text: str, at: int) -> Iterator[_Member]:
    """Yield the members of the object that begins there, in a text that is known to be JSON."""
    decoder, at = json.JSONDecoder(), _skip(text, at + 1)
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        value = _skip(text, _skip(text, at) + 1)
        _, end = decoder.raw_decode(text, value)
        yield _Member(key, start, value, end)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _put_member(text: str, at: int, name: str, value: Any, step: str, depth: int) -> str:
    """Return the text with this member in the object that begins there, in place of the one of that name, or last."""
    newline = "\r\n" if "\r\n" in text else "\n"
    written = json.dumps(value, indent=step, ensure_ascii=False).replace("\n", newline + step * depth)
    members = list(_members(text, at))
    for member in members:
        if member.key == name:
            return text[: member.value] + written + text[member.end :]
    line = f"{newline}{step * depth}{json.dumps(name)}: {written}"
    if members:
        return f"{text[: members[-1].end]},{line}{text[members[-1].end :]}"
    return f"{text[: at + 1]}{line}{newline}{step * (depth - 1)}{text[_skip(text, at + 1) :]}"


def _without_member(text: str, at: int, name: str) -> str:
    members = list(_members(text, at))
    for number, member in enumerate(members):
        if member.key == name:
            if number:
                return text[: members[number - 1].end] + text[member.end :]
            end = members[1].start if len(members) > 1 else _skip(text, member.end)
            start = member.start if len(members) > 1 else at + 1
            return text[:start] + text[end:]
    return text


# -- TOML --------------------------------------------------------------------------------------------------------


def _edit_toml(text: str, table: str, name: str, entry: Entry | None) -> str:
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid("it is not TOML") from error
    there = before.get(table, {})
    if not isinstance(there, dict):
        raise Invalid(f"{table} is not a table")
    if there.get(name) == entry:
        return text
    after = _replaced(text, table, name, entry)
    left = {key: value for key, value in there.items() if key != name} | ({name: entry} if entry else {})
    wanted = {**before, table: left} if left or table in before else before
    if not _same(after, wanted) and not (not left and _same(after, _but(before, table))):
        raise Invalid(f"the entry {name!r} is written in a way that cannot be changed safely")
    return after


def _but(top: dict[str, Any], table: str) -> dict[str, Any]:
    return {name: value for name, value in top.items() if name != table}


def _same(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _replaced(text: str, table: str, name: str, entry: Entry | None) -> str:
    """Return the text with the lines of the entry's tables replaced, or with new ones at its end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    new = _table(table, name, entry).replace("\n", newline) + newline if entry else ""
    lines = text.splitlines(keepends=True)
    spans = list(_spans(lines, table, name))
    if not spans:
        gap = "" if not text.strip() else newline if text.endswith("\n") else newline * 2
        return text + gap + new
    first = spans[0][0]
    kept = [line for at, line in enumerate(lines) if not any(start <= at < end for start, end in spans)]
    above = "".join(kept[:first])
    below = "".join(kept[first:])
    return above + new + below if new else above.rstrip("\r\n") + (newline if above.strip() else "") + below


def _spans(lines: list[str], table: str, name: str) -> Iterator[tuple[int, int]]:
    """Yield where the tables of the entry begin and end; blank lines and comments before the next stay with that."""
    ours = re.compile(rf"\s*\[\s*{table}\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*(\.[^\]]*)?\]")
    headers = [at for at, line in enumerate(lines) if re.match(r"\s*\[", line)]
    for at in headers:
        if ours.match(lines[at]):
            end = next((other for other in headers if other > at), len(lines))
            while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
                end -= 1
            yield at, end


def _table(table: str, name: str, entry: Entry) -> str:
    lines = [f"[{table}.{name}]"]
    for key, value in entry.items():
        if isinstance(value, dict):
            inside = ", ".join(f"{json.dumps(each)} = {_toml(text)}" for each, text in value.items())
            lines.append(f"{key} = {{ {inside} }}")
        else:
            lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which is TOML too
