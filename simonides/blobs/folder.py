"""Blobs as files below a folder, which only their owner may read: `file:///mnt/backup`, or the path of the folder.

A file is written beside its place, flushed, and then takes its name; the folder is flushed, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import unquote

from ..blob import PIECE, Blob, Content, Seen, check_name, watched
from ..disk import not_written, sync_folder
from ..errors import Invalid, NotFound, SimonidesError, Unavailable
from ..record import new_id

PARTIAL = ".partial"
ABANDONED_S = 24 * 3600.0  # after which what was being written is taken to have no writer any more


class FolderBlobs:
    def __init__(self, url: str) -> None:
        path = unquote(url.partition(":")[2])
        if not path.startswith("///") or not path.strip("/"):
            raise Invalid(f"{url!r}: write file:///path/of/a/folder, or just the path of the folder")
        self._folder = Path(path[2:])

    async def put(self, name: str, content: Content, *, digest: str | None = None) -> Blob:
        path, seen = self._path(name), Seen()
        partial = path.with_name(f".{path.name}.{new_id()}{PARTIAL}")
        with _refused(path):
            descriptor = await asyncio.to_thread(_begin, self._folder, partial)
            try:
                async for piece in watched(content, seen, name, digest):
                    await asyncio.to_thread(_write, descriptor, piece)
                await asyncio.to_thread(_take_place, descriptor, partial, path)
            finally:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    partial.unlink()
        return Blob(name, seen.size, seen.digest)

    async def get(self, name: str, *, digest: str | None = None) -> AsyncIterator[bytes]:
        path, seen = self._path(name), Seen()
        try:
            descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"there is no {name} in {self._folder}") from None
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror or error}") from error
        try:
            while piece := await asyncio.to_thread(_read, path, descriptor):
                seen.take(piece)
                yield piece
        finally:
            os.close(descriptor)
        seen.check(name, digest)

    async def size(self, name: str) -> int | None:
        return await asyncio.to_thread(_size, self._path(name))

    async def list(self, folder: str = "", *, after: str = "", limit: int = 1000) -> list[Blob]:
        start = self._path(folder) if folder else self._folder
        names = await asyncio.to_thread(lambda: sorted(name for name in self._names(start) if name > after)[:limit])
        sizes = [await self.size(name) for name in names]
        return [Blob(name, size) for name, size in zip(names, sizes, strict=True) if size is not None]

    async def delete(self, name: str) -> bool:
        return await asyncio.to_thread(_remove, self._path(name))

    async def close(self) -> None:
        pass

    def _path(self, name: str) -> Path:
        return self._folder / check_name(name)

    def _names(self, start: Path) -> Iterator[str]:
        for place, _, files in os.walk(start):
            for file in files:
                if not file.startswith("."):
                    yield Path(place, file).relative_to(self._folder).as_posix()


def _begin(folder: Path, partial: Path) -> int:
    """Open the file to write to; make the folders above it, and remove what was abandoned there."""
    above = [parent for parent in (partial.parent, *partial.parent.parents) if not parent.exists()]
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in above:
        sync_folder(made.parent)
    for old in partial.parent.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if old.stat().st_mtime < time.time() - ABANDONED_S:
                old.unlink()
    return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)


def _write(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _take_place(descriptor: int, partial: Path, path: Path) -> None:
    os.fsync(descriptor)
    os.replace(partial, path)
    sync_folder(path.parent)


def _read(path: Path, descriptor: int) -> bytes:
    try:
        return os.read(descriptor, PIECE)
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror or error}") from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise Unavailable(f"cannot look at {path}: {error.strerror or error}") from error


def _remove(path: Path) -> bool:
    with _refused(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Say in our words what the disk refused."""
    try:
        yield
    except SimonidesError:
        raise
    except OSError as error:
        raise not_written(path, error) from error


open = FolderBlobs
