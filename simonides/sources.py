"""Where the value of a setting comes from: a flag, else the environment, else the configuration file.

Each may hold the value itself, or under `<name>_file` the path of a file that holds it, as secrets are mounted into
containers. A text becomes what the setting is; what it cannot be is refused with the place where it was written.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from .errors import Invalid, Unavailable
from .serving import about, check

Field = dataclasses.Field[Any]

PREFIX, FILE = "SIMONIDES_", "_file"
ALIASES = {"store": ("SIMONIDES_URL",)}
OTHERS = (  # no settings
    *("SIMONIDES_CONFIG", "SIMONIDES_HOME", "SIMONIDES_KEY", "SIMONIDES_MODEL_SOURCE"),
    *("SIMONIDES_BACKUP_PASSPHRASE", "SIMONIDES_BACKUP_PASSPHRASE_FILE"),
)
CONTENT_MAX = 64 * 1024  # bytes of a file that holds a value
MOUNTED = ("/run/secrets/", "/var/run/secrets/")  # readable by all who are in the container, which is one program
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

log = logging.getLogger("simonides")

# What Kubernetes and Docker set for a service that is called simonides: addresses, which are no settings.
_SERVICE = re.compile(r"SIMONIDES_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody gave it."""

    value: Any
    origin: str  # the flag, the variable, or the configuration file
    line: int | None = None  # of the file
    path: Path | None = None  # of the file that holds the value

    @property
    def where(self) -> str:
        return f"{self.origin}, line {self.line}" if self.line else self.origin


@dataclass(frozen=True, slots=True)
class File:
    """A configuration file, read."""

    path: Path
    text: str
    top: Mapping[str, Any]

    def table(self, name: str) -> Mapping[str, Any]:
        """Return a table of it, or with "" what stands outside of the tables."""
        found = self.top.get(name, {}) if name else self.top
        if not isinstance(found, Mapping):
            raise Invalid(f"{self.path}: {name} must be a table: write its settings below a line [{name}]")
        return found

    def line(self, table: str, name: str) -> int | None:
        """Return where a value is given, where this can be told."""
        inside, dotted = "", rf"\s*{table}\s*\.\s*{name}\s*="
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([\w.\"' -]+?)\s*\]", line):
                inside = header[1]
            elif (inside == table and re.match(rf"\s*{name}\s*=", line)) or (not inside and re.match(dotted, line)):
                return number
        return None


def read_file(path: Path) -> File:
    """Read a configuration file; one that is not there says nothing."""
    try:
        text = path.read_text("utf-8")
        return File(path, text, tomllib.loads(text))
    except FileNotFoundError:
        return File(path, "", {})
    except OSError as error:
        raise Unavailable(f"the settings in {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}") from error


def written(file: File, table: str, name: str, value: Any) -> str:
    """Return the text of the file with this value in its place, all other lines as they are; "" takes it out."""
    line = [] if value == "" else [f"{name} = {_toml(value)}"]
    lines = file.text.splitlines()
    if number := file.line(table, name):
        dotted = re.match(r"\s*[\w.]+\s*\.", lines[number - 1].partition("=")[0])
        lines[number - 1 : number] = [(dotted[0] if dotted else "") + each for each in line]
    elif line:
        lines = _added(lines, table, line[0], dotted=table in file.top)
    made = "".join(f"{each}\n" for each in lines)
    if _parsed(made) not in _wanted(file.top, table, name, value):
        raise Invalid(f"{file.path} is written in a way that this command cannot change: edit {name} in it by hand")
    return made


def _added(lines: list[str], table: str, line: str, *, dotted: bool) -> list[str]:
    """Return the lines with this one at the end of the table; where it has no header, with one or as `table.name`."""
    headers = [at for at, text in enumerate(lines) if re.match(r"\s*\[", text)]
    own = [at for at in headers if re.match(rf"\s*\[\s*{table}\s*\]", lines[at])] if table else [-1]
    if not own and not dotted:
        return [*lines, *([""] if lines else []), f"[{table}]", line]
    first = own[0] if own else -1
    end = next((at for at in headers if at > first), len(lines))
    while end - 1 > first and not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], line if own else f"{table}.{line}", *lines[end:]]


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)  # which is TOML too


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _wanted(top: Mapping[str, Any], table: str, name: str, value: Any) -> list[dict[str, Any]]:
    """Return what the file may say then: of a table that has nothing left, it may not speak at all."""
    inside = {**(top.get(table, {}) if table else top), name: list(value) if isinstance(value, tuple) else value}
    if value == "":
        del inside[name]
    without = {other: each for other, each in top.items() if other != table}
    return [inside] if not table else [{**top, table: inside}, *([] if inside else [without])]


# -- one value ---------------------------------------------------------------------------------------------------


def find(table: str, field: Field, flags: Mapping[str, Any], file: File) -> Given | None:
    """Return the value that counts; None where nobody gave one."""
    return _of_flags(field, flags) or _of_environment(field) or _of_file(table, field, file)


def _of_flags(field: Field, flags: Mapping[str, Any]) -> Given | None:
    value, path = flags.get(field.name), flags.get(field.name + FILE)
    flag = f"--{field.name.replace('_', '-')}"
    return _one(field, (value, flag), (path, f"{flag}-file"), Path())


