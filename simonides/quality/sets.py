"""What a data set is to us: conversations to remember, and questions that say which turns answer them.

A format is one module here with `sets(files)`; it knows the files by what they hold. Turns bear the names that the data
set gives them, sessions are the sessions that their records bear.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import did_you_mean
from ..errors import Damaged, Invalid, NotFound
from ..importer import Problem
from ..importers.archive import head
from ..record import Record

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`gold` names the turns that answer it, `sessions` the sessions that do. Empty: the set names none.

    One that is not `answerable` is asked to see whether recall knows that it has nothing; it counts for that alone, and
    in a row of its own where it names turns.
    """

    id: str
    text: str
    category: str
    gold: frozenset[str]
    sessions: frozenset[str] = frozenset()
    answerable: bool = True


@dataclass(frozen=True, slots=True)
class Imported:
    """Records that an importer read, and the turns that they are, by record id."""

    records: tuple[Record, ...]
    turns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """Messages of a session as `remember` takes them, one for each turn; without a session, notes."""

    contents: tuple[dict[str, Any], ...]  # each with an id
    names: tuple[str, ...]
    session: str | None = None

    @property
    def turns(self) -> dict[str, str]:
        return {content["id"]: name for content, name in zip(self.contents, self.names, strict=True)}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One memory: what is said in it, kept for this user, and what is asked of it."""

    user: str
    said: tuple[Imported | Said, ...]
    questions: tuple[Question, ...]

    @property
    def turns(self) -> dict[str, str]:
        """The turn of the data set that each record is, by record id."""
        return {id: turn for said in self.said for id, turn in said.turns.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """`family` is the name of the format, `name` that of this set of it. `read` yields its conversations, records of an
    importer in the space given; it raises Damaged where a file is not what it should be.
    """

    family: str
    name: str
    title: str
    read: Callable[[str], Iterator[Conversation]]


def find(folder: Path, only: Sequence[str] = ()) -> list[DataSet]:
    """Return the data sets below the folder, by name; `only` those of these names or families.

    Raise NotFound where there is none, Invalid where one of `only` is not among them.
    """
    from . import beam, locomo, longmemeval, madial

    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}")
    files = list(_files(folder))
    found = sorted(
        (made for format in (beam, locomo, longmemeval, madial) for made in format.sets(files)),
        key=lambda made: made.name,
    )
    if not found:
        raise NotFound(f"no data set in {folder}: LoCoMo, LongMemEval, BEAM and MADial-Bench are known by their files")
    names = {name for made in found for name in (made.name, made.family)}
    for name in only:
        if name not in names:
            raise Invalid(f"no set {name!r} in {folder}{did_you_mean(name, names)}; there are: {_listed(found)}")
    return [made for made in found if not only or made.name in only or made.family in only]


def _listed(found: Iterable[DataSet]) -> str:
    return ", ".join(made.name for made in found)


@dataclass(frozen=True, slots=True)
class File:
    """A file that may belong to a data set, and the first bytes of what it holds."""

    path: Path
    head: bytes


def _files(folder: Path) -> Iterator[File]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and path.is_file():
                yield File(path, _head(path))


def _head(path: Path) -> bytes:
    try:
        return head(path)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror or error}") from error


def sound(found: Iterable[Record | Problem]) -> Iterator[Record]:
    """Yield the records; a set that is not whole would be measured wrongly, so a problem raises Damaged."""
    for each in found:
        if isinstance(each, Problem):
            raise Damaged(str(each))
        yield each
