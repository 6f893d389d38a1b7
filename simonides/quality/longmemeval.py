"""LongMemEval: for each question a haystack of chats with an assistant. Kept by its importer.

A turn marked `has_answer` answers at the level of turns, a session among `answer_session_ids` at the level of sessions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..importers import longmemeval
from ..record import Record, Scope
from .reading import values
from .sets import Conversation, DataSet, File, Imported, Question, sound

FAMILY = "longmemeval"
ABSTENTION = "_abs"  # how the id ends of a question that nothing answers; the paper leaves these out


class Asked(Struct):
    question_id: str | int
    question: str
    question_type: str
    haystack_sessions: list[list[dict[str, Any]]]
    haystack_session_ids: list[str]
    answer_session_ids: list[str]


def sets(files: Iterable[File]) -> Iterator[DataSet]:
    for file in files:
        if longmemeval.recognises(file.path, file.head):
            name = file.path.name.partition(".")[0]
            read = functools.partial(_read, file.path)
            yield DataSet(family=FAMILY, name=name, title=f"LongMemEval ({name})", read=read)


def _read(path: Path, space: str) -> Iterator[Conversation]:
    """Read the file twice, a question at a time: it may be larger than the memory of a machine."""
    asked = {question.id: question for question in map(_question, values(path, Asked))}
    kept = sound(longmemeval.read(path, Scope(space=space)))
    for user, records in groupby(kept, key=lambda record: record.scope.user or ""):
        yield _conversation(user, tuple(records), asked[user])


def _conversation(user: str, records: tuple[Record, ...], question: Question) -> Conversation:
    turns = {
        record.id: _turn(record.scope.session or "", record.metadata["turn"])
        for record in records
        if "turn" in record.metadata
    }
    return Conversation(user, (Imported(records, turns),), (question,))


def _question(asked: Asked) -> Question:
    id = str(asked.question_id)
    chats = zip(asked.haystack_session_ids, asked.haystack_sessions, strict=False)
    gold = {
        _turn(session, place)
        for session, turns in chats
        for place, turn in enumerate(turns, 1)
        if turn.get("has_answer")
    }
    absent = id.endswith(ABSTENTION)
    return Question(
        id=id,
        text=asked.question,
        category="abstention" if absent else asked.question_type,
        gold=frozenset(gold),
        sessions=frozenset(asked.answer_session_ids) & frozenset(asked.haystack_session_ids),
        answerable=not absent,
    )


def _turn(session: str, place: int) -> str:
    return f"{session}_{place}"
