"""Where the codes of one group of vectors are kept: in files that processes share, or in this process's memory.

A group is four files, named after the model and the realm:

    .bits    for each slot its sign bits      .head    whose they are, and how far they are filled
    .codes   for each slot its bytes          .lock    held by whoever writes

What a row holds follows from the vector in the store alone, so a row may be written twice, by anyone who holds the
lock. Rows are written before the head that counts them: what a killed process leaves beyond is never read. A power cut
may take rows that the head counts already; so after one, the rows that were not flushed are written again. A file that
is not what it should be is thrown away: it costs a rebuild, never an answer.

Rows are written with `write`, not through the map, because a full disk must be an error and not a signal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import mmap
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .kernels import Bytes, Codes, Floats, Slots, bits_width, int8, row_type, sign_bits

FORMAT = 2
BLOCK = 20_000  # rows that are read from the store and written at once: 15 MB of 384 half floats
STEP = 4096  # rows that a file grows by at least; beyond, by a third of what it is
DURABLE_ROWS = 65_536  # rows after which they are flushed to the disk…
DURABLE_S = 5.0  # …or seconds, whichever comes first
HEAD = struct.Struct("<8s32s16sQQQQdI")
MAGIC = b"SIMOFLAT"
ENDINGS = (".bits", ".codes", ".head")


def _boot() -> bytes:
    """Return what names this run of the machine: rows that were not flushed are to be trusted only within it.

    Where the system has no such name (it is Linux's), the process has its own: then every process writes the rows
    anew that the last one did not flush.
    """
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return uuid.uuid4().bytes


BOOT = _boot()


@dataclass(frozen=True, slots=True)
class Head:
    """How far a group's rows are filled and flushed, and how many of the store's holes are emptied in them.

    `factor` is what the number of candidates is multiplied by, as found when there were `tuned` rows; infinite where
    sign bits tell nothing about these vectors.
    """

    filled: int = 0
    durable: int = 0
    holes: int = 0
    tuned: int = 0
    factor: float = 1.0
    boot: bytes = BOOT

    def pack(self, owner: bytes) -> bytes:
        numbers = self.filled, self.durable, self.holes, self.tuned, self.factor
        head = HEAD.pack(MAGIC, owner, self.boot, *numbers, 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head))

    @staticmethod
    def unpack(raw: bytes, owner: bytes) -> Head | None:
        """Return the head; None if it is another's, or torn."""
        if len(raw) != HEAD.size:
            return None
        magic, whose, boot, filled, durable, holes, tuned, factor, checksum = HEAD.unpack(raw)
        if (magic, whose, checksum) != (MAGIC, owner, zlib.crc32(raw[:-4])):
            return None
        return Head(filled, durable, holes, tuned, factor, boot)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows at one moment; those before `head.filled` are good. They stay readable whatever happens to the files."""

    bits: Bytes
    codes: Codes
    head: Head


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose codes these are. What belongs to another owner is foreign, and is thrown away."""

    store: str
    model: str
    group: int
    dimension: int

    @property
    def digest(self) -> bytes:
        return _digest(str(FORMAT), self.store, self.model, str(self.group), str(self.dimension))


def model_name(model: str) -> str:
    """Return what the names of a model's files begin with.

    It tells the format, too: else programs of two formats that are open at once would throw each other's files away,
    block by block, and neither would ever come to an answer.
    """
    return _digest(str(FORMAT), model).hex()[:8]


def stem(model: str, realm: tuple[str, str]) -> str:
    """Return the name, less its ending, of the files of a model and realm; it tells neither."""
    return f"{model_name(model)}-{_digest(*realm).hex()[:24]}"


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()


class GroupCodes(Protocol):
    """The codes of one group. All but `rows` is called by whoever holds the group's lock, from a worker's thread."""

    owner: Owner

    def rows(self) -> Rows | None:
        """Return the rows as they are now; None where they must be opened again."""
        ...

    def open(self, *, anew: bool = False) -> Rows: ...

    def write(self, slots: Slots, vectors: Floats, reach: int) -> Head:
        """Fill the rows up to `reach`: those of the slots with the vectors' codes, the others with zeros."""
        ...

    def zero(self, slots: Sequence[int]) -> Head:
        """Empty these rows, the next holes of the store, and flush."""
        ...

    @property
    def is_flush_due(self) -> bool: ...

    def flush(self) -> Head:
        """Bring what was written to the disk."""
        ...

    def tune(self, factor: float, rows: int) -> Head: ...

    def close(self) -> None: ...


class MemoryCodes:
    """In this process's memory: for a store that has no folder, and where files cannot be written."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._rows = self._empty(0)

    def _empty(self, capacity: int) -> Rows:
        dimension = self.owner.dimension
        bits = np.zeros((capacity, bits_width(dimension)), np.uint8)
        return Rows(bits, np.zeros(capacity, row_type(dimension)), Head())

    def rows(self) -> Rows:
        return self._rows

    def open(self, *, anew: bool = False) -> Rows:
        if anew:
            self._rows = self._empty(0)
        return self._rows

    def write(self, slots: Slots, vectors: Floats, reach: int) -> Head:
        self._grow(reach)
        self._rows.bits[slots], self._rows.codes[slots] = sign_bits(vectors), int8(vectors)
        return self._mark(dataclasses.replace(self._rows.head, filled=reach, durable=reach))

    def _grow(self, reach: int) -> None:
        """Readers keep the arrays they have: new ones are made, and the old are not touched."""
        old, capacity = self._rows, len(self._rows.bits)
        if reach > capacity:
            new = self._empty(max(reach, capacity * 4 // 3, STEP))
            new.bits[:capacity], new.codes[:capacity] = old.bits, old.codes
            self._rows = dataclasses.replace(new, head=old.head)

    def zero(self, slots: Sequence[int]) -> Head:
        at = np.array([slot for slot in slots if slot < len(self._rows.bits)], np.int64)
        self._rows.bits[at] = 0
        self._rows.codes[at] = np.zeros((), self._rows.codes.dtype)
        return self._mark(dataclasses.replace(self._rows.head, holes=self._rows.head.holes + len(slots)))

    @property
    def is_flush_due(self) -> bool:
        return False

    def flush(self) -> Head:
        return self._rows.head

    def tune(self, factor: float, rows: int) -> Head:
        return self._mark(dataclasses.replace(self._rows.head, factor=factor, tuned=rows))

    def _mark(self, head: Head) -> Head:
        self._rows = dataclasses.replace(self._rows, head=head)
        return head

    def close(self) -> None:
        self._rows = self._empty(0)


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Three open files and what is mapped of them."""

    files: tuple[FileIO, FileIO, FileIO]
    stats: tuple[os.stat_result, ...]  # of the files; which they are does not change while they are open
    bits: Bytes
    codes: Codes
    head: mmap.mmap

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.bits.nbytes, self.codes.nbytes, HEAD.size


class FileCodes:
    def __init__(self, path: Path, owner: Owner) -> None:
        """`path` is the files' name less its ending."""
        self.owner = owner
        self._digest = owner.digest
        self._paths = tuple(path.with_name(path.name + ending) for ending in ENDINGS)
        self._mapped: _Mapped | None = None
        self._flushed = time.monotonic()

    # -- reading: from any thread, without the lock --------------------------------------------------------------

    def rows(self) -> Rows | None:
        """Notice what others did meanwhile: files that were replaced, removed or cut, rows that were added."""
        mapped = self._mapped
        if mapped is None or not self._is_still_there(mapped):
            return None
        head = self._head(mapped)
        if head is None:
            return None
        if head.filled > len(mapped.bits):
            try:
                mapped = self._map(mapped.files)
            except (OSError, ValueError):  # closed, in between
                return None
        if head.filled > min(len(mapped.bits), len(mapped.codes)):
            return None
        return Rows(mapped.bits, mapped.codes, head)

    def _is_still_there(self, mapped: _Mapped) -> bool:
        try:
            for path, opened, size in zip(self._paths, mapped.stats, mapped.sizes, strict=True):
                now = os.stat(path)
                if now.st_size < size or not os.path.samestat(now, opened):
                    return False
        except OSError:  # gone
            return False
        return True

    def _head(self, mapped: _Mapped) -> Head | None:
        """Read the head; another process may just be writing it, so what looks torn is looked at again."""
        for _ in range(20):
            if head := Head.unpack(mapped.head[: HEAD.size], self._digest):
                return head
            time.sleep(0.0001)
        return None

    # -- opening: under the lock ---------------------------------------------------------------------------------

    def open(self, *, anew: bool = False) -> Rows:
        """Map the files. They are made anew where asked for, and where they are missing, foreign, torn or cut."""
        rows = None if anew else self.look()
        if rows is None:
            self.remove()
            self._make()
            rows = self._opened()
            if rows is None:
                raise OSError(f"{self._paths[0]} cannot be read back")
        if rows.head.boot != BOOT:  # the machine was started since: what was not flushed may not be there
            self._mark(dataclasses.replace(rows.head, filled=rows.head.durable, boot=BOOT))
        return self.rows() or rows

    def look(self) -> Rows | None:
        """Map the files as they are; None where they would be made anew."""
        self.close()
        return self._opened()

    def _opened(self) -> Rows | None:
        files = list[FileIO]()
        try:
            for path in self._paths:  # one by one: what was opened before one is missing must be closed
                files.append(FileIO(path, "r+"))
            self._map((files[0], files[1], files[2]))
        except (OSError, ValueError) as error:
            for file in files:
                file.close()
            if isinstance(error, FileNotFoundError | ValueError):  # ValueError: a file too short to be mapped
                return None
            raise
        rows = self.rows()
        if rows is None:
            self.close()
        return rows

    def _map(self, files: tuple[FileIO, FileIO, FileIO]) -> _Mapped:
        dimension = self.owner.dimension
        bits, codes = (_whole(file, width) for file, width in zip(files, self._widths, strict=False))
        with contextlib.suppress(AttributeError, OSError):  # every scan reads all of the bits: fetch them early
            bits.madvise(mmap.MADV_WILLNEED)
        self._mapped = _Mapped(
            files,
            tuple(os.fstat(file.fileno()) for file in files),
            np.frombuffer(bits, np.uint8).reshape(-1, bits_width(dimension)),
            np.frombuffer(codes, row_type(dimension)),
            mmap.mmap(files[2].fileno(), HEAD.size, access=mmap.ACCESS_READ),
        )
        return self._mapped

    @property
    def _widths(self) -> tuple[int, int]:
        return bits_width(self.owner.dimension), row_type(self.owner.dimension).itemsize

    def _make(self) -> None:
        self._paths[0].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, width in zip(self._paths, (*self._widths, 0), strict=True):
            with FileIO(path, "w") as file:
                if width:
                    file.truncate(STEP * width)
                else:
                    _write(file, 0, Head().pack(self._digest))

    def remove(self) -> None:
        self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; rows that were given out stay readable."""
        mapped, self._mapped = self._mapped, None
        for file in mapped.files if mapped else ():
            file.close()

    # -- writing: under the lock ---------------------------------------------------------------------------------

    def write(self, slots: Slots, vectors: Floats, reach: int) -> Head:
        head = self._current()
        self._grow(reach)
        bits, codes = sign_bits(vectors), int8(vectors)
        for start in range(head.filled, reach, BLOCK):  # many holes in a row must not take much memory
            stop = min(reach, start + BLOCK)
            first, last = np.searchsorted(slots, (start, stop))
            at = slots[first:last] - start
            self._put(start, _spread(bits[first:last], at, stop - start), _spread(codes[first:last], at, stop - start))
        head = dataclasses.replace(head, filled=max(head.filled, reach))
        if head.filled - head.durable >= DURABLE_ROWS:
            head = self._synced(head)
        return self._mark(head)

    def zero(self, slots: Sequence[int]) -> Head:
        head, mapped = self._current(), self._open()
        for start, count in _runs(slot for slot in slots if slot < len(mapped.bits)):
            self._put(start, np.zeros_like(mapped.bits[:count]), np.zeros_like(mapped.codes[:count]))
        return self._mark(dataclasses.replace(self._synced(head), holes=head.holes + len(slots)))

    @property
    def is_flush_due(self) -> bool:
        return time.monotonic() - self._flushed >= DURABLE_S

    def flush(self) -> Head:
        head = self._current()
        return head if head.durable == head.filled else self._mark(self._synced(head))

    def tune(self, factor: float, rows: int) -> Head:
        return self._mark(dataclasses.replace(self._current(), factor=factor, tuned=rows))

    def _open(self) -> _Mapped:
        if self._mapped is None:
            raise OSError(f"{self._paths[0]} is closed")
        return self._mapped

    def _current(self) -> Head:
        head = self._head(self._open())
        if head is None:
            raise OSError(f"{self._paths[2]} was damaged while it was open")
        return head

    def _grow(self, reach: int) -> None:
        mapped = self._open()
        capacity = len(mapped.bits)
        if reach > capacity:
            wanted = max(reach, capacity * 4 // 3, capacity + STEP)
            for file, width in zip(mapped.files, self._widths, strict=False):
                file.truncate(wanted * width)
            self._map(mapped.files)

    def _put(self, start: int, bits: Bytes, codes: Codes) -> None:
        for file, rows, width in zip(self._open().files, (bits, codes), self._widths, strict=False):
            _write(file, start * width, rows.tobytes())

    def _synced(self, head: Head) -> Head:
        for file in self._open().files[:2]:
            os.fsync(file.fileno())
        self._flushed = time.monotonic()
        return dataclasses.replace(head, durable=head.filled)

    def _mark(self, head: Head) -> Head:
        _write(self._open().files[2], 0, head.pack(self._digest))
        return head


def _whole(file: FileIO, width: int) -> mmap.mmap:
    """Map the file's whole rows. Raise ValueError where there is none."""
    length = os.fstat(file.fileno()).st_size // width * width
    if not length:
        raise ValueError(f"{file.name!r} holds no row")
    return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)


def _write(file: FileIO, place: int, data: bytes) -> None:
    file.seek(place)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _spread(rows: NDArray[Any], at: Slots, count: int) -> NDArray[Any]:
    """Return `count` rows: the given ones at their places, zeros between them."""
    spread = np.zeros((count, *rows.shape[1:]), rows.dtype)
    spread[at] = rows
    return spread


def _runs(slots: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the slots as (first, count) of neighbours, at most a block of them."""
    run = list[int]()
    for slot in sorted(slots):
        if run and (slot != run[-1] + 1 or len(run) == BLOCK):
            yield run[0], len(run)
            run = []
        run.append(slot)
    if run:
        yield run[0], len(run)
