"""What is sent to be imported lies in a file meanwhile, which only its owner reads and which is gone afterwards.

A process that is killed cannot remove its files. So it holds a lock on each while it lives, and the next server that
starts removes those that nobody holds (`sweep`). Where there are no such locks (Windows), they stay.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path

import anyio
from starlette.requests import ClientDisconnect

from ..errors import Full, Invalid
from ..importers.archive import SIZE_MAX

if sys.platform != "win32":
    import fcntl

PREFIX = "simonides-import-"


@contextlib.asynccontextmanager
async def spooled(blocks: AsyncIterable[bytes]) -> AsyncIterator[Path]:
    """Give what is sent as a file; raise Invalid where it is nothing, or more than an importer reads."""
    with _held() as (handle, path):
        size = 0
        try:
            async with await anyio.open_file(handle, "wb", closefd=False) as file:
                async for block in blocks:
                    size += len(block)
                    if size > SIZE_MAX:
                        raise Invalid(f"an import may have {SIZE_MAX // 2**30} GiB: send it in parts, or compressed")
                    try:
                        await file.write(block)
                    except OSError as error:
                        raise Full("there is no room for the file that was sent") from error
        except ClientDisconnect:
            raise Invalid("the import broke off: nothing of it was taken in") from None
        if not size:
            raise Invalid("nothing was sent to import")
        yield path


@contextlib.contextmanager
def _held() -> Iterator[tuple[int, Path]]:
    """Make a file and hold it; remove it in the end."""
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX)
        if sys.platform == "win32":
            break
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # somebody swept it away before it was held
    try:
        yield handle, Path(name)
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def sweep() -> int:
    """Remove what servers of this user left behind when they were killed; return how many files."""
    return sum(_swept(path) for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


def _swept(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it went away, or is somebody else's
        return False
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:  # whoever writes it lives
        return False
    finally:
        os.close(handle)
    return True
