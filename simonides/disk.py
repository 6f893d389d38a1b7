"""What every file that must not be lost asks of the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .errors import Full, SimonidesError, Unavailable


def sync_folder(folder: Path) -> None:
    """Have the names in a folder flushed, such as that of a file that has just taken its place."""
    if os.name == "nt":
        return  # Windows opens no folders, and keeps renames itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def not_written(path: Path, error: OSError) -> SimonidesError:
    """Return in our words why the disk did not take this file."""
    if is_full(error):
        return Full(f"the disk is full: {path} was not written")
    return Unavailable(f"cannot write {path}: {error.strerror or error}")
