"""Files on their way into a memory: read by an importer, kept, and counted; once, or again whenever they change."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from . import importers
from .importer import Problem
from .record import Record, Scope

if TYPE_CHECKING:
    from .sync import Memory

Progress = Callable[[int], None]
BATCH = 128  # records kept at once, at most: Ctrl-C is heard in between
BATCH_MIN = 8
PATIENCE_S = 0.5  # so often progress is to be seen: where embedding is slow, fewer are kept at once
VERSIONS = "export", "version"  # the source and kind that versions from an export are counted under
GONE = {"passage": "gone"}  # how a chunk is marked that its file put aside: whoever archives one by hand has it stay so
PARTS_MAX = 10_000  # chunks of one document that are looked at for what is gone


@dataclass(slots=True)
class Intake:
    """What came from some files: how many records of each (source, kind) were read, how many were new, what failed."""

    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    new: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    archived: int = 0

    @property
    def empty(self) -> bool:
        return not self.read

    def __iadd__(self, other: Intake) -> Intake:
        self.read += other.read
        self.new += other.new
        self.problems += other.problems
        self.archived += other.archived
        return self


def take_in(memory: Memory, paths: Sequence[Path], scope: Scope, progress: Progress | None = None) -> Intake:
    """Keep what the files hold; what is there already stays as it is. One of our own exports brings its history."""
    intake, bar = Intake(), _Bar(progress)
    records = bar.shared(_without_problems(importers.read(paths, scope, progress=bar.read), intake))
    size = BATCH
    while batch := list(islice(records, size)):
        begun = time.monotonic()
        _keep(memory, [record for record, _ in batch], intake)
        took = time.monotonic() - begun
        bar.kept(sum(share for _, share in batch))
        size = max(BATCH_MIN, min(BATCH, int(len(batch) * PATIENCE_S / took) if took else BATCH))
    bar.done()
    return intake


class _Bar:
    """Tells how many bytes are done with: not when they are read, which takes no time, but when they are kept.

    A file is read in large blocks, often all of it at once. So what a block holds is gathered, and each record has its
    share of those bytes by how long its text is.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._read, self._told = progress, 0, 0.0

    def read(self, size: int) -> None:
        self._read = max(self._read, size)

    def shared(self, records: Iterable[Record]) -> Iterator[tuple[Record, float]]:
        """Yield each record with its share of what was read."""
        if self._progress is None:
            yield from ((record, 0.0) for record in records)
            return
        held, shared, reading = list[Record](), 0, 0
        for record in records:
            if self._read > reading and held:
                yield from _shares(held, reading - shared)
                held, shared = [], reading
            reading = self._read
            held.append(record)
        yield from _shares(held, self._read - shared)

    def kept(self, share: float) -> None:
        self._tell(self._told + share)

    def done(self) -> None:
        self._tell(self._read)

    def _tell(self, size: float) -> None:
        self._told = min(max(self._told, size), self._read)
        if self._progress:
            self._progress(round(self._told))


def _shares(records: Sequence[Record], size: int) -> Iterator[tuple[Record, float]]:
    lengths = [len(record.text) + 1 for record in records]
    whole = sum(lengths)
    return ((record, size * length / whole) for record, length in zip(records, lengths, strict=True))


def _without_problems(found: Iterator[Record | Problem], intake: Intake) -> Iterator[Record]:
    for each in found:
        if isinstance(each, Problem):
            intake.problems.append(each)
        else:
            yield each


def _keep(memory: Memory, records: Sequence[Record], intake: Intake) -> None:
    """Write what was read; a version that bears the clock of another memory is one of an export, and keeps it."""
    versions = [record for record in records if record.known.since]
    others = [record for record in records if not record.known.since]
    if versions:
        intake.read[VERSIONS] += len(versions)
        intake.new[VERSIONS] += memory.restore(versions)
    if others:
        intake.read.update((record.source, record.kind) for record in others)
        intake.new.update((record.source, record.kind) for record in memory.keep(others))


# -- again, whenever they change -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """A folder that is looked at again and again; each look takes in what is new or has changed since the last."""

    memory: Memory
    folder: Path
    scope: Scope
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> Intake:
        intake = Intake()
        for path in self._changed():
            intake += self._take(path)
        return intake

    def _changed(self) -> list[Path]:
        now = dict(_files(self.folder))
        changed = [path for path, state in now.items() if self._seen.get(path) != state]
        self._seen = now
        return sorted(changed)

    def _take(self, path: Path) -> Intake:
        """Take a file in; archive the chunks that its document no longer has. Those that it has again come back."""
        read = list(importers.read([path], self.scope))
        found = Intake()
        records = list(_without_problems(iter(read), found))
        _keep(self.memory, records, found)
        if not found.problems:
            for document in records:
                if document.kind == "document":
                    found.archived += self._tidy(document, frozenset(record.id for record in records))
        return found

    def _tidy(self, document: Record, present: frozenset[str]) -> int:
        whose = {level: name for level, name in document.scope.levels if name}
        parts = self.memory.find(conversation=document.id, limit=PARTS_MAX, **whose)  # type: ignore[arg-type]
        gone = [part for part in parts if part.id not in present]
        for part in gone:
            self.memory.revise(part.id, archived=True, metadata={**part.metadata, **GONE}, **whose)  # type: ignore[arg-type]
        return len(gone)


def _files(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Yield the files below a folder and what tells whether they changed; hidden ones and links are passed over."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and not path.is_symlink() and (state := _state(path)):
                yield path, state


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:  # it went away in between
        return None
    return stat.st_mtime_ns, stat.st_size
