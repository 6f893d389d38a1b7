"""What a recall reads from, and how much of it. Nothing here needs numpy, so that a program starts without it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from ..embedder import Embedder
from ..index import Index
from ..query import Hit
from ..store import Store


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is looked at: candidates by meaning and by words, and how many of the likeliest are looked at with the
    turns around them, and word by word.
    """

    near: int
    words: int
    around: int
    late: int


EFFORTS = {
    "low": Effort(near=60, words=60, around=0, late=0),
    "medium": Effort(near=100, words=100, around=60, late=100),
    "high": Effort(near=250, words=250, around=200, late=300),
}


@dataclass(frozen=True, slots=True)
class Means:
    """What recall reads from. Without an index and an embedder, it goes by words alone and says so."""

    store: Store
    index: Index | None
    embedder: Embedder | None
    model: str = ""  # the name under which the store keeps the vectors


WORDS_ALONE = "no embedder is set: found by words alone"  # the one note that is about the settings, not about a moment


class Hits(list[Hit]):
    """Hits, best first. `notes` says what fell back, and why; `until` when something ends that was looked at."""

    notes: tuple[str, ...] = ()
    until: datetime | None = None

    def noting(self, *notes: str | None) -> Self:
        self.notes += tuple(note for note in notes if note)
        return self
