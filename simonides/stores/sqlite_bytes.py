"""Removes the last bytes of what was erased, and proves it on the file.

SQLite zeroes what it deletes (`secure_delete`), but when rows moved between pages before they were deleted, a copy may
be left in the unused part of a page. So after an erase the file is written anew (VACUUM) while it is small enough for
that to take no time, and otherwise where samples of the erased text are still found in it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

SMALL = 64 * 1024 * 1024  # bytes of a file that is always written anew
CHECKPOINT_S = 30.0  # how long readers of other processes are waited for
SAMPLE_MIN, SAMPLE_MAX = 8, 256  # bytes of a text that are looked for; shorter ones are found by chance


def scrub(db: apsw.Connection, path: str | None, erased: Sequence[str]) -> Mapping[str, Any]:
    """Leave no byte of the erased in the files; return how ("method"), and how many old backups went ("backups").

    Runs alone on the writer's connection. Where the disk is too full to write the file anew, it stays with what SQLite
    zeroed, and says so.
    """
    if path is None:
        return {"method": "deleted from memory", "backups": 0}
    backups = _remove_backups(path)
    method = "secure delete"
    if os.path.getsize(path) <= SMALL:
        method = _write_anew(db)
    emptied = _empty_log(db)
    if method == "secure delete" and _remains(path, erased):
        method = _write_anew(db)
        emptied = _empty_log(db)
    if emptied:
        return {"method": f"{method}, write-ahead log emptied", "backups": backups}
    held = "the write-ahead log is held by a reader in another process and is emptied when the store is next opened"
    return {"method": f"{method}; {held}", "backups": backups}


def _write_anew(db: apsw.Connection) -> str:
    try:
        db.execute("VACUUM")
    except apsw.FullError:
        return "secure delete; the disk is too full to write the file anew"
    return "secure delete, file written anew"


def _empty_log(db: apsw.Connection) -> bool:
    """Copy the write-ahead log into the file and cut it to nothing; False if a reader would not let go of it."""
    deadline = time.monotonic() + CHECKPOINT_S
    while True:
        with contextlib.suppress(apsw.BusyError, apsw.LockedError):
            if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0] == 0:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def _remains(path: str, erased: Sequence[str]) -> bool:
    samples = [text.encode()[:SAMPLE_MAX] for text in erased]
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return any(len(sample) >= SAMPLE_MIN and held.find(sample) >= 0 for sample in samples)


def _remove_backups(path: str) -> int:
    """Overwrite and remove the copies made before migrations: they hold what was erased."""
    found = sorted(Path(path).parent.glob(f"{Path(path).name}.before-*"))
    for backup in found:
        with backup.open("r+b") as file:
            size, zeros = backup.stat().st_size, bytes(1 << 20)
            for start in range(0, size, len(zeros)):
                file.write(zeros[: min(len(zeros), size - start)])
            file.flush()
            os.fsync(file.fileno())
        backup.unlink()
    return len(found)
