"""Our own export: a file of lines, one for every version of every record, from which a memory can be made again.

The first line says what the file is; each other line is one version, with everything: both clocks, links, metadata. A
file whose name ends in `.gz` is compressed. What `line` writes, `record` reads back equal.

An export holds what was said, so an erase reaches into it: `without` takes lines out, and the old bytes with them.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import typing
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from .disk import not_written, sync_folder
from .errors import Damaged, Invalid, Unavailable
from .importer import Problem
from .kinds import KINDS
from .record import Record, Ref, new_id, now

FORMAT = 1
FOLDER = "exports"  # beside the store: where exports go without a path, and what an erase looks through
STEP = 500  # records between two calls of `progress`
PARTIAL, ERASING = ".partial", ".erasing"  # how names of files end that are being written, or destroyed
GZIP = b"\x1f\x8b"
UNREADABLE = (OSError, EOFError, zlib.error)
FIELDS: dict[str, Any] = {name: kind for name, kind in typing.get_type_hints(Record).items() if name != "body"}
RANGES: dict[str, Any] = {
    "version": typing.Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)],
    "importance": typing.Annotated[int, msgspec.Meta(ge=1, le=10)],
    "status": typing.Literal["active", "archived"],
}
LINE: Any = msgspec.defstruct("Line", [("kind", str), ("body", msgspec.Raw), *(FIELDS | RANGES).items()])


def line(record: Record) -> bytes:
    """Return the one line that says everything about this version, without the line's end."""
    try:
        return msgspec.json.encode({"kind": record.kind, **{name: getattr(record, name) for name in (*FIELDS, "body")}})
    except UnicodeEncodeError:
        raise Invalid(f"record {record.id} holds a lone surrogate, which no encoding can store") from None


def record(line: bytes) -> Record:
    """Return the version that the line says. Raise Damaged where it is none."""
    try:
        said = msgspec.json.decode(line, type=LINE)
        body = msgspec.json.decode(said.body, type=KINDS[said.kind])
        return Record(body=body, **{name: getattr(said, name) for name in FIELDS})
    except KeyError as error:
        raise Damaged(f"not a record of ours: the kind {error} is not known here") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise Damaged(f"not a record of ours: {error}") from None


def header() -> bytes:
    return msgspec.json.encode({"simonides": FORMAT, "kind": "export", "made": now()})


def is_header(line: bytes) -> bool:
    return _header(line) is not None


def _header(line: bytes) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return said if said.get("kind") == "export" and type(said.get("simonides")) is int else None


# -- write --------------------------------------------------------------------------------------------------------


