"""Gives every record its vectors: who and when and what it says, as the embedder sees it.

The follower's name holds the model and this recipe, so a change of either is another follower that starts at 0, beside
the old one. When everything has its vectors by this recipe, those that an older one made with the same embedder go.
"""

from __future__ import annotations

import asyncio
import operator
import re
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from ..embedder import TOKEN_BYTES, Embedder, TokenEmbedder
from ..errors import Conflict
from ..follow import live, place_name
from ..kinds import Message
from ..record import Record, Span, at_if_known, known_as, now
from ..store import Batch, Change, Cursor, Embedding, Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECIPE = 2
PASSAGE = 1_000  # weight of one passage: about 250 tokens, of the 512 that small models read
PASSAGES_MAX = 128  # a longer text is found by its words beyond this
TOKENS_MAX = 128  # of a text's tokens, from its beginning, that are kept for weighing it
AHEAD_S = 0.5  # that a write waits for its vectors, to be written together with them
SURE = timedelta(minutes=5)  # in which what is embedded ahead is written
LOOKS_S = 1.0  # between two looks whether the model was dropped
DROPPED = 1_000  # old vectors that one transaction removes, while others wait to write
_BREAK = re.compile(r"(?<=[.!?。!?])\s+|\n+")
_WIDE = re.compile(r"[^\x00-\u024f]")  # outside Latin a character is about a token of its own


class Vectors:
    kinds: frozenset[str] | None = None
    joins = True  # embeddings are all that it makes, of each record its own

    def __init__(self, embedder: Embedder) -> None:
        self.model = f"{embedder.name}/{RECIPE}"
        self.name = _name(self.model)
        self._embedder = embedder
        self._dropped, self._looked = False, -LOOKS_S
        self._pace = 0.0  # seconds a character, as embedding took lately
        self._retired: set[str] = set()  # models of older recipes whose followers were sent back

    async def follow(self, changes: Sequence[Change], store: Store) -> Batch:
        if any(not change.version and change.kind != "certificate" for change in changes):
            self._embedder.clear_cache()  # wherever it was erased, nothing of it stays here
        if await self._is_dropped(store):
            return Batch()
        return Batch(embeddings=await self._embedded(await live(changes, store)))

    async def ahead(self, records: Sequence[Record], store: Store) -> Batch | None:
        """A record that bears no time will bear that of its writing, of which its vectors need the day."""
        present, length = now(), sum(len(record.text) for record in records)
        soon = [record if at_if_known(record, None) else known_as(record, Span(since=present)) for record in records]
        turns = present.date() != (present + SURE).date() and any(map(operator.is_not, soon, records))
        if turns or length * self._pace > AHEAD_S:
            return None
        begun = time.monotonic()
        try:
            async with asyncio.timeout(AHEAD_S):
                embeddings = await self._embedded(soon)
        except TimeoutError:
            self._pace = max(self._pace, (time.monotonic() - begun) / max(1, length))
            return None
        return None if await self._is_dropped(store) else Batch(embeddings=embeddings, followed=(self.name,))

    async def _embedded(self, versions: Sequence[Record]) -> tuple[Embedding, ...]:
        records = [record for record in versions if record.text.strip()]
        parts = [[f"{header(record)}{passage}" for passage in passages(record.text)] for record in records]
        texts = [text for mine in parts for text in mine]
        begun = time.monotonic()
        vectors, tokens = await encoded(self._embedder, texts)
        if texts:
            self._pace = (self._pace + (time.monotonic() - begun) / sum(map(len, texts))) / 2
        return tuple(self._embeddings(records, parts, vectors, tokens))

    async def _is_dropped(self, store: Store) -> bool:
        """Look at most every so often: whoever drops a model waits that long before the last sweep. Whoever brings it
        back waits for nobody: while it is dropped, look each time.
        """
        if self._dropped or time.monotonic() - self._looked > LOOKS_S:
            self._dropped = bool(await store.cursor(dropped(self._embedder.name)))
            self._looked = time.monotonic()
        return self._dropped

    async def tidy(self, store: Store) -> bool:
        """Drop some of the vectors that older recipes made with this embedder; return whether more are to be dropped.

        First the old follower is sent back to 0, so that a release with that recipe makes its vectors again. If it
        moves all the same, such a release is at work on this store, and keeps what it needs.
        """
        for model in older(self.model, await store.models()):
            if await self._retire(model, store):
                await store.drop_model(model, limit=DROPPED)
                return True
        return False

    async def _retire(self, model: str, store: Store) -> bool:
        """Send the follower back; return whether nobody but us has moved it."""
        name = _name(model)
        places = await store.cursors(name)
        if moved := {each: places[each] for each in places if each == name or each.startswith(place_name(name, ""))}:
            if model in self._retired:
                return False
            try:
                for each in sorted(moved, reverse=True):  # its own comes last: it stands for all shards
                    await store.commit(Batch(), cursor=Cursor(each, moved[each], 0))
            except Conflict:
                return False
        self._retired.add(model)
        return True

    def _embeddings(
        self,
        records: Sequence[Record],
        parts: Sequence[Sequence[str]],
        vectors: NDArray[np.float32],
        tokens: Sequence[bytes],
    ) -> list[Embedding]:
        found, start = [], 0
        for record, texts in zip(records, parts, strict=True):
            mine = slice(start, start + len(texts))
            said = b"".join(tokens[mine])[: TOKENS_MAX * TOKEN_BYTES]
            found.append(Embedding(record.ref, record.version, self.model, vectors[mine], said))
            start += len(texts)
        return found


