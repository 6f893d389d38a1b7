"""Finds the records whose vectors lie near. It can always be rebuilt from the store.

To add an index, add one file to `indexes/` and run the suite in `testing/indexes.py` against it. It is opened as
`open(url, store, model, dimension)` and reads what it needs from the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .query import Query
from .record import Record, Scope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Index(Protocol):
    """The index proposes, the store disposes: what is answered matches the query now, whatever the index remembers."""

    async def near(self, query: Query, vector: NDArray[np.float32], limit: int) -> list[tuple[Record, float]]:
        """Return the matching records nearest to the unit vector, with their cosine, best first.

        A record with several vectors counts with its nearest. Fewer than `limit` only where fewer match.
        """
        ...

    async def catch_up(self, scope: Scope) -> None:
        """Take in what the store has gained, and leave no byte of what it has erased."""
        ...

    async def check(self) -> list[str]:
        """Return what is wrong with the index's own files; a complaint is mended by `rebuild`."""
        ...

    async def rebuild(self) -> int:
        """Throw everything away and make it again from the store; return how many vectors."""
        ...

    async def close(self) -> None: ...
