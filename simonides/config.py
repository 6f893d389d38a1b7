"""Opens what the settings name. A URL's scheme is a file's name: `sqlite:` is `stores/sqlite.py`.

Only this module knows that there are backends. Other people's are found by entry points, in the groups
`simonides.stores`, `simonides.directories`, `simonides.indexes`, `simonides.embedders`, `simonides.sinks`,
`simonides.feeds` and `simonides.importers`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from .errors import Invalid, SimonidesError
from .serving import Serving, setting, told
from .sources import File, Given, find, read_file, unknown_in_environment, unknown_in_file, value_of
from .sources import did_you_mean as did_you_mean

OFF = "none"  # as an embedder: no vectors, words alone
HERE, ELSEWHERE = WORK = ("here", "elsewhere")  # where the log is followed


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """What a memory is made of. Each may be given in code, as `SIMONIDES_<NAME>`, or in the configuration file."""

    store: str = setting("", "URL of the store; empty: memory.db in the user's data folder")
    index: str = setting("flat:", "URL of the index")
    embedder: str = setting("local:", "URL of what turns texts into vectors; none: words alone")
    feed: str = setting("", "URL of the broker that carries the log to the workers; empty: they read it off the store")
    sinks: tuple[str, ...] = setting((), "URLs of the sinks that are sent what happens, as events", urls=True)
    tenant: str = setting("default", "the tenant of whoever names none")
    space: str = setting("main", "the space of whoever names none")
    user: str = setting("", "the command line's user when none is named")
    work: str = setting(HERE, "who embeds what is remembered: here, or elsewhere: `simonides worker`", choices=WORK)
    zone: str = setting("", "IANA name, e.g. Europe/Lisbon; empty: the system's")
    require: str = setting("", 'levels that every call must name, e.g. "user" or "user,session"')

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)
        return f"Settings({', '.join(f'{field.name}={told(field, getattr(self, field.name))!r}' for field in fields)})"

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{data_folder() / 'memory.db'}"


SERVER = "server"  # its table in the configuration file
TABLES: dict[str, type[Settings] | type[Serving]] = {"": Settings, SERVER: Serving}
NAMES, SERVER_NAMES = (tuple(field.name for field in dataclasses.fields(each)) for each in TABLES.values())
NAMED = {"": NAMES, SERVER: SERVER_NAMES}


def settings(given: Mapping[str, Any] | None = None, *, path: Path | None = None) -> Settings:
    """Return the settings: what was given, else the environment, else the file, else the defaults."""
    taken = {name: value for name, value in (given or {}).items() if value is not None}
    return Settings(**_read("", {}, path, taken.keys()), **taken)


def serving(flags: Mapping[str, Any] | None = None, *, path: Path | None = None) -> Serving:
    """Return what a server is told: by flags, else the environment, else the table [server], else the defaults."""
    return Serving(**_read(SERVER, flags or {}, path))


def _read(table: str, flags: Mapping[str, Any], path: Path | None, but: Collection[str] = ()) -> dict[str, Any]:
    file = read_file(path or settings_file())
    for complaint in _unknown(file):
        raise Invalid(complaint)
    fields = [field for field in dataclasses.fields(TABLES[table]) if field.name not in but]
    return {field.name: value_of(field, found) for field in fields if (found := find(table, field, flags, file))}


def _unknown(file: File) -> Iterator[str]:
    yield from unknown_in_file(file, NAMED)
    yield from unknown_in_environment([*NAMES, *SERVER_NAMES])


def origins(table: str, flags: Mapping[str, Any]) -> dict[str, Given]:
    """Return where each setting of the table that was given by somebody comes from."""
    file = read_file(settings_file())
    fields = dataclasses.fields(TABLES[table])
    return {field.name: found for field in fields if (found := find(table, field, flags, file))}


def watched(flags: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
    """Return the files that a server's settings are read from: where one changes, `serving` may answer otherwise."""
    held = [given.path for given in origins(SERVER, flags or {}).values() if given.path]
    return (settings_file(), *held)


def complaints(path: Path | None = None) -> Iterator[str]:
    """Say what is wrong with the settings, those of the server too, in this file and in the environment."""
    try:
        file = read_file(path or settings_file())
        yield from _unknown(file)
    except SimonidesError as error:
        yield error.message
        file = File(path or settings_file(), "", {})
    for table, made in TABLES.items():
        for field in dataclasses.fields(made):
            try:
                if given := find(table, field, {}, file):
                    value_of(field, given)
            except SimonidesError as error:
                yield error.message


def settings_file() -> Path:
    return Path(os.environ.get("SIMONIDES_CONFIG") or Path(platformdirs.user_config_dir("simonides")) / "config.toml")


def data_folder() -> Path:
    return Path(os.environ.get("SIMONIDES_HOME") or platformdirs.user_data_dir("simonides"))


def store_url(text: str) -> str:
    """Return the URL of a store however it was spelled: a URL, `:memory:`, or the path of a file."""
    if text == ":memory:":
        return "sqlite:///:memory:"
    if ":" not in text or os.sep in text.partition(":")[0] or (os.altsep or os.sep) in text.partition(":")[0]:
        return f"sqlite:///{text}"
    return text


def directory_url(store: str) -> str:
    """Return where the keys to that store are: in a file beside its own, or else in the user's data folder."""
    scheme, _, path = store_url(store).partition(":")
    path, *_ = path.removeprefix("///").partition("?")
    of_a_file = scheme == "sqlite" and path != ":memory:"
    return f"sqlite:///{path}-keys" if of_a_file else f"sqlite:///{data_folder() / 'keys.db'}"


def keys_url(store: str, directory: str) -> str:
    """Return where the keys to that store are: in the directory that the settings name, or else in its own place."""
    return store_url(directory) if directory else directory_url(store)


def open_backend(folder: str, url: str, *arguments: Any) -> Any:
    """Open the backend of that folder (`stores`, `directories`, …) that the URL's scheme names."""
    return opener(folder, url)(url, *arguments)


def opener(folder: str, url: str) -> Callable[..., Any]:
    """Return what opens such a URL; raise Invalid where nothing does."""
    scheme = url.partition(":")[0]
    module = f"{__package__}.{folder}.{scheme}"
    if scheme.isidentifier() and importlib.util.find_spec(module):
        found: Callable[..., Any] = importlib.import_module(module).open
        return found
    for entry in importlib.metadata.entry_points(group=f"simonides.{folder}", name=scheme):
        loaded: Callable[..., Any] = entry.load()
        return loaded
    names = backends(folder)
    raise Invalid(f"no {scheme!r} in {folder}{did_you_mean(scheme, names)}; there are: {', '.join(names)}")


def backends(folder: str) -> list[str]:
    package = importlib.import_module(f"{__package__}.{folder}")
    ours = [module.name for module in pkgutil.iter_modules(package.__path__) if is_backend(folder, module.name)]
    theirs = [entry.name for entry in importlib.metadata.entry_points(group=f"simonides.{folder}")]
    return sorted({*ours, *theirs})


def is_backend(folder: str, name: str) -> bool:
    """Whether the module says what opens it; others in the folder are parts of a backend."""
    spec = importlib.util.find_spec(f"{__package__}.{folder}.{name}")
    return bool(spec and spec.origin and "\nopen = " in Path(spec.origin).read_text("utf-8"))