def dropped(embedder: str) -> str:
    """Return the name of the place that is moved from 0 when what this embedder made is dropped."""
    return f"dropped/{embedder}"


def older(model: str, models: Iterable[str]) -> list[str]:
    """Return those of the models that are of the same embedder, by an older recipe."""
    embedder, _, recipe = model.rpartition("/")
    parts = ((name, *name.rpartition("/")) for name in models)
    return [name for name, same, _, old in parts if same == embedder and old.isdecimal() and int(old) < int(recipe)]


def _name(model: str) -> str:
    return f"vectors/{model}"


async def encoded(embedder: Embedder, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
    """Return the vectors of the texts, and their packed token vectors: empty where the embedder has none."""
    if isinstance(embedder, TokenEmbedder):
        return await embedder.encode(texts)
    return await embedder.embed(texts), [b""] * len(texts)


def header(record: Record) -> str:
    """Return who and when. A bare role says nothing of what was meant, and would only pull the vectors together."""
    at = record.at
    when = f"[{at.day} {at:%b} {at.year}] " if at else ""
    return f"{when}{record.body.name}: " if isinstance(record.body, Message) and record.body.name else when


def passages(text: str) -> list[str]:
    """Return the text in passages short enough for the model, cut where sentences end, nothing left out."""
    if weight(text) <= PASSAGE:
        return [text]
    found, current = list[str](), ""
    for sentence in _sentences(text):
        if current and weight(current) + weight(sentence) > PASSAGE:
            found.append(current)
            current = ""
        current = f"{current} {sentence}" if current else sentence
        if len(found) >= PASSAGES_MAX:
            return found
    return [*found, current] if current else found


def _sentences(text: str) -> list[str]:
    room = PASSAGE // 3
    return [
        piece
        for sentence in _BREAK.split(text[: PASSAGES_MAX * PASSAGE])
        if sentence.strip()
        for piece in ([sentence] if weight(sentence) <= PASSAGE else _cut(sentence, room))
    ]


def _cut(text: str, room: int) -> list[str]:
    return [text[place : place + room] for place in range(0, len(text), room)]


def weight(text: str) -> int:
    return len(text) if text.isascii() else len(text) + 2 * len(_WIDE.findall(text))
