"""BEAM: long chats with an assistant, `chat.json`, and what is asked of each, `probing_questions.json` beside it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import Damaged
from .reading import shaped, values
from .sets import Conversation, DataSet, File, Question, Said

FAMILY = "beam"
CHAT, QUESTIONS = "chat.json", "probing_questions.json"
ABSTENTION = "abstention"  # the category of what nothing answers
MARKER = re.compile(r"\s*->->\s*[\d,\s]+$")  # the generator's own, at the end of what the user says
ANCHOR = "%B-%d-%Y"  # March-15-2024


class Turn(Struct):
    id: int
    role: str
    content: str
    time_anchor: str | None = None


class Batch(Struct):
    turns: list[list[Turn]]


def sets(files: Iterable[File]) -> Iterator[DataSet]:
    """Yield a set for each folder of chats."""
    chats = [f.path.parent for f in files if f.path.name == CHAT and (f.path.parent / QUESTIONS).is_file()]
    for above, folders in groupby(sorted(chats, key=lambda chat: (chat.parent, _number(chat))), lambda c: c.parent):
        name = above.name if above.name.startswith(FAMILY) else FAMILY
        read = functools.partial(_read, list(folders))
        yield DataSet(family=FAMILY, name=name, title=f"BEAM ({name})", read=read)


def _number(chat: Path) -> tuple[int, str]:
    return (int(chat.name), "") if chat.name.isdecimal() else (1 << 31, chat.name)


def _read(chats: Sequence[Path], space: str) -> Iterator[Conversation]:
    return map(_conversation, chats)


def _conversation(folder: Path) -> Conversation:
    said = tuple(_said(folder))
    there = {turn: part.session or "" for part in said for turn in part.names}
    return Conversation(folder.name, said, tuple(_questions(folder, there)))


def _said(folder: Path) -> Iterator[Said]:
    """Yield the groups of turns that follow one another, each a session: the user asks, and asks again."""
    groups = [group for batch in values(folder / CHAT, Batch) for group in batch.turns]
    at: datetime | None = None
    for number, group in enumerate(groups, 1):
        contents = []
        for turn in group:
            at = _moment(turn.time_anchor, folder) if turn.time_anchor else at and at + timedelta(seconds=1)
            text = MARKER.sub("", turn.content)
            contents.append({"role": turn.role, "content": text, "at": at, "id": f"{folder.name}/{turn.id}"})
        yield Said(tuple(contents), tuple(str(turn.id) for turn in group), f"{folder.name}/{number}")


def _moment(anchor: str, folder: Path) -> datetime:
    try:
        return datetime.strptime(anchor, ANCHOR).replace(tzinfo=UTC)
    except ValueError:
        raise Damaged(f"{folder / CHAT}: {anchor!r} is no date like March-15-2024") from None


def _questions(folder: Path, there: dict[str, str]) -> Iterator[Question]:
    path = folder / QUESTIONS
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from None
    for category, asked in shaped(read, dict[str, list[dict[str, Any]]], str(path)).items():
        for number, question in enumerate(asked):
            gold = frozenset(name for name in map(str, flat(question.get("source_chat_ids"))) if name in there)
            yield Question(
                id=f"{folder.name}/{category}/{number}",
                text=shaped(question.get("question"), str, f"{path}: a question of {category}"),
                category=category,
                gold=gold,
                sessions=frozenset(there[name] for name in gold),
                answerable=category != ABSTENTION,
            )


def flat(cited: Any) -> Iterator[int]:
    """Yield the numbers in what was cited: a number, a text with numbers in it, or lists and objects of those."""
    if isinstance(cited, dict | list):
        for each in cited.values() if isinstance(cited, dict) else cited:
            yield from flat(each)
    elif cited is not None:
        yield from map(int, re.findall(r"\d+", str(cited)))
