"""A file as it comes: plain, compressed (gzip), or an archive (zip) with what is looked for among its members.

What it holds is told by its first bytes, not its name. It is read in blocks, and never further than a limit: a small
file that unpacks into a huge one is refused before it fills the memory.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct
import typing
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import Damaged

BLOCK = 256 * 1024
HEAD = 64 * 1024
SIZE_MAX = 2 * 1024**3  # bytes of one file as it lies on the disk
UNPACKED_MAX = 8 * 1024**3
DIRECTORY_MAX = 32 * 1024**2  # bytes of the list of what is in an archive, which takes ten times that in memory
RATIO_MAX = 200  # unpacked to packed; JSON of chats packs 5 to 20 times smaller …
RATIO_FREE = 32 * 1024**2  # … but the first bytes may be as repetitive as they like
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
CHATS = "conversations*.json"  # what exports of chats call it; large ones come as conversations-000.json and so on
LINES = (".jsonl", ".ndjson")
UNREADABLE = (  # all that unpacking broken bytes was seen to raise, and what its documentation names
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error,
    NotImplementedError, RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One stream of bytes in a file: the file itself, or one in an archive. Its blocks can be read once."""

    name: str  # for people
    blocks: Iterator[bytes]


def members(path: Path) -> Generator[Member]:
    """Yield what there is to read in a file. Raise Damaged where it is not what its first bytes promise."""
    packed = path.stat().st_size
    if packed > SIZE_MAX:
        raise Damaged(f"is larger than {SIZE_MAX // 1024**3} GiB: split it")
    budget = _Budget(packed)
    with path.open("rb") as file:
        start = file.read(len(ZIP))
        file.seek(0)
        if start == ZIP:
            yield from _zipped(path, file, budget)
        elif start.startswith(GZIP):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield Member(shown(path), _blocks(unpacked, budget))
        else:
            yield Member(shown(path), _blocks(file, None))


def head(path: Path) -> bytes:
    """Return how what there is to read begins, at most 64 KiB of it, unpacked."""
    found = bytearray()
    with contextlib.suppress(Damaged), contextlib.closing(members(path)) as streams:
        for member in streams:
            for block in member.blocks:
                found += block
                if len(found) >= HEAD:
                    break
            break
    return bytes(found[:HEAD])


def suffix(path: Path) -> str:
    """Return how the name ends, in lower case: `.md` of notes.MD as of notes.md.gz."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def shown(path: Path) -> str:
    """Return the path as it can be printed and kept, even if its bytes are not text."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


class _Budget:
    """How much may still be unpacked from a file of that size."""

    def __init__(self, packed: int) -> None:
        self._packed, self._unpacked = packed, 0

    def spend(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > UNPACKED_MAX:
            raise Damaged(f"unpacks into more than {UNPACKED_MAX // 1024**3} GiB: unpack it yourself, and split it")
        if self._unpacked > max(RATIO_FREE, RATIO_MAX * self._packed):
            raise Damaged(f"unpacks into more than {RATIO_MAX} times its size, as a zip bomb does: read no further")


def _zipped(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(typing.cast("IO[bytes]", _Sparing(file)))
    except UNREADABLE as error:
        raise Damaged(f"is a broken zip archive: {_said(error)}") from error
    with archive:
        for info in _wanted(archive.infolist()):
            yield Member(f"{shown(path)}/{info.filename}", _unzipped(archive, info, budget))


class _Sparing:
    """A file of which never much is read at once: of an archive, only the list of its members could be as long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_MAX:
            raise Damaged(f"lists its members on more than {DIRECTORY_MAX // 1024**2} MiB: unpack it yourself")
        return self._file.read(size)


def _wanted(infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the members that hold chats; where none is called so, every one that holds JSON."""
    seen = [(PurePosixPath(info.filename), info) for info in infos if not info.is_dir()]
    seen = sorted(((name, info) for name, info in seen if not name.name.startswith(".")), key=lambda pair: pair[0])
    chats = [info for name, info in seen if fnmatch(name.name, CHATS)]
    return chats or [info for name, info in seen if name.suffix.lower() in (".json", *LINES)]


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget) -> Iterator[bytes]:
    try:
        member = archive.open(info)
    except UNREADABLE as error:
        raise Damaged(f"cannot be unpacked: {_said(error)}") from error
    with member:
        yield from _blocks(member, budget)


def _blocks(file: IO[bytes] | gzip.GzipFile, budget: _Budget | None) -> Iterator[bytes]:
    while block := _block(file):
        if budget:
            budget.spend(len(block))
        yield block


def _block(file: IO[bytes] | gzip.GzipFile) -> bytes:
    try:
        return file.read1(BLOCK)  # type: ignore[union-attr]  # every file here is buffered, and has it
    except UNREADABLE as error:
        raise Damaged(f"cannot be read any further: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