def write(path: str | Path, records: Iterable[Record], progress: Callable[[int], object] | None = None) -> Path:
    """Write the records to the file and return its path; whoever looks sees the old file, or the whole new one.

    A link stays one, and what it leads to is written. `progress` is told how many more records were written, every now
    and then. Raise Full where the disk is.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    with _replacing(target) as partial:
        _write_lines(partial, _exported(records, progress), packed=path.suffix == ".gz")
        os.replace(partial, target)
        sync_folder(target.parent)
    return path


def _exported(records: Iterable[Record], progress: Callable[[int], object] | None) -> Iterator[bytes]:
    yield header()
    written = 0
    for written, each in enumerate(records, 1):
        yield line(each)
        if progress and written % STEP == 0:
            progress(STEP)
    if progress and written % STEP:
        progress(written % STEP)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give the name to write to, and leave nothing under it; say in our words what the disk refused."""
    partial = path.with_name(f".{path.name}.{new_id()}{PARTIAL}")
    try:
        yield partial
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _write_lines(path: Path, lines: Iterable[bytes], *, packed: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # what was said is its owner's alone
    with os.fdopen(descriptor, "wb") as file:
        with gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else contextlib.nullcontext(file) as out:
            for each in lines:
                out.write(each + b"\n")
        file.flush()
        os.fsync(file.fileno())


# -- read ---------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Iterator[Record | Problem]:
    """Yield every version with the clocks it had, in the order written; a line that is no record is a Problem."""
    path = Path(path)
    try:
        with _opened(path) as file:
            yield from parse(str(path), _readable(path, file))
    except OSError as error:
        yield Problem(str(path), None, f"cannot be opened: {error.strerror or error}")


def parse(name: str, lines: Iterable[bytes]) -> Iterator[Record | Problem]:
    """Yield what the lines of the export of that name say, the header first among them."""
    number = 0
    try:
        for number, each in enumerate(lines, 1):
            if number == 1:
                if problem := _unfit(each):
                    yield Problem(name, 1, problem)
                    return
            elif each.strip():
                yield _line_or_problem(name, number, each)
    except Damaged as error:
        yield Problem(name, number + 1, error.message)
        return
    if not number:
        yield Problem(name, None, "is empty")


def _unfit(first: bytes) -> str | None:
    said = _header(first)
    if said is None:
        return "is no export of Simonides: its first line does not say so"
    if said["simonides"] > FORMAT:
        return f"was made by a newer Simonides (format {said['simonides']}, this one reads {FORMAT}): upgrade first"
    return None


def _line_or_problem(name: str, number: int, each: bytes) -> Record | Problem:
    try:
        return record(each)
    except Damaged as error:
        return Problem(name, number, error.message)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if not _is_packed(path):
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield typing.cast("IO[bytes]", unpacked)


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP


def _readable(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except UNREADABLE as error:
        raise Damaged(f"{path} cannot be read any further: {error}") from error


# -- erase --------------------------------------------------------------------------------------------------------


def without(path: str | Path, refs: Collection[Ref]) -> int:
    """Take every version of these records out of an export, and the bytes that held them; return how many lines went.

    What cannot be read goes too, for it might be what is to be erased; so does what a write left behind when it died.
    A file that is no export of ours is left alone. Whoever looks sees the old file, or the whole new one.
    """
    path, gone = Path(path), frozenset(refs)
    if path.name.startswith(".") and path.name.endswith((PARTIAL, ERASING)):
        _destroy(path)
        return 0
    if not _is_export(path):
        return 0
    fates, whole = _fates(path, gone)
    if all(fates) and whole:
        return 0
    with _replacing(path) as partial:
        with _opened(path) as file:
            kept = (each.rstrip(b"\n") for stays, each in zip(fates, file, strict=False) if stays)
            _write_lines(partial, kept, packed=_is_packed(path))
        _take_place(partial, path)
    return fates.count(False)


def _is_export(path: Path) -> bool:
    try:
        with _opened(path) as file:
            return is_header(file.readline(4096))
    except (gzip.BadGzipFile, EOFError, zlib.error, FileNotFoundError):
        return False
    except OSError as error:
        raise Unavailable(f"cannot look into {path} for what is to be erased: {error.strerror or error}") from error


def _fates(path: Path, gone: frozenset[Ref]) -> tuple[list[bool], bool]:
    """Return for each line whether it stays, as far as the file can be read, and whether that was to its end."""
    fates: list[bool] = []
    try:
        with _opened(path) as file:
            fates.extend(_stays(each, gone) for each in file)  # in place: what came before the damage counts
    except UNREADABLE:
        return fates, False
    return fates, True


def _stays(each: bytes, gone: frozenset[Ref]) -> bool:
    if is_header(each):
        return True
    try:
        return record(each).ref not in gone
    except Damaged:
        return not each.strip()


def _take_place(new: Path, path: Path) -> None:
    """Put the new file in the old one's place, then destroy the old, which keeps a name of its own until it is."""
    old = path.with_name(f".{path.name}{ERASING}")
    _destroy(old)
    try:
        os.link(path, old)
    except OSError:  # a file system without hard links: for a moment there is neither
        os.replace(path, old)
    os.replace(new, path)
    sync_folder(path.parent)
    _destroy(old)


def _destroy(path: Path) -> None:
    """Overwrite the file with zeros and remove it; where it is but a second name of the living one, only the name."""
    with contextlib.suppress(FileNotFoundError):
        if _is_second_name(path):
            path.unlink()
            return
        with path.open("r+b") as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                left -= file.write(bytes(min(left, 1 << 20)))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)


def _is_second_name(path: Path) -> bool:
    """Whether a purge died after it had linked the old file and before the new one took its place."""
    living = path.with_name(path.name[1:].removesuffix(ERASING))
    return path.name.endswith(ERASING) and living.exists() and living.samefile(path)