def _of_environment(field: Field) -> Given | None:
    found = [given for variable in variables(field.name) if (given := _of_variable(field, variable))]
    if len({given.value for given in found}) > 1:
        raise Invalid(f"{' and '.join(given.origin for given in found)} differ: keep one of them")
    return found[0] if found else None


def _of_variable(field: Field, variable: str) -> Given | None:
    value, filed = os.environ.get(variable) or None, f"{variable}{FILE.upper()}"
    value = None if value and _ADDRESS.match(value) and _is_service(variable) else value
    return _one(field, (value, variable), (os.environ.get(filed) or None, filed), Path())


def _of_file(table: str, field: Field, file: File) -> Given | None:
    inside, filed = file.table(table), field.name + FILE
    found = _one(field, (inside.get(field.name), field.name), (inside.get(filed), filed), file.path.parent)
    name = filed if filed in inside else field.name
    return found and dataclasses.replace(found, origin=str(file.path), line=file.line(table, name))


def variables(name: str) -> tuple[str, ...]:
    """Return the variables that give a setting."""
    return (f"{PREFIX}{name.upper()}", *ALIASES.get(name, ()))


def _one(field: Field, plain: tuple[Any, str], filed: tuple[Any, str], folder: Path) -> Given | None:
    """Return the value that is given itself or by a file; a path is relative to the folder."""
    (value, origin), (path, file_origin) = plain, filed
    if value is not None and path is not None:
        raise Invalid(f"{origin} and {file_origin} are both given: keep one of them")
    if path is None:
        return None if value is None else Given(value, origin)
    if not isinstance(path, str | Path):
        raise Invalid(f"{file_origin} must be the path of a file")
    place = folder / Path(path).expanduser()
    return Given(_content(field, place, file_origin), file_origin, path=place)


def _content(field: Field, path: Path, origin: str) -> str:
    """Return what the file holds, without the newline that editors put at its end."""
    try:
        with path.open("rb") as opened:
            read = opened.read(CONTENT_MAX + 1)
            mode = os.fstat(opened.fileno()).st_mode
        text = re.sub(r"\r?\n\Z", "", read.decode("utf-8"))
    except OSError as error:
        raise Unavailable(f"{origin}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{origin}: {path} is not UTF-8") from None
    if not text or len(read) > CONTENT_MAX:
        raise Invalid(f"{origin}: {path} {'is longer than a setting can be' if text else 'is empty'}")
    if about(field).secret and mode & stat.S_IROTH and os.name == "posix" and not str(path).startswith(MOUNTED):
        _warn(f"{path} holds a secret and may be read by everybody on this machine: chmod o-r {path}")
    return text


@cache
def _warn(message: str) -> None:
    """Say it once."""
    log.warning(message)


# -- what it becomes ---------------------------------------------------------------------------------------------


def value_of(field: Field, given: Given) -> Any:
    """Return the value as the setting has it; raise Invalid, with where it was given, where it cannot."""
    value = _typed(field, given.value)
    try:
        check(field, value)
    except Invalid as error:
        raise Invalid(f"{error.message} ({given.where})") from None
    return value


def _typed(field: Field, value: Any) -> Any:
    """Return a text as the type of the setting; what does not read as one stays, and is refused as it is."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and field.type == "float":
        return float(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if field.type == "bool":
        return WORDS.get(text.casefold(), value)
    if field.type == "int":
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else value
    if field.type == "float":
        return float(text) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text, re.ASCII) else value
    if field.type == "tuple[str, ...]":
        between = r"\s+|,(?=\s*\w+:(?:\w+:)?//)" if about(field).urls else r"[,\n]"
        return tuple(part for each in re.split(between, value) if each and (part := each.strip(" ,")))
    return text.casefold() if about(field).choices else value


# -- names -------------------------------------------------------------------------------------------------------


def unknown_in_file(file: File, tables: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Say of each name in the file that is no setting what it might have been."""
    for table, names in tables.items():
        known = [*names, *(name + FILE for name in names), *(tables if not table else ())]
        for name in file.table(table):
            if name not in known:
                at = f", line {line}" if (line := file.line(table, name)) else ""
                dotted = f"{table}.{name}" if table else name
                yield f"{file.path}{at}: there is no setting {dotted!r}{_meant(name, table, tables)}"


def _meant(name: str, table: str, tables: Mapping[str, Iterable[str]]) -> str:
    for other, names in tables.items():
        if other != table and name.removesuffix(FILE) in names:
            return f": it belongs {f'below a line [{other}]' if other else 'above the first line in brackets'}"
    return did_you_mean(name, [*tables[table], *(each + FILE for each in tables[table])])


def unknown_in_environment(names: Iterable[str]) -> Iterator[str]:
    """Say of each variable that looks like ours and is not what it might have been."""
    plain = [variable for name in names for variable in variables(name)]
    known = {*plain, *(variable + FILE.upper() for variable in plain), *OTHERS}
    for variable in sorted(os.environ):
        ours = variable.startswith(PREFIX) and not variable.startswith(f"{PREFIX}TEST_")
        if ours and variable not in known and not _is_service(variable):
            yield f"there is no setting {variable}{did_you_mean(variable, known)}"


def _is_service(variable: str) -> bool:
    if _SERVICE.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _ADDRESS.match(os.environ.get(variable, "")) is not None


def did_you_mean(name: str, names: Any) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
