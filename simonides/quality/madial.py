"""MADial-Bench: short memories of what happened when, and dialogues in which one of them should come to mind.

Two files of JSON lines: memories {"1": {"time", "event", …}}, and dialogues with the turns at which to recall. What is
asked is the dialogue so far. All memories are one user's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import Damaged
from .beam import flat
from .reading import values
from .sets import Conversation, DataSet, File, Question, Said

FAMILY = "madial"
SPEAKER = re.compile(r"^<[^>]+>:\s*")  # <Bart>: "…


class Happened(Struct):
    time: str
    event: str


class Dialogue(Struct, rename="kebab"):
    dialogue: list[str]
    test_turn: list[int]
    relevant_id: Any = None


def sets(files: Iterable[File]) -> Iterator[DataSet]:
    """Yield the set where both files are there; an edition in another language is a folder of its own."""
    memories = {file.path.parent: file.path for file in files if _is(file, dict[str, Happened])}
    for file in files:
        folder = file.path.parent
        if folder in memories and _is(file, Dialogue):
            name = folder.name if folder.name.startswith(FAMILY) else FAMILY
            read = functools.partial(_read, memories[folder], file.path)
            yield DataSet(family=FAMILY, name=name, title=f"MADial-Bench ({name})", read=read)


def _is(file: File, shape: Any) -> bool:
    try:
        msgspec.json.decode(file.head.partition(b"\n")[0], type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _read(memories: Path, dialogues: Path, space: str) -> Iterator[Conversation]:
    happened = [item for line in values(memories, dict[str, Happened]) for item in line.items()]
    contents = tuple({"content": what.event, "at": what.time, "id": f"memory-{id}"} for id, what in happened)
    turns = tuple(id for id, _ in happened)
    questions = tuple(_questions(list(values(dialogues, Dialogue)), frozenset(turns), dialogues))
    yield Conversation(FAMILY, (Said(contents, turns),), questions)


def _questions(dialogues: Sequence[Dialogue], there: frozenset[str], path: Path) -> Iterator[Question]:
    for number, asked in enumerate(dialogues):
        gold = frozenset(map(str, flat(asked.relevant_id))) & there
        for turn in asked.test_turn:
            so_far = [SPEAKER.sub("", said).strip() for said in asked.dialogue[1:turn]]
            if not any(so_far):
                raise Damaged(f"{path}: dialogue {number + 1} has nothing before turn {turn}")
            yield Question(id=f"{number}/{turn}", text=" ".join(so_far), category="all", gold=gold)
