"""Gives every record its vectors: who and when and what it says, as the embedder sees it.

The follower's name holds the model and this recipe, so a change of either is another follower that starts at 0, beside
the old one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..embedder import TOKEN_BYTES, Embedder, TokenEmbedder
from ..follow import live
from ..kinds import Message
from ..record import Record
from ..store import Batch, Change, Embedding, Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECIPE = 2
PASSAGE = 1_000  # weight of one passage: about 250 tokens, of the 512 that small models read
PASSAGES_MAX = 128  # a longer text is found by its words beyond this
TOKENS_MAX = 128  # of a text's tokens, from its beginning, that are kept for weighing it
_BREAK = re.compile(r"(?<=[.!?。!?])\s+|\n+")
_WIDE = re.compile(r"[^\x00-\u024f]")  # outside Latin a character is about a token of its own


class Vectors:
    kinds: frozenset[str] | None = None

    def __init__(self, embedder: Embedder) -> None:
        self.model = f"{embedder.name}/{RECIPE}"
        self.name = f"vectors/{self.model}"
        self._embedder = embedder

    async def follow(self, changes: Sequence[Change], store: Store) -> Batch:
        records = [record for record in await live(changes, store) if record.text.strip()]
        parts = [[f"{header(record)}{passage}" for passage in passages(record.text)] for record in records]
        vectors, tokens = await encoded(self._embedder, [text for texts in parts for text in texts])
        return Batch(embeddings=tuple(self._embeddings(records, parts, vectors, tokens)))

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
