"""Opens what the settings name. A URL's scheme is a file's name: `sqlite:` is `stores/sqlite.py`.

Only this module knows that there are backends. Other people's are found by entry points, in the groups
`simonides.stores`, `simonides.directories`, `simonides.indexes`, `simonides.embedders`, `simonides.caches`,
`simonides.blobs`, `simonides.sinks`, `simonides.feeds` and `simonides.importers`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import platformdirs

from .breaker import Guarded
from .cache import Cache
from .errors import Invalid, SimonidesError
from .serving import Serving, setting, told
from .sources import File, Given, find, read_file, unknown_in_environment, unknown_in_file, value_of
from .sources import did_you_mean as did_you_mean

OFF = "none"  # as an embedder: no vectors, words alone
HERE, ELSEWHERE = WORK = ("here", "elsewhere")  # where the log is followed
NO_CACHE = (OFF, "none:", "off")
SPELLED = {"postgresql": "postgres"}  # schemes that others write otherwise
REACHING = (  # libpq's parameters, or how they begin, that say how a server is reached
    *("ssl", "host", "port", "user", "password", "passfile", "service", "connect_timeout", "target_session_attrs"),
    *("load_balance_hosts", "channel_binding", "keepalives", "tcp_user_timeout", "gss", "krb", "require", "dbname"),
    *("application_name", "options"),
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """What a memory is made of. Each may be given in code, as `SIMONIDES_<NAME>`, or in the configuration file."""

    store: str = setting("", "URL of the store; empty: memory.db in the user's data folder")
    read_url: str = setting("", "URL of a replica of the store, which is read from as long as it is not behind")
    index: str = setting("", "URL of the index; empty: the one that fits the store")
    embedder: str = setting("local:", "URL of what turns texts into vectors; none: words alone")
    embedder_next: str = setting("", "URL of the embedder to change over to, once `simonides embeddings` says so")
    cache: str = setting(
        "process:", "URL of the cache: of a server in its process, redis: and rediss: for whoever shares it; none: off"
    )
    cache_seconds: float = setting(60.0, "seconds that an answer is kept in the cache; 0: not at all", least=0)
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

    @property
    def index_url(self) -> str:
        return self.index or index_url(self.store_url)


SERVER = "server"  # its table in the configuration file
TABLES: dict[str, type[Settings] | type[Serving]] = {"": Settings, SERVER: Serving}
NAMES, SERVER_NAMES = (tuple(field.name for field in dataclasses.fields(each)) for each in TABLES.values())
NAMED = {"": NAMES, SERVER: SERVER_NAMES}


def settings(given: Mapping[str, Any] | None = None, *, path: Path | None = None) -> Settings:
    """Return the settings: what was given, else the environment, else the file, else the defaults."""
    taken: dict[str, Any] = {name: value for name, value in (given or {}).items() if value is not None}
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


def blob_url(text: str) -> str:
    """Return the URL of a store of blobs however it was spelled: a URL, or the path of a folder."""
    if text.startswith("file:"):
        return f"folder:{text.removeprefix('file:')}"
    if "://" in text:
        return text
    return Path(text).expanduser().absolute().as_uri().replace("file:", "folder:", 1)


def index_url(store: str) -> str:
    """Return the index that fits the store: in the same PostgreSQL, or else in files beside it."""
    return _beside(store, "pgvector", "near") or "flat:"


def directory_url(store: str) -> str:
    """Return where the keys to that store are: in the same PostgreSQL, in a file beside its own, or else in the user's
    data folder.
    """
    scheme, _, path = store_url(store).partition(":")
    path, *_ = path.removeprefix("///").partition("?")
    of_a_file = scheme == "sqlite" and path != ":memory:"
    beside = f"sqlite:///{path}-keys" if of_a_file else f"sqlite:///{data_folder() / 'keys.db'}"
    return _beside(store, "postgres", "keys") or beside


def _beside(store: str, scheme: str, what: str) -> str:
    """Return the URL of a schema of its own in the PostgreSQL of the store; "" where the store is in none.

    It is named after the store's schema, so that two stores in one database never share what belongs to each. Of the
    URL's options those go along that say how the server is reached.
    """
    place, _, query = store_url(store).partition("?")
    spelled = place.partition(":")[0]
    if SPELLED.get(spelled, spelled) != "postgres":
        return ""
    options = dict(parse_qsl(query, keep_blank_values=True))
    kept = {name: value for name, value in options.items() if name.startswith(REACHING)}
    kept["schema"] = f"{options.get('schema', 'simonides')}_{what}"
    return f"{scheme}:{place.partition(':')[2]}?{urlencode(kept)}"


def keys_url(store: str, directory: str) -> str:
    """Return where the keys to that store are: in the directory that the settings name, or else in its own place."""
    return store_url(directory) if directory else directory_url(store)


def open_cache(url: str) -> Cache | None:
    """Open the cache, guarded against its going away where it is not in this process; None where it is off."""
    if url in NO_CACHE:
        return None
    opened: Cache = open_backend("caches", url)
    return Guarded(opened) if opened.shared else opened


def open_backend(folder: str, url: str, *arguments: Any) -> Any:
    """Open the backend of that folder (`stores`, `directories`, …) that the URL's scheme names."""
    return opener(folder, url)(url, *arguments)


def open_store(url: str, read_url: str = "") -> Any:
    """Open the store; with a `read_url` one that can read from a replica, or raise Invalid."""
    found = opener("stores", url)
    if read_url and len(inspect.signature(found).parameters) < 2:
        raise Invalid(f"a store in {url.partition(':')[0]} has no replica to read from: leave out read_url")
    return found(url, read_url) if read_url else found(url)


def opener(folder: str, url: str) -> Callable[..., Any]:
    """Return what opens such a URL; raise Invalid where nothing does."""
    scheme = url.partition(":")[0]
    scheme = SPELLED.get(scheme, scheme)
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
