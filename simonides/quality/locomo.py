"""LoCoMo: two people over months. Kept by its importer; the questions and the turns they cite are read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..importers import locomo
from ..record import Record, Scope
from .reading import values
from .sets import Conversation, DataSet, File, Imported, Question, sound

FAMILY = "locomo"
CATEGORIES = {1: "1 multi-hop", 2: "2 temporal", 3: "3 open-domain", 4: "4 single-hop", 5: "5 adversarial"}
ADVERSARIAL = 5  # asks of one person what the other said or did: nothing answers it as it is asked
CITED = re.compile(r"D:?\s*(\d+):0*(\d+)")  # D8:6; also "D8:6; D9:17", "D:11:26", "D30:05"


class Asked(Struct):
    question: str
    category: int
    evidence: list[Any] | None = None


class Sample(Struct):
    sample_id: str | int
    conversation: dict[str, Any]
    qa: list[Asked] = []  # a Struct copies it


def sets(files: Iterable[File]) -> Iterator[DataSet]:
    mine = [file.path for file in files if locomo.recognises(file.path, file.head)]
    if mine:
        yield DataSet(family=FAMILY, name=FAMILY, title="LoCoMo", read=lambda space: _read(mine, space))


def _read(paths: Sequence[Path], space: str) -> Iterator[Conversation]:
    for path in paths:
        asked = {str(sample.sample_id): sample for sample in values(path, Sample)}
        kept = sound(locomo.read(path, Scope(space=space)))
        for user, records in groupby(kept, key=lambda record: record.scope.user or ""):
            yield _conversation(user, tuple(records), asked[user])


def _conversation(user: str, records: tuple[Record, ...], sample: Sample) -> Conversation:
    turns = {record.id: record.metadata["dia_id"] for record in records if "dia_id" in record.metadata}
    there = dict(_sessions(user, sample))
    questions = tuple(_question(f"{user}/{n}", asked, there) for n, asked in enumerate(sample.qa))
    return Conversation(user, (Imported(records, turns),), questions)


def _sessions(user: str, sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield every turn of the sample, one with nothing in it too, and the session that its record bears."""
    for key, turns in sample.conversation.items():
        if locomo.SESSION.fullmatch(key) and isinstance(turns, list):
            yield from ((turn["dia_id"], f"{user}/{key}") for turn in turns)


def _question(id: str, asked: Asked, there: Mapping[str, str]) -> Question:
    gold = frozenset(evidence(asked.evidence, there))
    return Question(
        id=id,
        text=asked.question,
        category=CATEGORIES.get(asked.category, str(asked.category)),
        gold=gold,
        sessions=frozenset(there[turn] for turn in gold),
        answerable=asked.category != ADVERSARIAL,
    )


def evidence(cited: Sequence[Any] | None, there: Mapping[str, str]) -> Iterator[str]:
    """Yield the turns that were cited, however it was written, if they are there."""
    for each in cited or ():
        for session, turn in CITED.findall(str(each)):
            if (name := f"D{session}:{turn}") in there:
                yield name
