"""Opens what the settings name. A URL's scheme is a file's name: `sqlite:` is `stores/sqlite.py`.

Only this module knows that there are backends. Other people's are found by entry points, in the groups
`simonides.stores`, `simonides.directories`, `simonides.indexes`, `simonides.embedders` and `simonides.importers`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import platformdirs

from .errors import Invalid, Unavailable

OFF = "none"  # as an embedder: no vectors, words alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a memory is made of. Each may be given in code, as SIMONIDES_<NAME>, or in the configuration file."""

    store: str = ""  # default: memory.db in the user's data folder
    index: str = "flat:"
    embedder: str = "local:"
    tenant: str = "default"
    space: str = "main"
    user: str = ""  # the command line's user when none is named
    zone: str = ""  # IANA name, e.g. Europe/Lisbon; default: the system's
    require: str = ""  # levels that every call must name, e.g. "user" or "user,session"

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{data_folder() / 'memory.db'}"


NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def settings(given: Mapping[str, str | None] | None = None) -> Settings:
    """Return the settings: what was given, else the environment, else the file, else the defaults."""
    known = file_settings()
    known |= {name: value for name in NAMES if (value := os.environ.get(f"SIMONIDES_{name.upper()}"))}
    known |= {name: value for name, value in (given or {}).items() if value is not None}
    return Settings(**known)


def file_settings() -> dict[str, str]:
    path = settings_file()
    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"the settings in {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}") from error
    for name, value in read.items():
        if name not in NAMES:
            raise Invalid(f"{path}: there is no setting {name!r}{did_you_mean(name, NAMES)}")
        if not isinstance(value, str):
            raise Invalid(f"{path}: {name} must be a string")
    return read


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


def open_backend(folder: str, url: str, *arguments: Any) -> Any:
    """Open the backend of that folder (`stores`, `directories`, …) that the URL's scheme names."""
    scheme = url.partition(":")[0]
    module = f"{__package__}.{folder}.{scheme}"
    if scheme.isidentifier() and importlib.util.find_spec(module):
        return importlib.import_module(module).open(url, *arguments)
    for entry in importlib.metadata.entry_points(group=f"simonides.{folder}", name=scheme):
        return entry.load()(url, *arguments)
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


def did_you_mean(name: str, names: Any) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
