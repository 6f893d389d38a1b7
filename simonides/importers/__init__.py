"""What other programs kept, read as records. Each module here with a `recognises` is a format.

    for found in read(["~/Downloads/export.zip", "notes"], Scope(user="me")):
        ...  # a Record to keep, or a Problem to tell

A format is told by what a file holds, not by its name. Folders are read whole, in the order of their names, but for
hidden files. Whatever is broken is a Problem, and everything else goes on.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import io
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import Damaged, Unavailable
from ..importer import Importer, Problem
from ..record import Record, Scope
from .archive import HEAD, ZIP, head, members, shown

Told = Callable[[int], object]  # told how many bytes of all the files are done
Named = str | os.PathLike[str]
PACKED = (".zip", ".gz")
WHOLES = frozenset({"conversation", "document"})


@functools.cache
def formats() -> dict[str, Importer]:
    """Return every importer by its name, ours and other people's, the most particular first."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    ours = {name: cast(Importer, module) for name, module in found.items() if hasattr(module, "recognises")}
    theirs = {entry.name: _loaded(entry) for entry in importlib.metadata.entry_points(group="simonides.importers")}
    return dict(sorted((theirs | ours).items(), key=lambda item: (getattr(item[1], "generality", 0), item[0])))


def _loaded(entry: importlib.metadata.EntryPoint) -> Importer:
    try:
        return cast(Importer, entry.load())
    except (ImportError, AttributeError) as error:
        raise Unavailable(f"the importer {entry.name!r} ({entry.value}) cannot be loaded: {error}") from error


def detect(path: Named) -> Importer | None:
    """Return the importer whose format this file is of; None where none knows it, or it cannot be read."""
    path = Path(path)
    try:
        start = head(path)
    except OSError:
        return None
    return next((importer for importer in formats().values() if importer.recognises(path, start)), None)


def size(paths: Iterable[Named]) -> int:
    """Return how many bytes `read` will be done with, for a progress bar."""
    return sum(_size(path) for path, _ in _files(paths) if isinstance(path, Path))


def read(paths: Iterable[Named], scope: Scope, progress: Told | None = None) -> Iterator[Record | Problem]:
    """Yield what all the files say, a conversation or document before its parts, and what was wrong with them.

    A record whose `known.since` is set comes from an export of ours, and is to be restored; any other is to be kept.
    What several files begin (one session in two of them) is yielded once.
    """
    done, passed_over, begun = 0, dict[str, int](), set[tuple[str, str, str]]()
    for path, root in _files(paths):
        if isinstance(path, Problem):
            yield path
            continue
        whole = _size(path)
        for found in _read(path, root, scope, passed_over, _watch(progress, done, whole)):
            if isinstance(found, Problem) or not _is_begun(found, begun):
                yield found
        done += whole
        if progress:
            progress(done)
    for name, count in passed_over.items():
        yield Problem(name, None, f"{count} binary files were passed over" if count > 1 else PASSED_OVER)


def _is_begun(record: Record, begun: set[tuple[str, str, str]]) -> bool:
    if record.kind not in WHOLES or record.known.since:
        return False
    name = (*record.scope.realm, record.id)
    if name in begun:
        return True
    begun.add(name)
    return False


def _read(
    path: Path, root: Path, scope: Scope, passed_over: dict[str, int], told: Told | None
) -> Iterator[Record | Problem]:
    importer = detect(path)
    if importer:
        yield from importer.read(_Watched.of(path, told) if told else path, scope)
    elif problem := _why_not(path):
        if path != root and problem == BINARY and path.suffix.lower() not in PACKED:
            passed_over[shown(root)] = passed_over.get(shown(root), 0) + 1
        else:
            yield Problem(shown(path), None, problem)


BINARY = "is binary, and no importer knows it"
PASSED_OVER = "a binary file was passed over"
ARCHIVE = "is an archive in which no importer knows anything: unpack it, and import the folder"


def _why_not(path: Path) -> str | None:
    """Return why a file that no importer knows is not read; None where there is nothing in it."""
    try:
        with path.open("rb") as file:
            start = file.read(HEAD)
        for member in members(path):
            next(member.blocks, b"")
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except Damaged as error:
        return str(error)
    if not start:
        return None
    if start.startswith(ZIP):
        return ARCHIVE
    return BINARY if b"\0" in start else "no importer knows it"


# -- files --------------------------------------------------------------------------------------------------------


def _files(paths: Iterable[Named]) -> Iterator[tuple[Path | Problem, Path]]:
    """Yield every file once, with the path that was given for it, in the order of names; hidden ones are left out."""
    seen: set[str] = set()
    for root in map(Path, paths):
        for path in _below(root):
            name = str(path) if isinstance(path, Problem) else os.path.abspath(path)
            if name not in seen:
                seen.add(name)
                yield path, root


def _below(root: Path) -> Iterator[Path | Problem]:
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        yield Problem(shown(root), None, "there is no such file or folder")
        return
    refused: list[Problem] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: refused.append(_refused(error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path
    yield from refused


def _refused(error: OSError) -> Problem:
    return Problem(shown(Path(error.filename)), None, f"cannot be looked into: {error.strerror or error}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# -- progress -----------------------------------------------------------------------------------------------------


def _watch(progress: Told | None, before: int, whole: int) -> Told | None:
    return (lambda read: progress(before + min(read, whole))) if progress else None


if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # Path itself cannot be inherited from before Python 3.12


class _Watched(_Path):
    """A path whose file tells how far it was read: so an importer need not know of progress to show it."""

    told: Told | None = None

    @classmethod
    def of(cls, path: Path, told: Told) -> _Watched:
        watched = cls(path)
        watched.told = told
        return watched

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "rb" or self.told is None:
            return super().open(mode, *args, **kwargs)
        return io.BufferedReader(_Meter(self, self.told))


class _Meter(io.FileIO):
    def __init__(self, path: Path, told: Told) -> None:
        super().__init__(path, "rb")
        self._told, self._read = told, 0

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer) or 0
        self._read += size
        self._told(self._read)
        return size
